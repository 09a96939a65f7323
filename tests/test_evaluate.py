import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from greys import GREYS, Greys
from pna.cli import evaluate as command
from pna.data import VOC2012, DataError
from pna.data.synthetic import write_folder, write_trans10k, write_voc
from pna.evaluate import evaluate
from pna.labels import TRANS10K, VOC, LabelSpace, generic
from pna.metrics import SegmentationScores
from pna.model.presets import create_model
from pna.predict import stage_labels
from pna.views import Views
from tiny_segmenter import TinySegmenter, by_brightness


def test_scores_every_stage_of_every_picture():
    model, dataset = by_brightness(GREYS), Greys()
    report = evaluate(model, dataset, progress=False)
    assert list(report.stages) == ["P0", "P1", "P2"]
    assert report.final.miou == 1.0
    assert report.final.boundary_miou == 1.0
    assert report.stages["P0"].miou < report.stages["P1"].miou < 1

    by_hand = SegmentationScores(3, scored=(0, 2))
    for index in range(3):
        sample = dataset.load(index)
        coarse = model.eval()(sample.picture[None]).coarse
        logits = model.upsample(coarse, sample.labels.shape)
        by_hand.update(logits.argmax(1)[0], sample.labels)
    assert report.stages["P0"] == by_hand.compute()


def test_counts_pictures_and_ignored_pixels():
    report = evaluate(by_brightness(GREYS), Greys(), progress=False)
    assert (report.num_pictures, report.num_available) == (3, 3)
    assert report.ignored_share == pytest.approx((14 + 13 + 12) / (9 * 14 + 13 * 13 + 17 * 12))


def test_limit_takes_the_first():
    report = evaluate(by_brightness(GREYS), Greys(), limit=2, progress=False)
    alone = evaluate(by_brightness(GREYS), Greys(num_pictures=2), progress=False)
    assert report.stages == alone.stages
    assert (report.num_pictures, report.num_available) == (2, 3)
    assert "the first 2 of 3 pictures" in report.table()


def test_model_without_stages_is_scored_as_p0():
    report = evaluate(by_brightness(GREYS, num_stages=0), Greys(), progress=False)
    assert list(report.stages) == ["P0"]
    assert report.final is report.stages["P0"]


def test_restores_the_mode_of_every_module():
    model = by_brightness(GREYS).train()
    model.classify.eval()  # frozen, as a batch norm may be
    evaluate(model, Greys(), progress=False)
    assert model.training
    assert model.drop.training
    assert not model.classify.training


def test_restores_the_mode_after_an_error():
    class Broken(Greys):
        def load(self, index):
            raise OSError("gone")

    model = by_brightness(GREYS).train()
    with pytest.raises(OSError, match="gone"):
        evaluate(model, Broken(), progress=False)
    assert model.training


def test_a_bad_picture_ends_it_by_default():
    with pytest.raises(DataError, match=r"grey1\.png"):
        evaluate(by_brightness(GREYS), Greys(bad=(1,)), progress=False)


def test_bad_pictures_are_left_out_and_listed():
    report = evaluate(by_brightness(GREYS), Greys(bad=(1,)), skip_bad=True, progress=False)
    assert (report.num_pictures, report.num_available) == (2, 3)
    assert report.unreadable == ("mask grey1.png: nothing in it",)
    pixels = report.final.num_pixels + report.final.num_ignored
    assert pixels == 9 * 14 + 17 * 12
    table = report.table()
    assert "**Greys**: 3 pictures, 1 of them left out, " in table
    assert table.endswith(
        "Left out, because they can't be read:\n\n- mask grey1.png: nothing in it"
    )
    assert report.to_dict()["unreadable"] == ["mask grey1.png: nothing in it"]
    limited = evaluate(
        by_brightness(GREYS), Greys(bad=(1,)), skip_bad=True, limit=2, progress=False
    )
    assert "the first 2 of 3 pictures, 1 of them left out" in limited.table()


def test_nothing_but_bad_pictures_is_an_error():
    class Broken(Greys):
        def load(self, index):
            raise DataError(f"grey{index}.png: nothing in it")

    with pytest.raises(DataError, match=r"none of 3 samples can be read. The first: grey0\.png"):
        evaluate(by_brightness(GREYS), Broken(), skip_bad=True, progress=False)


def test_boundary_width_is_handed_on():
    report = evaluate(by_brightness(GREYS), Greys(), boundary_width=1, progress=False)
    assert report.final.boundary_width == 1
    assert "boundary mIoU (1 px)" in report.table()


def test_class_counts_must_agree():
    with pytest.raises(ValueError, match=r"greys\) has 3 classes, the model has 4"):
        evaluate(TinySegmenter(generic(4)), Greys(), progress=False)


