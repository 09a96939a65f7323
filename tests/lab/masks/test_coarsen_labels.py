"""Coarse label maps: what every rule keeps, and what each of them does."""

import numpy as np
import pytest
from PIL import Image

from pna.lab.masks import coarsen_labels as module
from pna.lab.masks.coarsen_labels import coarsen_labels, label_degree
from pna.lab.masks.label_rules import LABEL_RULES
from pna.lab.masks.segments import connected


def street():
    """Sky, road, three houses, a pole and windows, 120 x 160, with a band of ignored pixels."""
    labels = np.zeros((120, 160), np.uint8)
    labels[80:] = 1
    for house, left in enumerate((5, 60, 110)):
        labels[30 + 8 * house : 80, left : left + 40] = 2 + house
        labels[45:55, left + 10 : left + 18] = 7
    labels[10:95, 50:53] = 9
    labels[78:81] = 255
    return labels


STREET = street()


@pytest.mark.parametrize("rule", [*LABEL_RULES, None])
@pytest.mark.parametrize(
    "labels",
    [
        STREET,
        STREET[:1],
        STREET[:, 30:31],
        STREET[40:41, 50:52],
        np.zeros((6, 5), np.uint8),
        np.full((6, 5), 255, np.uint8),
        np.array([[3, 255]], np.uint8),
        np.arange(60, dtype=np.uint8).reshape(6, 10),
        np.eye(90, dtype=np.int64),
    ],
)
def test_results_are_label_maps(labels, rule):
    for seed, amount in enumerate((0.0, 0.5, 1.0, None)):
        before = labels.copy()
        coarse = coarsen_labels(labels, np.random.default_rng(seed), rule=rule, amount=amount)
        assert coarse.shape == labels.shape
        assert coarse.dtype == np.uint8
        assert set(np.unique(coarse)) <= set(np.unique(labels))
        assert ((coarse == 255) == (labels == 255)).all()
        assert (labels == before).all()
        assert coarse is not labels


def test_another_label_may_be_ignored():
    coarse = coarsen_labels(STREET, np.random.default_rng(0), rule="warp", ignore=1)
    assert ((coarse == 1) == (STREET == 1)).all()
    assert ((coarse == 255) != (STREET == 255)).any()


@pytest.mark.parametrize("rule", [*LABEL_RULES, None])
def test_the_seed_decides(rule):
    results = [
        coarsen_labels(STREET, np.random.default_rng(seed), rule=rule, amount=0.8)
        for seed in (1, 1, 2)
    ]
    assert (results[0] == results[1]).all()
    # Small segments are lost in the order of their size: seeds may agree.
    assert rule == "small_lost" or (results[0] != results[2]).any()


@pytest.mark.parametrize("rule", ["downsample", "warp", "polygons", "wrong_neighbors"])
def test_the_degree_follows_the_amount(rule):
    medians = []
    for amount in (0.0, 0.5, 1.0):
        found = (
            coarsen_labels(STREET, np.random.default_rng(seed), rule=rule, amount=amount)
            for seed in range(9)
        )
        medians.append(float(np.median([label_degree(coarse, STREET) for coarse in found])))
    assert medians[0] == pytest.approx(0.97, abs=0.035)
    assert medians[1] == pytest.approx(0.785, abs=0.08)
    assert medians[2] == pytest.approx(0.6, abs=0.1)


def test_a_coarse_grid_loses_the_pole():
    coarse = coarsen_labels(STREET, np.random.default_rng(0), rule="downsample", amount=0.6)
    assert (coarse == 9).sum() < 0.3 * (STREET == 9).sum()
    assert (coarse == 2).sum() > 0.7 * (STREET == 2).sum()


