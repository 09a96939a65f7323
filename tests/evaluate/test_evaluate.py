import json
import math
import pickle
import re
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gray_dataset import GRAYS, Grays
from pna.data import VOC2012, DataError, DataWarning, Folder, create_dataset
from pna.data.synthetic import write_cityscapes, write_folder, write_voc
from pna.errors import MissingFileError, PnaError
from pna.evaluate import Report, evaluate, evaluate_predictions
from pna.inference.segment import stage_labels
from pna.inference.tiling import TilingConfig
from pna.labels import CITYSCAPES, VOC, LabelSpace, generic
from pna.metrics import SegmentationScores
from pna.model.config import InferenceSize
from pna.model.presets import create_model
from tiny_segmenter import TinySegmenter, by_brightness


def test_scores_every_stage_of_every_image():
    model, dataset = by_brightness(GRAYS), Grays()
    report = evaluate(model, dataset, progress=False)
    assert list(report.stages) == ["P0", "P1", "P2"]
    assert report.final.miou == 1.0
    assert report.final.boundary_miou == 1.0
    assert report.stages["P0"].miou < report.stages["P1"].miou < 1

    by_hand = SegmentationScores(3, scored=(0, 2))
    for index in range(3):
        sample = dataset[index]
        coarse = model.eval()(sample.image[None]).coarse
        logits = model.upsample(coarse, sample.labels.shape)
        by_hand.update(logits.argmax(1)[0], sample.labels)
    assert report.stages["P0"] == by_hand.compute()


def test_counts_images_and_ignored_pixels():
    report = evaluate(by_brightness(GRAYS), Grays(), progress=False)
    assert (report.num_images, report.num_available) == (3, 3)
    assert report.ignored_share == pytest.approx((14 + 13 + 12) / (9 * 14 + 13 * 13 + 17 * 12))


def test_limit_takes_the_first():
    report = evaluate(by_brightness(GRAYS), Grays(), limit=2, progress=False)
    alone = evaluate(by_brightness(GRAYS), Grays(num_images=2), progress=False)
    assert report.stages == alone.stages
    assert (report.num_images, report.num_available) == (2, 3)
    assert "the first 2 of 3 images" in report.table()


def test_model_without_stages_is_scored_as_p0():
    report = evaluate(by_brightness(GRAYS, num_stages=0), Grays(), progress=False)
    assert list(report.stages) == ["P0"]
    assert report.final is report.stages["P0"]


def test_a_model_of_its_own_size_says_so():
    model = by_brightness(GRAYS)
    model.inference_size = InferenceSize(8, 12)
    (remark,) = evaluate(model, Grays(), progress=False).remarks
    assert remark == f"images resized: {model.inference_size}"


def test_restores_the_mode_of_every_module():
    model = by_brightness(GRAYS).train()
    model.classify.eval()  # frozen, as a batch norm may be
    evaluate(model, Grays(), progress=False)
    assert model.training
    assert model.drop.training
    assert not model.classify.training


def test_restores_the_mode_after_an_error():
    class Broken(Grays):
        def __getitem__(self, index):
            raise OSError("gone")

    model = by_brightness(GRAYS).train()
    with pytest.raises(OSError, match="gone"):
        evaluate(model, Broken(), progress=False)
    assert model.training


def test_a_bad_image_ends_it_by_default():
    with pytest.raises(DataError, match=r"gray1\.png"):
        evaluate(by_brightness(GRAYS), Grays(bad=(1,)), progress=False)


def test_bad_images_are_left_out_and_listed():
    report = evaluate(by_brightness(GRAYS), Grays(bad=(1,)), skip_bad=True, progress=False)
    assert (report.num_images, report.num_available) == (2, 3)
    assert report.unreadable == ("mask gray1.png: nothing in it",)
    pixels = report.final.num_pixels + report.final.num_ignored
    assert pixels == 9 * 14 + 17 * 12
    table = report.table()
    assert "**Grays**: 3 images, 1 of them left out, " in table
    assert table.endswith(
        "Left out, because they can't be read:\n\n- mask gray1.png: nothing in it"
    )
    assert report.to_dict()["unreadable"] == ["mask gray1.png: nothing in it"]
    limited = evaluate(
        by_brightness(GRAYS), Grays(bad=(1,)), skip_bad=True, limit=2, progress=False
    )
    assert "the first 2 of 3 images, 1 of them left out" in limited.table()