@pytest.mark.parametrize(
    ("num_pictures", "limit", "message"), [(3, 0, "at least 1"), (0, None, "holds no pictures")]
)
def test_nothing_to_score(num_pictures, limit, message):
    with pytest.raises(ValueError, match=message):
        evaluate(by_brightness(GREYS), Greys(num_pictures=num_pictures), limit=limit)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_views_are_applied_and_reported():
    whole = evaluate(by_brightness(GREYS), Greys(), progress=False)
    views = Views(tile=(6, 6), flip=True)
    report = evaluate(by_brightness(GREYS), Greys(), views=views, progress=False)
    assert list(report.stages) == ["P0", "P1", "P2"]
    assert report.stages["P0"] != whole.stages["P0"]
    assert report.final.miou == 1.0  # a pixel alone decides there
    assert report.final.num_pixels == whole.final.num_pixels
    assert "Looked at: tiles of 6x6 that share 25 %, mirrored too." in report.table()
    data = json.loads(json.dumps(report.to_dict()))
    assert data["views"] == {"tile": [6, 6], "overlap": 0.25, "scales": [1.0], "flip": True}
    assert data["num_ignored"] == 39


@pytest.mark.parametrize("world_size", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_processes_find_what_one_finds(world_size, tmp_path):
    """Also where the number of processes doesn't divide that of the pictures, or exceeds it."""
    script = Path(__file__).with_name("evaluate_in_processes.py")
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), str(world_size), str(tmp_path)])
        for rank in range(world_size)
    ]
    assert [process.wait() for process in processes] == [0] * world_size
    for rank in range(world_size):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for num_pictures in (2, 7):
            dataset = Greys(num_pictures=num_pictures, bad=(1,))
            one = evaluate(by_brightness(GREYS), dataset, skip_bad=True, progress=False)
            assert found[f"report of {num_pictures}"] == json.loads(json.dumps(one.to_dict()))
        assert found["error"] == "mask grey1.png: nothing in it"
        assert found["confusion"] == confusion_of_one().tolist()


def confusion_of_one():
    scores, model, dataset = SegmentationScores(3), by_brightness(GREYS).eval(), Greys()
    for index in range(3):
        sample = dataset.load(index)
        scores.update(stage_labels(model, sample.picture[None]).stages[0][0], sample.labels)
    return scores.confusion


class TestReport:
    @pytest.fixture
    def report(self):
        # A fourth class that never occurs: its IoU is NaN.
        labels = LabelSpace(
            "greys", (*GREYS.classes, "glare"), (*GREYS.colors, (1, 2, 3)), (0, 2, 3)
        )
        return evaluate(by_brightness(labels), Greys(labels), model_name="tiny", progress=False)

    def test_table(self, report):
        lines = report.table().splitlines()
        assert lines[0].startswith("**tiny on Greys**: 3 pictures, 39 pixels ignored (7.82 %).")
        assert lines[2] == "Looked at: whole pictures."
        assert "Classes in the mean: 3 of 4: dark, bright, glare." in lines[4]
        lines = lines[2:]
        assert cells(lines[4]) == ["stage", "mIoU", "boundary mIoU (3 px)", "pixel accuracy"]
        assert cells(lines[8]) == ["P2", "100.00", "100.00", "100.00"]
        assert cells(lines[10]) == ["class IoU", "P0", "P1", "P2"]
        assert cells(lines[13])[0] == "grey (not in the mean)"
        assert cells(lines[15]) == ["glare", "–", "–", "–"]
        assert len({len(line) for line in lines[4:9]}) == 1  # aligned

    def test_save(self, report, tmp_path):
        report.save(tmp_path / "new" / "folder")
        folder = tmp_path / "new" / "folder"
        assert sorted(p.name for p in folder.iterdir()) == [
            "scores.json",
            "scores.md",
            "scores.png",
        ]
        assert (folder / "scores.md").read_text(encoding="utf-8") == report.table() + "\n"
        with Image.open(folder / "scores.png") as image:
            assert image.format == "PNG"
            assert image.width > 800

    def test_json_holds_everything(self, report, tmp_path):
        report.save(tmp_path)
        data = json.loads((tmp_path / "scores.json").read_text())
        assert data["model"] == "tiny"
        assert data["versions"]["torch"] == torch.__version__
        assert data["scored_classes"] == ["dark", "bright", "glare"]
        assert LabelSpace.from_dict(data["labels"]) == report.labels
        assert data["stages"]["P2"]["iou"] == [1.0, 1.0, 1.0, None]
        assert data["stages"]["P0"]["miou"] == report.stages["P0"].miou
        assert math.isnan(report.final.iou[3])

    def test_replaces_an_older_report(self, report, tmp_path):
        (tmp_path / "scores.json").write_text("old")
        report.save(tmp_path)
        assert json.loads((tmp_path / "scores.json").read_text())["num_pictures"] == 3

    def test_figure_of_a_single_stage(self, tmp_path):
        evaluate(by_brightness(GREYS, num_stages=0), Greys(), progress=False).save(tmp_path)
        assert (tmp_path / "scores.png").stat().st_size > 5000


