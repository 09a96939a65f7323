import argparse

import numpy as np
import pytest
import torch
from PIL import Image

from pna.cli import main, segment
from pna.model.presets import create_model
from tiny_segmenter import by_brightness


@pytest.fixture
def photos(tmp_path):
    """A folder with three pictures (one of another suffix), a text file and a folder inside."""
    folder = tmp_path / "photos"
    (folder / "inside").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "c.TIF", "inside/d.png"):
        write_picture(folder / name)
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the command on a tiny model, into `tmp_path / "out"` unless told otherwise."""
    model = by_brightness()
    monkeypatch.setattr(segment, "load_model", lambda args: model)

    def run_on(*arguments, out=tmp_path / "out"):
        parser = argparse.ArgumentParser()
        segment.add_arguments(parser)
        words = [*map(str, arguments), "-o", str(out), "--device", "cpu"]
        return segment.run(parser.parse_args(words))

    return run_on


def write_picture(path, size=(12, 16)):
    picture = np.zeros((*size, 3), dtype=np.uint8)
    picture[:, size[1] // 2 :] = 255
    Image.fromarray(picture).save(path)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestRun:
    def test_views(self, run, photos, tmp_path):
        """A large picture in tiles, at two scales and mirrored."""
        views = ("--tile", "8,8", "--overlap", "0.5", "--scales", "1,1.5", "--flip")
        assert run(photos / "b.png", "--stages", "--scores", *views) == 0
        with np.load(tmp_path / "out" / "b_scores.npz") as saved:
            assert saved["scores"].shape == (3, 12, 16)
            assert set(saved["scores"].argmax(0).ravel().tolist()) == {0, 2}

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (("--tile", "8x8"), "expected a height and a width as H,W"),
            (("--scales", "half"), "expected factors with commas"),
        ],
    )
    def test_unreadable_views(self, run, photos, words, message, capsys):
        with pytest.raises(SystemExit):
            run(photos / "b.png", *words)
        assert message in capsys.readouterr().err

    def test_writes_labels_and_overlay(self, run, photos, tmp_path, capsys):
        assert run(photos / "b.png") == 0
        assert names(tmp_path / "out") == ["b_labels.png", "b_overlay.png"]
        with Image.open(tmp_path / "out" / "b_labels.png") as image:
            assert image.mode == "P"
            assert np.array_equal(np.array(image), np.repeat([[0] * 8 + [2] * 8], 12, axis=0))
        with Image.open(tmp_path / "out" / "b_overlay.png") as image:
            assert image.size == (16, 12)
        line = capsys.readouterr().out
        assert line.startswith("[1/1]")
        assert line.endswith("b.png: 16 x 12, class_0 50 %, class_2 50 %\n")

    def test_writes_everything_asked_for(self, run, photos, tmp_path):
        assert run(photos / "b.png", "--stages", "--similar", "3,4", "--scores") == 0
        kinds = ("labels.png", "overlay.png", "scores.npz", "similar.png", "stages.png")
        assert names(tmp_path / "out") == [f"b_{kind}" for kind in kinds]
        with np.load(tmp_path / "out" / "b_scores.npz") as data:
            assert data["scores"].shape == (3, 12, 16)
            assert data["scores"].dtype == np.float16
            assert data["classes"].tolist() == ["class_0", "class_1", "class_2"]

    def test_broken_picture_is_reported_and_the_rest_goes_on(self, run, photos, tmp_path, capsys):
        (photos / "b.png").write_bytes(b"broken")
        assert run(photos) == 1
        assert names(tmp_path / "out") == [
            "a_labels.png",
            "a_overlay.png",
            "c_labels.png",
            "c_overlay.png",
        ]
        captured = capsys.readouterr()
        assert "b.png: failed: can't read" in captured.err
        assert captured.err.endswith("1 of 3 pictures failed\n")
        assert captured.out.count("\n") == 2

    def test_too_little_memory_is_said(self, run, photos, monkeypatch, capsys):
        """The error of PyTorch's own allocator on a CPU, which is no type of its own."""

        def demand(*arguments, **settings):
            torch.empty(2**62, dtype=torch.uint8)

        monkeypatch.setattr("pna.predict.stage_labels", demand)
        assert run(photos / "b.png") == 1
        assert "memory doesn't suffice: look at it in tiles" in capsys.readouterr().err

    def test_point_outside_one_picture(self, run, photos, capsys):
        write_picture(photos / "b.png", size=(40, 40))
        assert run(photos, "--similar", "30,30") == 1
        assert "(30, 30) lies outside the picture of 16 x 12" in capsys.readouterr().err

    def test_same_stem_is_refused_before_any_work(self, run, photos, tmp_path):
        write_picture(photos / "inside" / "B.jpg")  # many file systems take B for b
        with pytest.raises(ValueError, match=r"b\.png and .*B\.jpg would both be written"):
            run(photos, photos / "inside")
        assert not (tmp_path / "out").exists()

    def test_out_among_the_pictures_is_refused(self, run, photos):
        with pytest.raises(ValueError, match="choose another folder"):
            run(photos, out=photos)