def test_nothing_but_bad_images_is_an_error():
    class Broken(Grays):
        def __getitem__(self, index):
            raise DataError(f"gray{index}.png: nothing in it")

    with pytest.raises(DataError, match=r"none of 3 samples can be read. The first: gray0\.png"):
        evaluate(by_brightness(GRAYS), Broken(), skip_bad=True, progress=False)


def test_boundary_width_is_handed_on():
    report = evaluate(by_brightness(GRAYS), Grays(), boundary_width=1, progress=False)
    assert report.final.boundary_width == 1
    assert "boundary mIoU (1 px)" in report.table()


def test_workers_change_nothing():
    dataset, model = Grays(bad=(1,)), by_brightness(GRAYS)
    state = torch.get_rng_state()
    options = {"skip_bad": True, "progress": False}
    found = evaluate(model, dataset, num_workers=2, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert found == evaluate(model, dataset, **options)
    with pytest.raises(DataError, match=r"^mask gray1\.png: nothing in it$"):
        evaluate(model, dataset, num_workers=2, progress=False)


def test_workers_are_counted_from_zero():
    with pytest.raises(PnaError, match="^num_workers must be 0 or more, got -1"):
        evaluate(by_brightness(GRAYS), Grays(), num_workers=-1, progress=False)


class TestClassNames:
    """Model and data set have as many classes; are they the same ones?"""

    def score(self, *names, of=("dark", "gray", "bright")):
        spaces = [LabelSpace("x", some, GRAYS.colors) for some in (names, of)]
        return evaluate(by_brightness(spaces[0]), Grays(spaces[1]), progress=False)

    def test_numbers_must_agree(self):
        with pytest.raises(
            PnaError, match=r"^the dataset \(grays\) has 3 classes, the model has 4"
        ):
            evaluate(TinySegmenter(generic(4)), Grays(), progress=False)

    def test_a_model_may_have_further_classes(self):
        """Found by name; a pixel that gets a class of the model's own is an error."""
        names = ("unknown", "dark", "gray", "bright")
        space = LabelSpace("four", names, generic(4).colors)
        model = by_brightness(GRAYS)
        four = TinySegmenter(space)
        with torch.no_grad():
            # As `by_brightness`, one number later, and the first class never wins.
            four.classify.weight[1:] = model.classify.weight
            four.classify.bias[1:] = model.classify.bias
            four.classify.weight[0], four.classify.bias[0] = 0, -1e4
        expected = evaluate(model, Grays(), progress=False)
        report = evaluate(four, Grays(), progress=False)
        assert report.final.miou == expected.final.miou == 1.0
        assert report.labels.classes == names
        assert report.final.scored == (1, 3)
        assert report.stages["P0"].miou == expected.stages["P0"].miou
        with torch.no_grad():
            four.classify.bias[0] = 1e4
        assert evaluate(four, Grays(), progress=False).final.miou == 0

    @pytest.mark.parametrize(
        "names", [("bright", "gray", "dark"), ("dark", "bright", "gray"), ("a", "dark", "b")]
    )
    def test_another_order_is_refused(self, names):
        with pytest.raises(
            PnaError, match=r"^class '\w+' is \d in the dataset \(x\) and \d in the m"
        ):
            self.score(*names)

    def test_other_names_are_warned_of(self):
        message = (
            "^model and dataset differ in .*: class 1 is 'grey' in the model and 'gray' in the"
        )
        with pytest.warns(DataWarning, match=message):
            report = self.score("dark", "grey", "bright")
        assert report.final.miou == 1.0

    def test_case_spaces_and_composition_are_no_difference(self):
        decomposed = unicodedata.normalize("NFD", "café")
        report = self.score("Dark", "sign-symbol", decomposed, of=("dark", "sign symbol", "café"))
        assert report.final.miou == 1.0

    def test_classes_that_differ_in_a_sign_alone_are_two(self):
        assert self.score("a", "a?", "b", of=("a", "a?", "b")).final.miou == 1.0
        with pytest.raises(PnaError, match=r"^class 'a\?' is 0 in the dataset"):
            self.score("a", "a?", "b", of=("a?", "a", "b"))

    def test_generic_names_fit_all(self):
        report = evaluate(by_brightness(generic(3)), Grays(), progress=False)
        assert report.final.miou == 1.0


class Stray(Grays):
    """The brightest class is predicted, where the image has a bright spot, and never true."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        labels = sample.labels.clamp(max=1)
        labels[0] = 255
        image = labels.clamp(max=1).float().div(2).expand(3, -1, -1).clone()
        image[:, 4, 4] = 1.0  # one pixel: averaged away in the coarse output
        return sample._replace(image=image, labels=labels)


def test_every_stage_has_the_same_classes_in_its_mean():
    report = evaluate(by_brightness(generic(3)), Stray(generic(3)), progress=False)
    coarse, final = report.stages["P0"], report.final
    assert math.isnan(coarse.iou[2])
    assert final.iou[2] == 0
    assert {scores.in_mean for scores in report.stages.values()} == {(0, 1)}
    assert coarse.miou < final.miou  # with the stray class in the mean it would be the reverse
    assert final.miou == (final.iou[0] + final.iou[1]) / 2 > 0.98
    lines = report.table().splitlines()
    assert (
        "Classes in the mean: 2 of 3: class_0, class_1; not in the labels, so not in the mean: "
        "class_2." in lines
    )
    assert cells(lines[-1]) == ["class_2 (not in the mean)", "–", "–", "0.00"]


class Labeled(Grays):
    """Other labels under the images."""

    def __init__(self, labels, change):
        super().__init__(labels)
        self.change = change

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample._replace(labels=self.change(sample.labels))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda labels: torch.full_like(labels, 255), r"every pixel is ignored \(255\)"),
        (lambda labels: torch.where(labels > 0, 255, 0), r"besides 255 \(ignored\) only class 'da"),
    ],
    ids=["everything ignored", "masks of 0 and 255"],
)
def test_labels_that_score_nothing_are_remarked_on(change, message):
    with pytest.warns(DataWarning, match=f"^the labels of Labeled: {message}"):
        report = evaluate(by_brightness(GRAYS), Labeled(GRAYS, change), progress=False)
    assert re.match(message, report.remarks[0])
    assert report.remarks[0] in report.table()
    assert json.loads(json.dumps(report.to_dict()))["remarks"] == list(report.remarks)


@pytest.mark.parametrize(
    ("num_images", "limit", "message"), [(3, 0, "at least 1"), (0, None, "holds no images")]
)
def test_nothing_to_score(num_images, limit, message):
    with pytest.raises(ValueError, match=message):
        evaluate(by_brightness(GRAYS), Grays(num_images=num_images), limit=limit)


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_views_are_applied_and_reported():
    whole = evaluate(by_brightness(GRAYS), Grays(), progress=False)
    tiling = TilingConfig(tile=(6, 6), flip=True)
    report = evaluate(by_brightness(GRAYS), Grays(), tiling=tiling, progress=False)
    assert list(report.stages) == ["P0", "P1", "P2"]
    assert report.stages["P0"] != whole.stages["P0"]
    assert report.final.miou == 1.0  # a pixel alone decides there
    assert report.final.num_pixels == whole.final.num_pixels
    assert f"Inference: {tiling}." in report.table()
    data = json.loads(json.dumps(report.to_dict()))
    assert data["tiling"] == {"tile": [6, 6], "overlap": 0.25, "scales": [1.0], "flip": True}
    assert data["num_ignored"] == 39


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_find_what_one_finds(world_size, tmp_path):
    """Also where the number of processes doesn't divide that of the images, or exceeds it."""
    script = Path(__file__).parents[1] / "evaluate_in_processes.py"
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), str(world_size), str(tmp_path)])
        for rank in range(world_size)
    ]
    assert [process.wait() for process in processes] == [0] * world_size
    for rank in range(world_size):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for num_images in (1, 7):
            dataset = Grays(num_images=num_images, bad=(1,))
            one = evaluate(by_brightness(GRAYS), dataset, skip_bad=True, progress=False)
            assert found[f"report of {num_images}"] == json.loads(json.dumps(one.to_dict()))
        assert found["error"] == "mask gray1.png: nothing in it"
        assert found["confusion"] == confusion_of_one().tolist()