@pytest.fixture(scope="module")
def model():
    return create_model("lite", labels=VOC, pretrained=False)


class TestRealModel:
    def test_every_stage(self, model, tmp_path):
        dataset = VOC2012(write_voc(tmp_path, size=(50, 67)), split="val")
        report = evaluate(model.train(), dataset, progress=False)
        assert list(report.stages) == ["P0", "P1", "P2", "P3", "P4"]
        assert model.training
        pixels = {(s.num_pixels, s.num_ignored) for s in report.stages.values()}
        assert len(pixels) == 1
        assert sum(pixels.pop()) == 2 * 50 * 67

    def test_command(self, model, tmp_path, capsys):
        model.save_pretrained(tmp_path / "model")
        write_voc(tmp_path / "voc", size=(50, 67))
        given = {"model": tmp_path / "model", "root": tmp_path / "voc", "limit": 1}
        assert run(dataset="voc2012", split="val", out=tmp_path / "out", **given) == 0
        table = capsys.readouterr().out
        assert "the first 1 of 2 pictures" in table
        assert (tmp_path / "out" / "scores.md").read_text(encoding="utf-8") == table
        with pytest.raises(ValueError, match="Give --split"):
            run(dataset="voc2012", out=tmp_path / "out", **given)

    def test_command_scores_a_crf_behind_the_model(self, model, tmp_path, capsys):
        model.save_pretrained(tmp_path / "model")
        write_voc(tmp_path / "voc", size=(40, 50))
        given = {"model": tmp_path / "model", "root": tmp_path / "voc", "refine": "crf"}
        assert run(dataset="voc2012", split="val", out=tmp_path / "out", limit=1, **given) == 0
        data = json.loads((tmp_path / "out" / "scores.json").read_text())
        assert list(data["stages"]) == ["P0", "P1", "P2", "P3", "P4", "P5"]
        assert data["model"] == f"{tmp_path / 'model'} + crf"

    def test_command_scores_the_data_sets_of_the_paper(self, tmp_path):
        create_model("lite", labels=TRANS10K, pretrained=False).save_pretrained(tmp_path / "model")
        root = write_trans10k(tmp_path / "data", size=(40, 50))
        where = {"model": tmp_path / "model", "root": root, "out": tmp_path / "out"}
        assert run(dataset="trans10k", split="test-hard", **where) == 0
        data = json.loads((tmp_path / "out" / "scores.json").read_text())
        assert (data["dataset"], data["num_pictures"]) == ("Trans10k", 1)
        assert data["scored_classes"] == ["things", "stuff"]

    def test_command_skips_bad_pictures_on_request(self, model, tmp_path, capsys):
        model.save_pretrained(tmp_path / "model")
        write_folder(tmp_path / "data", VOC, num_pictures=2, size=(40, 40))
        (tmp_path / "data" / "masks" / "10001.png").write_bytes(b"nothing")
        where = {"model": tmp_path / "model", "root": tmp_path / "data", "out": tmp_path / "out"}
        with pytest.raises(DataError, match=r"10001\.png"):
            run(dataset="folder", **where)
        assert run("--skip-bad", dataset="folder", **where) == 0
        assert "1 of them left out" in capsys.readouterr().out

    def test_command_takes_the_classes_of_a_folder_from_the_model(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model")
        write_folder(tmp_path / "data", VOC, num_pictures=1, size=(40, 40))
        where = {"model": tmp_path / "model", "root": tmp_path / "data"}
        assert run(dataset="folder", out=tmp_path / "out", **where) == 0
        data = json.loads((tmp_path / "out" / "scores.json").read_text())
        assert (data["dataset"], data["labels"]["name"]) == ("Folder", "voc2012")

    def test_command_scores_listed_pictures_of_a_folder_with_colour_masks(self, model, tmp_path):
        model.save_pretrained(tmp_path / "model")
        root = write_folder(tmp_path / "data", VOC, num_pictures=3, size=(40, 40), masks="color")
        stems = sorted(path.stem for path in (root / "masks").iterdir())
        (tmp_path / "stems.txt").write_text("\n".join(stems[1:]))
        chosen = {"split_list": tmp_path / "stems.txt", "masks": "color"}
        where = {"model": tmp_path / "model", "root": root}
        assert run(dataset="folder", out=tmp_path / "out", **where, **chosen) == 0
        assert json.loads((tmp_path / "out" / "scores.json").read_text())["num_pictures"] == 2


def run(*flags, **options):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = [
        word
        for name, value in options.items()
        for word in (f"--{name.replace('_', '-')}", str(value))
    ]
    return command.run(parser.parse_args([*flags, *words, "--device", "cpu"]))
