"""`pna evaluate`, by its arguments and its files."""

import json

import numpy as np
import pytest
from PIL import Image

from pna.cli import main
from pna.data import Trans10k
from pna.data.synthetic import write_folder, write_trans10k, write_voc
from pna.labels import TRANS10K, VOC
from pna.model.presets import create_model

SIZE = (40, 50)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a saved model for Pascal VOC's classes."""
    folder = tmp_path_factory.mktemp("model")
    create_model("lite", labels=VOC, encoder_weights=None).save_pretrained(folder)
    return folder


@pytest.fixture
def run(tmp_path):
    """Runs the command; returns its exit status."""

    def run_with(*arguments):
        words = map(str, [*arguments, "-o", tmp_path / "out"])
        return main(["evaluate", *words, "--device", "cpu", "--workers", "0"])

    return run_with


def scores(tmp_path):
    return json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))


def test_the_table_is_printed_and_written(run, model, tmp_path, capsys):
    root = write_voc(tmp_path / "voc", size=SIZE)
    where = ("--model", model, "--dataset", "voc2012", "--root", root)
    assert run(*where, "--split", "val", "--limit", 1, "--tile", "32,32") == 0
    table = capsys.readouterr().out
    assert "the first 1 of 2 images" in table
    assert (tmp_path / "out" / "scores.md").read_text(encoding="utf-8") == table
    assert list(scores(tmp_path)["stages"]) == ["P0", "P1", "P2", "P3", "P4"]
    assert scores(tmp_path)["tiling"]["tile"] == [32, 32]
    assert run(*where) == 2
    assert "Give --split" in capsys.readouterr().err


def test_bad_images_are_left_out_on_request(run, model, tmp_path, capsys):
    root = write_folder(tmp_path / "data", VOC, num_images=2, size=SIZE)
    (root / "masks" / "10001.png").write_bytes(b"nothing")
    where = ("--model", model, "--dataset", "folder", "--root", root)
    assert run(*where) == 2
    assert "10001.png" in capsys.readouterr().err
    assert run(*where, "--skip-bad") == 0
    assert "1 of them left out" in capsys.readouterr().out
    # A folder does not name its classes; the model does.
    assert scores(tmp_path)["labels"]["name"] == "voc2012"


def test_listed_images_of_a_folder_with_color_masks(run, model, tmp_path):
    root = write_folder(tmp_path / "data", VOC, num_images=3, size=SIZE, masks="color")
    (tmp_path / "stems.txt").write_text("10001\n10002\n")
    chosen = ("--split-list", tmp_path / "stems.txt", "--masks", "color")
    assert run("--model", model, "--dataset", "folder", "--root", root, *chosen) == 0
    assert scores(tmp_path)["num_images"] == 2


class TestPredictions:
    def test_a_data_set_of_the_paper(self, run, tmp_path):
        root = write_trans10k(tmp_path / "data", size=SIZE)
        found = tmp_path / "found"
        found.mkdir()
        for sample in Trans10k(root, "test-hard"):
            labels = sample.labels.numpy().astype(np.uint8)
            Image.fromarray(labels).save(found / f"{sample.name}_labels.png")
        where = ("--dataset", "trans10k", "--root", root, "--split", "test-hard")
        assert run("--predictions", found, *where) == 0
        found = scores(tmp_path)
        assert (found["dataset"], found["model"], found["num_images"]) == ("Trans10k", "found", 1)
        assert found["scored_classes"] == ["things", "stuff"]
        assert found["stages"]["prediction"]["miou"] == 1

    def test_a_folder_with_an_ignored_value(self, run, tmp_path, capsys):
        root = write_folder(tmp_path / "data", TRANS10K, num_images=2, size=SIZE)
        where = ("--predictions", root / "masks", "--dataset", "folder", "--root", root)
        assert run(*where) == 2
        assert "need --labels" in capsys.readouterr().err
        assert run(*where, "--labels", "trans10k", "--ignore", "2") == 0
        assert scores(tmp_path)["classes_in_mean"] == ["things"]
        assert scores(tmp_path)["num_ignored"] > 0

    def test_one_of_the_two(self, run, model, tmp_path, capsys):
        with pytest.raises(SystemExit):
            run("--predictions", tmp_path, "--model", model, "--dataset", "voc2012", "--root", ".")
        assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "voc", "--root", "."], "no data set 'voc': expected one of voc2012"),
        (["--dataset", "camvid", "--root", "."], "which part of the data set is to be scored?"),
        (
            ["--dataset", "camvid", "--root", ".", "--split", "val", "--ignore", "0"],
            "--ignore is for --dataset folder; camvid has classes",
        ),
        (["--dataset", "folder", "--root", ".", "--flip"], "--tile, --scales and --flip are for"),
        (["--dataset", "folder", "--root", "."], "--predictions on --dataset folder need --labels"),
    ],
)
def test_options_that_do_not_go_together(run, words, message, tmp_path, capsys):
    assert run("--predictions", tmp_path, *words) == 2
    assert capsys.readouterr().err.startswith(f"pna evaluate: {message}")


@pytest.mark.parametrize("value", ["black", "1,2", "1,2,3,4", ""])
def test_an_unreadable_ignored_value(run, value, tmp_path, capsys):
    with pytest.raises(SystemExit):
        run("--model", "voc-lite", "--dataset", "folder", "--root", tmp_path, "--ignore", value)
    assert "expected a value such as 0, or a color such as 0,0,0" in capsys.readouterr().err
