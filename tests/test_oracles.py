"""The scores of a whole evaluation against evaluators that others keep."""

import math

import numpy as np
import pytest
import torch
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling
from PIL import Image
from scipy.ndimage import binary_erosion
from torchmetrics.classification import MulticlassJaccardIndex

from pna.data import create_dataset
from pna.data.cityscapes import TRAIN_IDS
from pna.data.synthetic import (
    write_cityscapes,
    write_cocostuff10k,
    write_deepglobe,
    write_trans10k,
    write_voc,
)
from pna.evaluate import evaluate
from pna.inference.segment import stage_labels
from pna.inference.tiling import WHOLE, TilingConfig
from pna.labels import CITYSCAPES
from tiny_segmenter import TinySegmenter

VIEWS = [WHOLE, TilingConfig(tile=(24, 32), flip=True)]


def by_color(labels):
    """A tiny segmenter that takes the class whose color is nearest: right here, wrong there."""
    model = TinySegmenter(labels)
    colors = torch.tensor(labels.colors) / 255
    with torch.no_grad():  # -|x - c|^2, less what all classes share
        model.classify.weight.copy_(2 * colors[:, :, None, None])
        model.classify.bias.copy_(-colors.square().sum(1))
    return model.eval()


def write_predictions(folder, dataset, model, tiling):
    """Write the maps of each stage as label ids, named as the owners want them."""
    ids = torch.tensor(TRAIN_IDS, dtype=torch.uint8)
    for index, pair in enumerate(dataset.pairs):
        maps = stage_labels(model, dataset[index].image[None], tiling=tiling).stages
        for stage, labels in enumerate(maps):
            place = folder / f"P{stage}"
            place.mkdir(exist_ok=True)
            Image.fromarray(ids[labels[0].long()].numpy()).save(place / f"{pair.name}.png")


def official_scores(predictions, dataset):
    settings = evalPixelLevelSemanticLabeling.args
    settings.evalInstLevelScore = False
    settings.JSONOutput = False
    settings.quiet = True
    found = [str(predictions / f"{pair.name}.png") for pair in dataset.pairs]
    return evalPixelLevelSemanticLabeling.evaluateImgLists(
        found, [str(pair.mask) for pair in dataset.pairs], settings
    )


def hold_every_class(mask):
    """Paint each label id into a mask, as on the whole set: the owners' mean is over classes that
    occur in truth or prediction, ours over those in the truth.
    """
    with Image.open(mask) as image:
        ids = np.array(image)
    ids[:2, :68] = np.arange(34).repeat(2)
    Image.fromarray(ids).save(mask)


@pytest.mark.parametrize("tiling", VIEWS, ids=str)
def test_cityscapes_equals_the_owners_evaluator(tiling, tmp_path):
    dataset = create_dataset("cityscapes", write_cityscapes(tmp_path, num_val=3), "val")
    hold_every_class(dataset.pairs[0].mask)
    model = by_color(CITYSCAPES)
    write_predictions(tmp_path, dataset, model, tiling)
    report = evaluate(model, dataset, tiling=tiling, progress=False)
    for name, scores in report.stages.items():
        theirs = official_scores(tmp_path / name, dataset)
        assert scores.miou == pytest.approx(theirs["averageScoreClasses"], abs=1e-12)
        for label, iou in zip(CITYSCAPES.classes, scores.iou, strict=True):
            assert iou == pytest.approx(theirs["classScores"][label], abs=1e-12, nan_ok=True)
    assert report.stages["P0"].miou < report.final.miou < 1


@pytest.mark.parametrize("tiling", VIEWS, ids=str)
@pytest.mark.parametrize(
    ("name", "split", "write"),
    [
        ("voc2012", "val", lambda root: write_voc(root)),
        ("cocostuff10k", "test", lambda root: write_cocostuff10k(root)),
        ("deepglobe", "test", lambda root: write_deepglobe(root, splits=("test",))),
        ("trans10k", "val", lambda root: write_trans10k(root)),
    ],
)
def test_the_others_equal_torchmetrics(name, split, write, tiling, tmp_path):
    dataset = create_dataset(name, write(tmp_path), split)
    dataset = dataset.subset(range(min(3, len(dataset))))
    model = by_color(dataset.labels)
    oracle = [
        MulticlassJaccardIndex(dataset.labels.num_classes, average="none", ignore_index=255)
        for _ in range(3)
    ]
    truth = set()
    for sample in dataset:
        truth |= set(sample.labels.unique().tolist())
        maps = stage_labels(model, sample.image[None], tiling=tiling).stages
        for index_of_stage, labels in enumerate(maps):
            oracle[index_of_stage].update(labels[0].long(), sample.labels)
    report = evaluate(model, dataset, tiling=tiling, progress=False)
    for scores, theirs in zip(report.stages.values(), oracle, strict=True):
        expected = theirs.compute().tolist()
        present = [c for c, iou in enumerate(scores.iou) if not math.isnan(iou)]
        assert [scores.iou[c] for c in present] == pytest.approx(
            [expected[c] for c in present], abs=1e-6
        )
        assert scores.in_mean == tuple(c for c in dataset.labels.scored if c in truth)
        in_mean = [expected[c] for c in scores.in_mean]
        assert scores.miou == pytest.approx(sum(in_mean) / len(in_mean), abs=1e-6)


def region(mask, width):
    """A mask less its erosion; outside the image there is nothing."""
    return mask & ~binary_erosion(mask, np.ones((2 * width + 1, 2 * width + 1)))


@pytest.mark.parametrize("width", [1, 3, 5])
def test_boundary_iou_equals_scipys_erosion(width, tmp_path):
    """Over a set with ignored pixels, every class of every stage."""
    dataset = create_dataset("voc2012", write_voc(tmp_path, num_val=3), "val")
    model = by_color(dataset.labels)
    num_classes = dataset.labels.num_classes
    shared, either = np.zeros((2, 3, num_classes), dtype=int)
    for sample in dataset:
        truth, valid = sample.labels.numpy(), sample.labels.numpy() != 255
        assert not valid.all()
        for stage, labels in enumerate(stage_labels(model, sample.image[None]).stages):
            for c in range(num_classes):
                a = region((truth == c) & valid, width)
                b = region((labels[0].numpy() == c) & valid, width)
                shared[stage, c] += (a & b).sum()
                either[stage, c] += (a | b).sum()
    report = evaluate(model, dataset, boundary_width=width, progress=False)
    for stage, scores in enumerate(report.stages.values()):
        for c, iou in enumerate(scores.boundary_iou):
            expected = shared[stage, c] / either[stage, c] if either[stage, c] else math.nan
            assert iou == pytest.approx(expected, abs=1e-12, nan_ok=True)