def confusion_of_one():
    scores, model, dataset = SegmentationScores(3), by_brightness(GRAYS).eval(), Grays()
    for index in range(3):
        sample = dataset[index]
        scores.update(stage_labels(model, sample.image[None]).stages[0][0], sample.labels)
    return scores.confusion


class TestReport:
    @pytest.fixture
    def report(self):
        # A fourth class that never occurs: its IoU is NaN.
        labels = LabelSpace(
            "grays", (*GRAYS.classes, "glare"), (*GRAYS.colors, (1, 2, 3)), (0, 2, 3)
        )
        return evaluate(by_brightness(labels), Grays(labels), model_name="tiny", progress=False)

    def test_table(self, report):
        lines = report.table().splitlines()
        assert lines[0].startswith("**tiny on Grays**: 3 images, 39 pixels ignored (7.82 %).")
        assert lines[2] == "Inference: whole images."
        assert lines[4] == (
            "Classes in the mean: 2 of 4: dark, bright; not in the labels, so not in the mean: "
            "glare."
        )
        lines = lines[2:]
        header = ["stage", "mIoU", "boundary mIoU (3 px)", "mBA", "pixel accuracy"]
        assert cells(lines[4]) == header
        assert cells(lines[8]) == ["P2", "100.00", "100.00", "100.00", "100.00"]
        assert cells(lines[10]) == ["class IoU", "P0", "P1", "P2"]
        assert cells(lines[13])[0] == "gray (not in the mean)"
        assert cells(lines[15]) == ["glare (not in the mean)", "–", "–", "–"]
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
        assert data["classes_in_mean"] == ["dark", "bright"]
        assert LabelSpace.from_dict(data["labels"]) == report.labels
        assert data["stages"]["P2"]["iou"] == [1.0, 1.0, 1.0, None]
        assert data["stages"]["P0"]["miou"] == report.stages["P0"].miou
        assert math.isnan(report.final.iou[3])

    def test_can_be_pickled(self, report):
        assert pickle.loads(pickle.dumps(report)).to_dict() == report.to_dict()

    def test_names_are_data_in_markdown_and_figure(self, tmp_path):
        names = ("road|kerb", "[/] `a` *b* <c>", r"$x_1$ \frac")
        labels = LabelSpace("odd", names, GRAYS.colors)
        report = evaluate(by_brightness(labels), Grays(labels), model_name="a|b", progress=False)
        lines = report.table().splitlines()
        assert lines[0].startswith(r"**a\|b on Grays**")
        for name, line in zip(names, lines[-3:], strict=True):
            fields = re.split(r"(?<!\\)\|", line)
            assert len(fields) == 6  # a bar before, one behind and three between
            assert re.sub(r"\\(.)", r"\1", fields[1]).strip() == name
        report.save(tmp_path)  # mathematics in the last name would be an error in matplotlib
        assert (tmp_path / "scores.png").stat().st_size > 5000

    def test_replaces_an_older_report(self, report, tmp_path):
        (tmp_path / "scores.json").write_text("old")
        report.save(tmp_path)
        assert json.loads((tmp_path / "scores.json").read_text())["num_images"] == 3

    def test_figure_of_a_single_stage(self, tmp_path):
        evaluate(by_brightness(GRAYS, num_stages=0), Grays(), progress=False).save(tmp_path)
        assert (tmp_path / "scores.png").stat().st_size > 5000