def test_real_model(photos, tmp_path):
    model = create_model("lite", num_classes=3, pretrained=False)
    model.save_pretrained(tmp_path / "model")
    parser = argparse.ArgumentParser()
    segment.add_arguments(parser)
    words = [photos / "b.png", "--model", tmp_path / "model", "-o", tmp_path / "out"]
    options = ["--stages", "--similar", "15,11", "--device", "cpu"]
    assert segment.run(parser.parse_args([*map(str, words), *options])) == 0
    kinds = ("labels", "overlay", "similar", "stages")
    assert names(tmp_path / "out") == [f"b_{kind}.png" for kind in kinds]


def test_refine_adds_a_stage(photos, tmp_path):
    model = create_model("lite-fcn", num_classes=3, pretrained=False)
    model.save_pretrained(tmp_path / "model")
    words = ["segment", photos / "b.png", "--model", tmp_path / "model", "--stages"]
    widths = []
    for name, options in (("plain", []), ("refined", ["--refine", "crf"])):
        out = tmp_path / name
        assert main([*map(str, words), "-o", str(out), "--device", "cpu", *options]) == 0
        with Image.open(out / "b_stages.png") as image:
            widths.append(image.width)
    assert widths[1] > widths[0]  # one panel more: P1


def test_refine_shows_no_similarity(photos, tmp_path, capsys):
    words = ["segment", photos / "b.png", "--similar", "1,1", "--refine", "crf", "-o", tmp_path]
    assert main([*map(str, words)]) == 2
    assert "--similar shows what PNA looks at" in capsys.readouterr().err


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (255, 257), (511, 640)])
def test_any_size_comes_out_at_its_own(size, tmp_path, monkeypatch):
    write_picture(tmp_path / "picture.png", size)
    model = create_model("lite", num_classes=21, pretrained=False)
    monkeypatch.setattr("pna.model.checkpoints.load", lambda name: model)
    out = tmp_path / "out"
    options = ["--stages", "--similar", "0,0", "-o", str(out)]
    assert main(["segment", str(tmp_path / "picture.png"), *options]) == 0
    for kind in ("labels", "overlay"):
        with Image.open(out / f"picture_{kind}.png") as image:
            assert image.size == size[::-1]


class TestFindPictures:
    def test_folder_is_not_searched_below(self, photos):
        assert [path.name for path in segment.find_pictures([str(photos)])] == [
            "a.jpg",
            "b.png",
            "c.TIF",
        ]

    def test_pattern(self, photos):
        found = segment.find_pictures([str(photos / "*.*"), str(photos / "inside" / "?.png")])
        assert [path.name for path in found] == ["a.jpg", "b.png", "c.TIF", "d.png"]

    def test_a_picture_named_twice_is_taken_once(self, photos):
        found = segment.find_pictures([str(photos / "b.png"), str(photos)])
        assert [path.name for path in found] == ["b.png", "a.jpg", "c.TIF"]

    def test_brackets_in_a_real_name_are_no_pattern(self, photos):
        write_picture(photos / "x[1].png")
        assert segment.find_pictures([str(photos / "x[1].png")]) == [photos / "x[1].png"]

    @pytest.mark.parametrize(
        ("path", "message"),
        [
            ("nowhere.png", r"no picture or folder at .*nowhere\.png"),
            ("photos/*.gif", r"no pictures match the pattern '.*\*\.gif'"),
            ("empty", "no pictures in the folder .*empty: expected files ending in .jpg"),
        ],
    )
    def test_nothing_found(self, photos, path, message):
        (photos.parent / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match=message):
            segment.find_pictures([str(photos.parent / path)])


class TestPoint:
    def test_reads(self):
        assert segment.parse_point("120,80") == (120, 80)

    @pytest.mark.parametrize("text", ["120", "1,2,3", "a,b", ""])
    def test_refuses(self, text):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a pixel as X,Y"):
            segment.parse_point(text)