def test_a_warp_keeps_what_is_far_from_boundaries():
    labels = (np.arange(160)[None].repeat(120, 0) // 40).astype(np.uint8)
    coarse = coarsen_labels(labels, np.random.default_rng(0), rule="warp", amount=0.3)
    wrong = coarse != labels
    assert wrong.any()
    assert not wrong[:, 20].any()
    assert not wrong[:, 60].any()


def test_gaps_between_polygons_are_filled():
    # Disks side by side: polygons leave gaps, which no class of its own may take.
    y, x = np.indices((100, 150))
    labels = (np.hypot(y % 50 - 25, x % 50 - 25) < 22).astype(np.uint8) * (1 + x // 50)
    coarse = coarsen_labels(
        labels.astype(np.uint8), np.random.default_rng(0), rule="polygons", amount=0.5
    )
    assert set(np.unique(coarse)) == {0, 1, 2, 3}


def test_wrong_neighbors_take_a_class_that_they_touch():
    labels = np.zeros((90, 120), np.uint8)
    labels[:, 40:80], labels[:, 80:] = 1, 2
    for seed in range(8):
        coarse = coarsen_labels(
            labels, np.random.default_rng(seed), rule="wrong_neighbors", amount=0.8
        )
        assert (coarse != labels).any()
        assert not ((labels == 0) & (coarse == 2)).any()
        assert not ((labels == 2) & (coarse == 0)).any()
        assert connected(coarse.astype(int)).max() < 40  # pieces, not pixels


def test_small_segments_are_lost_to_what_surrounds_them():
    labels = np.zeros((100, 100), np.uint8)
    labels[10:60, 10:60] = 1
    labels[30:34, 30:34] = 2  # within 1
    labels[80:84, 80:84] = 3  # within 0
    lost = set()
    for seed in range(12):
        coarse = coarsen_labels(labels, np.random.default_rng(seed), rule="small_lost", amount=0.2)
        assert set(np.unique(coarse[30:34, 30:34])) <= {1, 2}
        assert set(np.unique(coarse[80:84, 80:84])) <= {0, 3}
        lost |= {2, 3} - set(np.unique(coarse))
    assert lost == {2, 3}


def test_ignored_pixels_do_not_spread_over_what_is_moved():
    labels = np.full((80, 80), 255, np.uint8)
    labels[:, :30], labels[:, 50:] = 4, 5
    coarse = coarsen_labels(labels, np.random.default_rng(0), rule="warp", amount=1.0)
    assert (coarse[:, 30:50] == 255).all()
    assert set(np.unique(coarse[:, :30])) | set(np.unique(coarse[:, 50:])) == {4, 5}


def test_large_maps_keep_the_resolution_where_nothing_changed(monkeypatch):
    monkeypatch.setattr(module, "_MOST_PIXELS", STREET.size / 4)  # every second pixel
    labels = np.where(STREET == 255, np.uint8(1), STREET)  # ignored pixels never change
    labels[:, 30] = 6  # the even ones are left out
    for seed in range(4):
        coarse = coarsen_labels(
            labels, np.random.default_rng(seed), rule="wrong_neighbors", amount=0.3
        )
        assert 0.05 < 1 - label_degree(coarse, labels) < 0.4
        is_same = (coarse == labels)[1::2, 31]
        assert is_same.any()
        assert (coarse[1::2, 30] == 6)[is_same].all()


def test_label_degree():
    labels = np.array([[0] * 16 + [1] * 4 + [255] * 3], np.uint8)
    assert label_degree(labels, labels) == 1
    coarse = np.array([[0] * 18 + [1] * 5], np.uint8)
    assert label_degree(coarse, labels) == pytest.approx((4 * 16 / 18 + 2 * 2 / 4) / 6)
    assert label_degree(labels, np.full_like(labels, 255)) == 1
    assert label_degree(np.full_like(labels, 3), labels) == 0


@pytest.mark.parametrize("labels", [np.zeros((4, 4)), np.zeros(4, int), np.zeros((0, 4), int)])
def test_other_arrays_are_refused(labels):
    with pytest.raises(ValueError, match=r"^expected labels \(H, W\) of integers, at least 1 x 1"):
        coarsen_labels(labels, np.random.default_rng(0))


def test_wrong_choices_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="expected labels from 0 to 255, got -1 to 3; renumber"):
        coarsen_labels(np.array([[-1, 3]]), rng)
    with pytest.raises(ValueError, match="expected a rule of downsample, .*_lost; got 'soup'"):
        coarsen_labels(STREET, rng, rule="soup")
    with pytest.raises(ValueError, match=r"expected an amount in \[0, 1\], got 2"):
        coarsen_labels(STREET, rng, amount=2)


@pytest.mark.data
def test_real_label_maps_get_the_wanted_degree(shared_data):
    files = sorted((shared_data / "crisp" / "masks").glob("bsds_*.png"))[::20]
    assert len(files) >= 8
    found = []
    for seed, file in enumerate(files):
        with Image.open(file) as image:
            labels = np.asarray(image)
        coarse = coarsen_labels(labels, np.random.default_rng(seed), amount=0.4)
        found.append(label_degree(coarse, labels))
    assert np.median(found) == pytest.approx(0.97 - 0.4 * 0.37, abs=0.05)
