"""Coarse masks: their degree, their kinds of error, and masks at the edge."""

import numpy as np
import pytest
from PIL import Image

from pna.lab.masks import coarsen as module
from pna.lab.masks.coarsen import HELD_OUT, RULES, coarsen, degree, follow_convention, nearly_right
from pna.lab.masks.fields import distance_to, signed_distance

EVERY_RULE = [*RULES, *HELD_OUT]


def animal(scale=1):
    """A body with a head and four legs, 120 x 160: parts that are wide and parts that are thin."""
    y, x = np.indices((120 * scale, 160 * scale)) / scale
    mask = np.hypot((y - 55) / 22, (x - 80) / 45) < 1
    mask |= np.hypot((y - 35) / 12, (x - 130) / 16) < 1
    for leg in (45, 60, 98, 112):
        mask |= (abs(x - leg) < 4) & (y > 55) & (y < 112)
    return mask


ANIMAL = animal()


def edge_cases():
    masks = {
        "empty": np.zeros((30, 41), bool),
        "full": np.ones((30, 41), bool),
        "one by one": np.ones((1, 1), bool),
        "pair": np.array([[True, False]]),
        "row": (np.arange(90) // 20 % 2 == 0)[None],
        "column": (np.arange(90) // 20 % 2 == 0)[:, None],
        "hole": np.ones((30, 41), bool),
        "pixel": np.zeros((30, 41), bool),
        "corner": np.zeros((30, 41), bool),
        "line": np.zeros((30, 41), bool),
        "diagonal": np.eye(50, dtype=bool),
        "many": (np.indices((90, 120)) % 12 < 5).all(axis=0),
        "noise": np.random.default_rng(0).random((40, 50)) < 0.5,
        "cut": np.pad(ANIMAL, 0)[30:90, 20:100],
    }
    masks["hole"][12, 20] = False
    masks["pixel"][12, 20] = masks["corner"][0, 0] = masks["line"][17] = True
    return masks


@pytest.mark.parametrize("name", edge_cases())
@pytest.mark.parametrize("rule", [*EVERY_RULE, None])
def test_every_mask_gives_probabilities(name, rule):
    mask = edge_cases()[name]
    for seed, amount in enumerate((0.0, 0.5, 1.0, None)):
        before = mask.copy()
        coarse = coarsen(mask, np.random.default_rng(seed), rule=rule, amount=amount)
        assert coarse.shape == mask.shape
        assert coarse.dtype == np.float32
        assert coarse.min() >= 0  # NaN fails too
        assert coarse.max() <= 1
        assert (mask == before).all()


@pytest.mark.parametrize("rule", [*EVERY_RULE, None])
def test_the_seed_decides(rule):
    results = [coarsen(ANIMAL, np.random.default_rng(seed), rule=rule) for seed in (1, 1, 2)]
    assert (results[0] == results[1]).all()
    assert (results[0] != results[2]).any()


@pytest.mark.parametrize("rule", EVERY_RULE)
def test_the_degree_follows_the_amount(rule):
    medians = []
    for amount in (0.0, 0.5, 1.0):
        results = (
            coarsen(ANIMAL, np.random.default_rng(seed), rule=rule, amount=amount)
            for seed in range(9)
        )
        medians.append(float(np.median([degree(coarse, ANIMAL) for coarse in results])))
    # One vertex in ten is coarse for legs 8 pixels wide.
    assert medians[0] > (0.8 if rule == "vertices_and_boxes" else 0.94)
    assert medians[1] == pytest.approx(0.785, abs=0.06)
    # Six cells along the object are the coarsest grid, ten for a JPEG.
    lowest = 0.85 if rule in ("downsample", "jpeg") else 0.68
    assert 0.5 < medians[2] < lowest


@pytest.mark.parametrize("rule", [*RULES, None])
def test_size_does_not_matter(rule):
    mask = animal(scale=5)  # 600 x 800: the strength comes from a small copy
    found = [
        degree(coarsen(mask, np.random.default_rng(seed), rule=rule, amount=0.4), mask)
        for seed in range(3)
    ]
    # The legs are of one width: `thin` loses all of them or none.
    tolerance = 0.12 if rule == "thin" else 0.06
    assert np.median(found) == pytest.approx(0.97 - 0.4 * 0.37, abs=tolerance)


@pytest.mark.parametrize("rule", RULES)
def test_the_border_of_the_image_does_not_eat_the_object(rule):
    # Half of the image: near the border, and far from the edge within, nothing may change.
    mask = np.arange(120)[None].repeat(80, 0) < 60
    for seed in range(6):
        coarse = coarsen(mask, np.random.default_rng(seed), rule=rule, amount=0.1)
        found = coarse > 0.5
        if rule != "blobs":
            assert found[:, :15].all()
        assert not found[:, 105:].any()


@pytest.mark.parametrize("mask", [np.zeros((9, 7), bool), np.ones((9, 7), bool)])
@pytest.mark.parametrize("rule", [*EVERY_RULE, None])
def test_without_a_boundary_nothing_changes(mask, rule):
    coarse = coarsen(mask, np.random.default_rng(0), rule=rule, amount=1.0)
    assert (coarse == mask).all()
    assert (nearly_right(mask, np.random.default_rng(0)) == mask).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["pixel", "line", "diagonal", "pair", "many"])
def test_no_rule_loses_the_object(rule, name):
    mask = edge_cases()[name]
    for seed in range(5):
        assert degree(coarsen(mask, np.random.default_rng(seed), rule=rule, amount=1.0), mask) > 0.3


def test_a_result_that_went_too_far_is_weakened(monkeypatch):
    strengths = []

    def erase(rng):
        def apply(mask, strength):
            if max(mask.shape) > 160:
                strengths.append(strength)
                return np.zeros(mask.shape, np.float32)
            return mask.astype(np.float32)  # harmless on the small copy

        return apply

    monkeypatch.setitem(RULES, "erase", erase)
    large = np.arange(500)[None].repeat(400, 0) < 250
    coarse = coarsen(large, np.random.default_rng(0), rule="erase", amount=0.5)
    assert (coarse == large).all()
    assert np.allclose(strengths, strengths[0] / 1.5 ** np.arange(4))


@pytest.mark.parametrize("rule", ["downsample", "jpeg", "smooth", "blobs", "morphology", "shift"])
def test_some_results_are_soft_and_some_are_cut(rule):
    results = [
        coarsen(ANIMAL, np.random.default_rng(seed), rule=rule, amount=0.5) for seed in range(20)
    ]
    is_soft = [bool(((coarse > 0.1) & (coarse < 0.9)).any()) for coarse in results]
    assert 2 <= sum(is_soft) <= 18


def test_morphology_moves_edges_both_ways():
    grown, lost = 0, 0
    for seed in range(8):
        found = coarsen(ANIMAL, np.random.default_rng(seed), rule="morphology", amount=0.3) > 0.5
        grown += bool((found & ~ANIMAL).sum() > 30)
        lost += bool((ANIMAL & ~found).sum() > 30)
    assert grown >= 5
    assert lost >= 5


def test_thin_loses_legs_and_not_the_body():
    legs = ANIMAL & (np.indices(ANIMAL.shape)[0] > 80)
    body = signed_distance(ANIMAL, 20) > 14
    lost = []
    for seed in range(8):
        found = coarsen(ANIMAL, np.random.default_rng(seed), rule="thin", amount=0.4) > 0.5
        assert found[body].all()
        lost.append(float((legs & ~found).sum() / legs.sum()))
    assert np.median(lost) > 0.3


def test_blobs_leave_the_other_edges_alone():
    coarse = coarsen(ANIMAL, np.random.default_rng(4), rule="blobs", amount=0.2) > 0.5
    edge = np.abs(signed_distance(ANIMAL, 2)) < 1
    assert 0.5 < (coarse == ANIMAL)[edge].mean() < 1


def test_a_polygon_has_few_corners():
    disk = np.hypot(*(np.indices((200, 200)) - 100)) < 70
    found = coarsen(disk, np.random.default_rng(1), rule="polygon", amount=0.4) > 0.5
    # Straight sides leave the disk more at some angles than at others.
    radii = [distance_to(~found, 90)[100, 100], np.hypot(*(np.argwhere(found) - 100).T).max()]
    assert radii[1] - radii[0] > 8


def test_a_shift_moves_the_center():
    places = np.argwhere(ANIMAL).mean(0)
    moved = [
        np.argwhere(coarsen(ANIMAL, np.random.default_rng(s), rule="shift", amount=0.5) > 0.5)
        for s in range(8)
    ]
    distances = [np.linalg.norm(pixels.mean(0) - places) for pixels in moved]
    assert 1 < np.median(distances) < 12


def test_the_held_out_rule_is_never_drawn(monkeypatch):
    def refuse(mask, loss, rng):
        raise AssertionError("drawn")

    for name in HELD_OUT:
        assert name not in RULES
        monkeypatch.setitem(HELD_OUT, name, refuse)
    for seed in range(60):
        coarsen(ANIMAL[::3, ::3], np.random.default_rng(seed))


def test_two_rules_are_sometimes_combined(monkeypatch):
    called = []

    def spy(name):
        def rule(rng):
            called.append(name)
            return lambda mask, strength: mask.astype(np.float32)

        return rule

    for name in list(RULES):
        monkeypatch.setitem(RULES, name, spy(name))
    counts = []
    for seed in range(200):
        called.clear()
        coarsen(ANIMAL, np.random.default_rng(seed))
        assert len(set(called)) == len(called)
        counts.append(len(called))
    assert set(counts) == {1, 2}
    assert counts.count(2) / 200 == pytest.approx(module._COMBINED, abs=0.1)


def test_nearly_right_errs_by_three_pixels_at_most():
    mask = animal(scale=3)
    distance = np.abs(signed_distance(mask, 10))
    degrees, softness = [], []
    for seed in range(25):
        coarse = nearly_right(mask, np.random.default_rng(seed))
        wrong = (coarse > 0.5) != mask
        assert wrong.any()
        assert distance[wrong].max() <= 3
        assert ((coarse == mask) | (distance <= 3)).all()
        degrees.append(degree(coarse, mask))
        softness.append(bool(((coarse > 0) & (coarse < 1)).any()))
    assert 0.9 < min(degrees) < max(degrees) < 0.999
    assert 5 < sum(softness) < 20


@pytest.mark.parametrize("name", edge_cases())
def test_nearly_right_takes_every_mask(name):
    mask = edge_cases()[name]
    for seed in range(6):
        coarse = nearly_right(mask, np.random.default_rng(seed))
        assert coarse.shape == mask.shape
        assert coarse.dtype == np.float32
        assert coarse.min() >= 0
        assert coarse.max() <= 1
        assert (coarse == nearly_right(mask, np.random.default_rng(seed))).all()


def test_degree():
    mask = np.array([[True, True, False]])
    assert degree(np.array([[0.6, 0.5, 0.9]]), mask) == pytest.approx(1 / 3)  # 0.5 is background
    empty = np.zeros((2, 2), bool)
    assert degree(empty.astype(np.float32), empty) == 1
    assert degree(np.ones((2, 2), np.float32), empty) == 0


@pytest.mark.parametrize("function", [coarsen, nearly_right])
@pytest.mark.parametrize(
    "mask", [np.zeros((4, 4)), np.zeros((4, 4, 1), bool), np.zeros((0, 4), bool)]
)
def test_other_arrays_are_refused(function, mask):
    with pytest.raises(ValueError, match=r"^expected a mask \(H, W\) of bool, at least 1 x 1; got"):
        function(mask, np.random.default_rng(0))


def test_wrong_choices_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="expected a rule of downsample, .*boxes; got 'soup'"):
        coarsen(ANIMAL, rng, rule="soup")
    for amount in (-0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match=rf"expected an amount in \[0, 1\], got {amount}"):
            coarsen(ANIMAL, rng, amount=amount)