@pytest.fixture(scope="module")
def model():
    return create_model("lite", labels=VOC, encoder_weights=None)


class TestRealModel:
    def test_every_stage(self, model, tmp_path):
        dataset = VOC2012(write_voc(tmp_path, size=(50, 67)), split="val")
        report = evaluate(model.train(), dataset, progress=False)
        assert list(report.stages) == ["P0", "P1", "P2", "P3", "P4"]
        assert model.training
        pixels = {(s.num_pixels, s.num_ignored) for s in report.stages.values()}
        assert len(pixels) == 1
        assert sum(pixels.pop()) == 2 * 50 * 67


class TestPredictions:
    """A folder of label maps in place of a model."""

    @pytest.fixture
    def dataset(self, tmp_path):
        return Folder(write_folder(tmp_path / "data", GRAYS, size=(24, 30)), labels=GRAYS)

    @pytest.fixture
    def folder(self, dataset, tmp_path):
        """Maps of a model, as image files."""
        (tmp_path / "found").mkdir()
        model = by_brightness(GRAYS).eval()
        for sample in dataset:
            labels = stage_labels(model, sample.image[None]).final[0]
            Image.fromarray(labels.numpy()).save(tmp_path / "found" / f"{sample.name}.png")
        return tmp_path / "found"

    def test_equal_the_model_that_made_them(self, dataset, folder):
        report = evaluate_predictions(folder, dataset, num_workers=1, progress=False)
        model = evaluate(by_brightness(GRAYS), dataset, progress=False)
        assert list(report.stages) == ["prediction"]
        assert report.final == model.final
        assert report.title == "found on Folder"
        assert "Inference" not in report.table()

    def test_names_may_be_those_of_images_or_of_the_command(self, tmp_path):
        dataset = create_dataset("cityscapes", write_cityscapes(tmp_path, size=(24, 30)), "val")
        (tmp_path / "found").mkdir()
        endings = ["_leftImg8bit.png", "_leftImg8bit_labels.png"]
        for (_, labels, name, _), ending in zip(dataset, endings, strict=True):
            Image.fromarray(labels.numpy().astype(np.uint8)).save(
                tmp_path / "found" / (name + ending)
            )
        report = evaluate_predictions(tmp_path / "found", dataset, name="mine", progress=False)
        assert (report.final.miou, report.title) == (1.0, "mine on Cityscapes")
        assert report.labels == CITYSCAPES

    def test_only_the_first_are_needed_with_a_limit(self, dataset, folder):
        for pair in dataset.pairs[2:]:
            (folder / f"{pair.name}.png").unlink()
        report = evaluate_predictions(folder, dataset, limit=2, progress=False)
        assert (report.num_images, report.num_available) == (2, 6)

    def test_what_is_wrong_is_named(self, dataset, folder):
        file = folder / "10002.png"
        for image, message in (
            (
                Image.new("L", (30, 23)),
                r"^sizes differ .*: prediction .*10002\.png has \(23, 30\), ",
            ),
            (
                Image.new("L", (30, 24), 3),
                r"^prediction .*10002\.png has labels \[3\] where .* 0..2",
            ),
            (Image.new("L", (30, 24), 255), r"^prediction .*10002\.png has labels \[255\] where"),
            (
                Image.new("RGB", (30, 24)),
                r"^mask .*10002\.png has mode RGB: expected class indices",
            ),
        ):
            image.save(file)
            with pytest.raises(DataError, match=message):
                evaluate_predictions(folder, dataset, progress=False)
        file.unlink()
        with pytest.raises(
            MissingFileError, match=r"^no prediction for .*10002\.png: expected 10002"
        ):
            evaluate_predictions(folder, dataset, progress=False)
        with pytest.raises(
            DataError, match="^no folder .*gone: it should hold a label map for each"
        ):
            evaluate_predictions(folder / "gone", dataset, progress=False)


def test_a_report_of_one_stage_needs_no_more_than_scores():
    scores = SegmentationScores(3)
    scores.update(torch.zeros(2, 2).long(), torch.zeros(2, 2).long())
    report = Report("set", "", GRAYS, {"P0": scores.compute()}, num_images=1, num_available=1)
    assert report.title == "set"
    assert report.ignored_share == 0
