"""Files of a command: finding them, and working on one after the other."""

import numpy as np
import pytest
from PIL import Image

from pna.cli.batch import check_names, expand, find_images, run_each
from pna.errors import MissingFileError, PnaError


@pytest.fixture
def photos(tmp_path):
    """A folder with three images (one of another suffix), a text file and a folder inside."""
    folder = tmp_path / "photos"
    (folder / "inside").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "c.TIF", "inside/d.png"):
        write_image(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


def write_image(path):
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(path)


class TestRunEach:
    def test_one_that_fails_does_not_stop_the_others(self, capsys):
        def work(number):
            if number == 2:
                raise PnaError("two is even")
            return f"did {number}"

        status = run_each(
            [1, 2, 3], work, noun="numbers", debug=False, hint=lambda error: "; leave it out"
        )
        captured = capsys.readouterr()
        assert status == 1
        assert captured.out == "[1/3] 1: did 1\n[3/3] 3: did 3\n"
        assert captured.err == "[2/3] 2: failed: two is even; leave it out\n1 of 3 numbers failed\n"
        with pytest.raises(PnaError, match="^two is even"):
            run_each([2], work, noun="numbers", debug=True)

    def test_all_well(self, capsys):
        assert run_each(["a"], str.upper, noun="letters", debug=False, name=lambda one: 7) == 0
        assert capsys.readouterr() == ("[1/1] 7: A\n", "")

    @pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), OSError("without a file")])
    def test_a_defect_is_not_caught(self, error):
        def work(item):
            raise error

        with pytest.raises(type(error)):
            run_each([1], work, noun="numbers", debug=False)


class TestCheckNames:
    def test_any_of_the_endings_may_meet(self, tmp_path):
        paths = [tmp_path / "a.png", tmp_path / "A_compare.png"]
        options = {"verb": "refine", "noun": "mask"}
        check_names(paths, tmp_path / "out", endings=(".*",), **options)
        message = (
            r"a\.png and .*A_compare\.png would both be written to .*out/A_compare\.\*; refine"
        )
        with pytest.raises(PnaError, match=message):
            check_names(paths, tmp_path / "out", endings=(".*", "_compare.*"), **options)

    def test_out_among_the_inputs(self, tmp_path):
        with pytest.raises(
            PnaError, match=r"holds the mask a\.png: results would be taken for masks"
        ):
            check_names([tmp_path / "a.png"], tmp_path, endings=(), verb="refine", noun="mask")


def test_other_endings_may_be_asked_for(photos):
    found, others = expand(str(photos), noun="note", suffixes=(".txt", ".md"))
    assert [path.name for path in found] == ["notes.txt"]
    assert [path.name for path in others] == ["a.jpg", "b.png", "c.TIF"]
    with pytest.raises(
        MissingFileError, match=r"^no notes in the folder .*: expected files ending "
    ):
        expand(str(photos / "inside"), noun="note", suffixes=(".txt", ".md"))


class TestFindImages:
    def test_folder_is_not_searched_below(self, photos):
        images, others = find_images([str(photos)])
        assert [path.name for path in images] == ["a.jpg", "b.png", "c.TIF"]
        assert [path.name for path in others] == ["notes.txt"]

    def test_pattern(self, photos):
        found, others = find_images([str(photos / "*.*"), str(photos / "inside" / "?.png")])
        assert [path.name for path in found] == ["a.jpg", "b.png", "c.TIF", "d.png"]
        assert [path.name for path in others] == ["notes.txt"]

    def test_a_file_that_is_named_too_is_not_left_out(self, photos):
        found, others = find_images([str(photos), str(photos / "notes.txt")])
        assert found[-1] == photos / "notes.txt"
        assert others == []

    def test_an_image_named_twice_is_taken_once(self, photos):
        found, _ = find_images([str(photos / "b.png"), str(photos)])
        assert [path.name for path in found] == ["b.png", "a.jpg", "c.TIF"]

    def test_brackets_in_a_real_name_are_no_pattern(self, photos):
        write_image(photos / "x[1].png")
        assert find_images([str(photos / "x[1].png")]) == ([photos / "x[1].png"], [])

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("nowhere.png", r"no image or folder at .*nowhere\.png"),
            ("photos/*.gif", r"no images match the pattern '.*\*\.gif'"),
            ("empty", "no images in the folder .*empty: expected files ending in .jpg"),
        ],
    )
    def test_nothing_found(self, photos, path, message):
        (photos.parent / "empty").mkdir()
        with pytest.raises(MissingFileError, match=rf"^{message}"):
            find_images([str(photos.parent / path)])