@pytest.mark.slow
@pytest.mark.parametrize("rule", EVERY_RULE)
def test_twelve_megapixels(rule):
    mask = animal(scale=25)  # 3000 x 4000
    coarse = coarsen(mask, np.random.default_rng(0), rule=rule, amount=0.5)
    assert degree(coarse, mask) == pytest.approx(0.785, abs=0.12)


@pytest.mark.data
@pytest.mark.parametrize("rule", EVERY_RULE)
def test_real_masks_get_the_wanted_degree(rule, shared_data):
    files = sorted((shared_data / "crisp" / "masks").glob("horse_*.png"))[::20]
    assert len(files) >= 8
    found = []
    for seed, file in enumerate(files):
        with Image.open(file) as image:
            mask = np.asarray(image) > 127
        found.append(
            degree(coarsen(mask, np.random.default_rng(seed), rule=rule, amount=0.4), mask)
        )
    assert np.median(found) == pytest.approx(0.97 - 0.4 * 0.37, abs=0.05)


@pytest.mark.parametrize("seed", range(20))
def test_a_convention_moves_the_outline_a_little(seed):
    y, x = np.mgrid[:80, :90]
    mask = (y - 40) ** 2 + (x - 45) ** 2 < 20**2
    moved = follow_convention(mask, np.random.default_rng(seed))
    assert moved.dtype == bool
    # Three pixels wider or narrower, four aside along each axis, and what smoothing adds.
    assert (np.abs(signed_distance(mask, 12.0))[moved != mask] < 3 + 4 * 2**0.5 + 1.5).all()
    assert (moved != np.roll(moved, 1, 1)).sum(1).max() == 2  # an outline without dents or holes


def test_a_convention_keeps_thin_masks_and_those_at_the_border():
    thin = np.zeros((40, 50), bool)
    thin[20:23] = True
    half = np.zeros((40, 50), bool)
    half[:, 25:] = True
    for seed in range(30):
        rng = np.random.default_rng(seed)
        assert follow_convention(thin, rng).any(1).sum() >= 1
        moved = follow_convention(half, rng)
        assert moved[:, -10:].all()
        assert not moved[:, :10].any()
    assert follow_convention(np.ones((4, 5), bool), rng).all()
