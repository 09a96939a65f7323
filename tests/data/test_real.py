"""The real images: counts, and labels in range (reading checks them)."""

import pytest
import torch

from pna.data import DATASETS, create_dataset
from pna.data.check import check_split
from pna.labels import IGNORE_INDEX

pytestmark = pytest.mark.data


@pytest.mark.parametrize(
    ("name", "folder", "split", "num_pairs", "has_ignored"),
    [
        ("voc2012", "voc2012", "trainaug", 1400, True),  # VOC's own masks where there are any
        ("voc2012", "voc2012", "train", 437, True),
        ("voc2012", "voc2012", "val", 200, True),
        ("camvid", "camvid", "train", 367, True),
        ("camvid", "camvid", "val", 101, True),
        ("damage", "hrcds", "train", 27, False),
        ("damage", "hrcds", "test", 9, False),
    ],
)
def test_pairs_and_labels(shared_data, name, folder, split, num_pairs, has_ignored):
    dataset = create_dataset(name, shared_data / folder, split)
    assert len(dataset) == num_pairs
    seen = torch.zeros(256, dtype=torch.int64)
    for index in range(0, num_pairs, 9):
        _, labels = dataset.read_raw(index)  # raises if sizes differ or a label is no class
        seen += torch.bincount(labels.flatten(), minlength=256)
    assert int((seen[: dataset.labels.num_classes] > 0).sum()) > 2
    if has_ignored:
        assert seen[IGNORE_INDEX] > 0


def test_all_masks_of_the_small_sets(shared_data):
    for split in ("train", "test"):
        dataset = create_dataset("damage", shared_data / "hrcds", split)
        present = {int(v) for i in range(len(dataset)) for v in dataset.read_raw(i)[1].unique()}
        assert present == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("name", "folder", "split"),
    [("camvid", "camvid", "val"), ("damage", "hrcds", "test"), ("voc2012", "voc2012", "val")],
)
def test_a_check_finds_nothing_wrong(shared_data, name, folder, split):
    report = check_split(
        lambda: create_dataset(name, shared_data / folder, split),
        split,
        expected=DATASETS[name].counts.get(split) if name != "voc2012" else None,  # a subset
        limit=20,
    )
    assert report.problems == []
    assert sum(report.shares) == pytest.approx(1)
