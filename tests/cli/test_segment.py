import argparse

import numpy as np
import pytest
from PIL import Image

from pna.cli import main, segment
from pna.inference import predictor
from pna.model.presets import create_model
from tiny_segmenter import by_brightness


@pytest.fixture
def photos(tmp_path):
    """A folder with three images (one of another suffix), a text file and a folder inside."""
    folder = tmp_path / "photos"
    (folder / "inside").mkdir(parents=True)
    for name in ("b.png", "a.jpg", "c.TIF", "inside/d.png"):
        write_image(folder / name)
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs the command on a tiny model, into `tmp_path / "out"` unless told otherwise."""
    model = by_brightness()
    monkeypatch.setattr(segment, "load_model", lambda args: model)

    def run_on(*arguments, out=tmp_path / "out"):
        words = [*map(str, arguments), "-o", str(out), "--device", "cpu"]
        return main(["segment", *words])

    return run_on


def write_image(path, size=(12, 16)):
    image = np.zeros((*size, 3), dtype=np.uint8)
    image[:, size[1] // 2 :] = 255
    Image.fromarray(image).save(path)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestRun:
    def test_tiles_scales_and_flip(self, run, photos, tmp_path):
        """A large image in tiles, at two scales and mirrored."""
        tiling = ("--tile", "8,8", "--overlap", "0.5", "--scales", "1,1.5", "--flip")
        assert run(photos / "b.png", "--stages", "--scores", *tiling) == 0
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
    def test_unreadable_tiling(self, run, photos, words, message, capsys):
        with pytest.raises(SystemExit) as end:
            run(photos / "b.png", *words)
        assert end.value.code == 2
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

    def test_broken_image_is_reported_and_the_rest_goes_on(self, run, photos, tmp_path, capsys):
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
        assert captured.err.endswith("1 of 3 images failed\n")
        assert captured.out.count("\n") == 2

    def test_batches_are_reported_in_the_order_of_the_files(self, run, photos, tmp_path, capsys):
        write_image(photos / "bb.png", (5, 7))
        (photos / "bc.png").write_text("no image")
        assert run(photos, "--batch", "2") == 1
        captured = capsys.readouterr()
        lines = [line.partition(":")[0] for line in captured.out.splitlines()]
        assert lines == [
            f"[{n}/5] {photos / name}"
            for n, name in ((1, "a.jpg"), (2, "b.png"), (3, "bb.png"), (5, "c.TIF"))
        ]
        assert f"[4/5] {photos / 'bc.png'}: failed: can't read" in captured.err
        with Image.open(tmp_path / "out" / "bb_labels.png") as labels:
            assert labels.size == (7, 5)
        assert run(photos, "--batch", "0") == 2
        assert "expected batches of at least 1 image" in capsys.readouterr().err

    def test_a_large_image_is_told_of_the_option(self, run, photos, monkeypatch, capsys):
        monkeypatch.setattr(predictor, "LARGEST_WHOLE", 100)
        assert run(photos / "b.png") == 1
        err = capsys.readouterr().err
        assert "b.png: failed: the image has 16 x 12 pixels, too many to be run whole" in err
        assert "on the command line: --tile 512,512" in err
        assert run(photos / "b.png", "--tile", "8,8") == 0

    def test_a_defect_keeps_its_traceback(self, run, photos, monkeypatch):
        monkeypatch.setattr(segment, "load_model", lambda args: by_brightness().classify)
        with pytest.raises(AttributeError, match="mean"):
            run(photos / "b.png")

    def test_files_of_other_endings_are_named(self, run, photos, capsys):
        write_image(photos / "d.jfif")
        write_image(photos / "e.gif")
        assert run(photos) == 0
        captured = capsys.readouterr()
        assert captured.err.startswith("left out d.jfif, e.gif, notes.txt: not ending in .jpg, ")
        assert captured.out.count("\n") == 3
        assert run(photos / "d.jfif") == 0
        assert capsys.readouterr().err == ""

    def test_point_outside_one_image(self, run, photos, capsys):
        write_image(photos / "b.png", size=(40, 40))
        assert run(photos, "--similar", "30,30") == 1
        err = capsys.readouterr().err
        assert "failed: the pixel (x, y) = (30, 30) lies outside the image of 16 x 12" in err

    def test_same_stem_is_refused_before_any_work(self, run, photos, tmp_path, capsys):
        write_image(photos / "inside" / "B.jpg")  # many file systems take B for b
        assert run(photos, photos / "inside") == 2
        names = f"{photos / 'b.png'} and {photos / 'inside' / 'B.jpg'}"
        assert capsys.readouterr().err.startswith(f"pna segment: {names} would both be written")
        assert not (tmp_path / "out").exists()

    def test_out_among_the_images_is_refused(self, run, photos, capsys):
        assert run(photos, out=photos) == 2
        assert capsys.readouterr().err.startswith(f"pna segment: --out {photos} holds the image")


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (255, 257), (511, 640)])
def test_any_size_comes_out_at_its_own(size, tmp_path):
    write_image(tmp_path / "image.png", size)
    create_model("lite", num_classes=21, encoder_weights=None).save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    words = ["--model", str(tmp_path / "model"), "--stages", "--similar", "0,0", "-o", str(out)]
    assert main(["segment", str(tmp_path / "image.png"), *words, "--device", "cpu"]) == 0
    kinds = ("labels", "overlay", "similar", "stages")
    assert names(out) == [f"image_{kind}.png" for kind in kinds]
    for kind in ("labels", "overlay"):
        with Image.open(out / f"image_{kind}.png") as image:
            assert image.size == size[::-1]


class TestPoint:
    def test_reads(self):
        assert segment.parse_point("120,80") == (120, 80)

    @pytest.mark.parametrize("text", ["120", "1,2,3", "a,b", ""])
    def test_refuses(self, text):
        with pytest.raises(argparse.ArgumentTypeError, match="expected a pixel as X,Y"):
            segment.parse_point(text)
