"""`pna convert`: a checkpoint becomes a saved model that every command takes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import small_checkpoint
from pna.cli import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    state = small_checkpoint.state_of(small_checkpoint.small_model())
    classes = ("sky", "wall", "floor")
    content = {
        "state_dict": {f"module.{name}": x for name, x in state.items()},
        "meta": {"CLASSES": classes, "PALETTE": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]},
    }
    torch.save(content, folder / "own.pth")
    return folder / "own.pth"


def test_a_checkpoint_is_converted_and_segments(checkpoint, tmp_path, capsys):
    model = tmp_path / "model"
    assert main(["convert", str(checkpoint), "-o", str(model), "--upsample", "bilinear"]) == 0
    told = capsys.readouterr().out
    assert "fcn-pna on resnet50c, window 3" in told
    assert "classes: 3 (checkpoint-3): sky, wall, floor" in told
    assert "resized between stages: bilinear" in told
    assert "padding: none" in told
    config = json.loads((model / "config.json").read_text())
    assert config["model"]["pna"]["upsample"] == "bilinear"
    assert config["labels"]["colors"][1] == [4, 5, 6]
    Image.fromarray(np.zeros((40, 52, 3), np.uint8)).save(tmp_path / "a.png")
    words = [str(tmp_path / "a.png"), "--model", str(model), "-o", str(tmp_path / "out")]
    assert main(["segment", *words, "--stages", "--device", "cpu"]) == 0
    with Image.open(tmp_path / "out" / "a_labels.png") as labels:
        assert labels.size == (52, 40)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "voc2012"], "own.pth: expected 21 outputs, as trained on voc2012, got 3"),
        (["--labels", "camvid"], "own.pth: the checkpoint has 3 outputs, labels 'camvid' have 11"),
        (["--rates", "6,12"], "own.pth: expected rates for 0 dilated branches, got (6, 12)"),
        (["--pool-window", "32"], "expected pool_window as a height and a width in cells"),
    ],
)
def test_what_does_not_fit_names_the_file(checkpoint, tmp_path, capsys, words, message):
    assert main(["convert", str(checkpoint), "-o", str(tmp_path / "model"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_weights_that_are_no_numbers(checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    name = next(k for k, x in content["state_dict"].items() if x.is_floating_point())
    content["state_dict"][name].fill_(torch.nan)
    torch.save(content, tmp_path / "bad.pth")
    words = [str(tmp_path / "bad.pth"), "-o", str(tmp_path / "model"), "--upsample", "bilinear"]
    assert main(["convert", *words]) == 2
    assert "bad.pth: 1 weights hold infinite values or none (NaN)" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_other_names_than_outputs(checkpoint, tmp_path, capsys):
    content = torch.load(checkpoint, weights_only=True)
    content["meta"]["CLASSES"] = ("sky", "wall")
    torch.save(content, tmp_path / "two.pth")
    words = [str(tmp_path / "two.pth"), "-o", str(tmp_path / "model")]
    assert main(["convert", *words]) == 2
    assert "names 2 classes (sky, wall) and has 3 outputs: pass the" in capsys.readouterr().err


def test_a_file_in_place_of_the_folder(checkpoint, tmp_path, capsys):
    (tmp_path / "photo.jpg").write_bytes(b"a photo")
    assert main(["convert", str(checkpoint), "-o", str(tmp_path / "photo.jpg")]) == 2
    assert "photo.jpg is a file, expected a folder for the model" in capsys.readouterr().err
    assert (tmp_path / "photo.jpg").read_bytes() == b"a photo"


def test_no_file(tmp_path, capsys):
    assert main(["convert", str(tmp_path / "none.pth"), "-o", str(tmp_path)]) == 2
    assert "pna convert: no checkpoint at" in capsys.readouterr().err


def test_numbers(capsys):
    with pytest.raises(SystemExit):
        main(["convert", "a.pth", "-o", "b", "--multi-grid", "1,x"])
    assert "expected whole numbers with commas between them" in capsys.readouterr().err
