import numpy as np
import pytest
import torch

from mask_networks import Bright, Same
from pna.errors import PnaError
from pna.inference.masks import refine_mask
from pna.refinement.masks import Part, RefineConfig, check_mask, decide, near_edge
from pna.refinement.network import create_mask_refiner

SIZES = [(1, 1), (7, 50), (64, 96), (150, 201)]
SURE = RefineConfig(strength=1.0)


def photo(H, W):
    """An image whose right part is bright, and its mask."""
    image = np.full((H, W, 3), 30, np.uint8)
    image[:, W // 3 :] = 220
    return image, image[..., 0] > 128


def kinds_of(mask):
    labels = np.where(mask, 7, 3).astype(np.uint8)
    soft = np.where(mask, 0.9, 0.2)
    return {
        "bool": mask,
        "255": mask.astype(np.uint8) * 255,
        "labels": labels,
        "int64": labels.astype(np.int64),
        "soft": soft,
        "half": soft.astype(np.float16),
        "probabilities": np.stack([1 - soft, soft]).astype(np.float32),
    }


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", kinds_of(np.zeros((1, 1), bool)))
def test_a_mask_comes_back_as_its_own_kind(kind, size):
    image, truth = photo(*size)
    mask = kinds_of(np.roll(truth, 2, 1))[kind]
    before = mask.copy()
    refined, wrong = refine_mask(Bright(), image, mask, SURE)
    np.testing.assert_array_equal(mask, before)
    assert (refined.shape, refined.dtype) == (mask.shape, mask.dtype)
    assert (wrong.shape, wrong.dtype) == (size, np.float32)
    if truth.all() or not truth.any():
        return
    expected = kinds_of(truth)[kind]
    if kind in ("bool", "255", "labels", "int64"):
        np.testing.assert_array_equal(refined, expected)
    elif kind == "probabilities":
        np.testing.assert_array_equal(refined.argmax(0), expected.argmax(0))
        np.testing.assert_allclose(refined.sum(0), 1, atol=1e-5)
    else:
        np.testing.assert_array_equal(refined > 0.5, expected > 0.5)
    np.testing.assert_array_equal(wrong > 0.5, np.roll(truth, 2, 1) != truth)


@pytest.mark.parametrize("kind", ["bool", "labels", "soft", "probabilities"])
@pytest.mark.parametrize("network", [Same(), Bright(sureness=0.0)])
def test_what_is_not_surely_wrong_stays(network, kind):
    image, truth = photo(70, 90)
    mask = kinds_of(np.roll(truth, 5, 1))[kind]
    refined = refine_mask(network, image, mask, RefineConfig(strength=0.9)).mask
    if kind in ("bool", "labels"):
        np.testing.assert_array_equal(refined, mask)
    elif kind == "soft":
        np.testing.assert_array_equal(refined > 0.5, mask > 0.5)
    else:
        np.testing.assert_array_equal(refined.argmax(0), mask.argmax(0))


@pytest.mark.parametrize("kind", ["soft", "half", "probabilities"])
def test_soft_values_change_within_the_limits_alone(kind):
    image, truth = photo(70, 90)
    mask = kinds_of(np.roll(truth, 5, 1))[kind]
    far = np.ones(image.shape[:2], bool)
    far[:, 25:45] = far[:, :10] = False  # edges lie there, the second since the mask is rolled
    for config, stays in (
        (RefineConfig(strength=0), np.ones_like(far)),
        (RefineConfig(strength=1, radius=0), np.ones_like(far)),
        (RefineConfig(strength=1, radius=4), far),
        (RefineConfig(strength=1, classes=(9,)), np.ones_like(far)),
    ):
        refined = refine_mask(Bright(), image, mask, config).mask
        np.testing.assert_array_equal(refined[..., stays], mask[..., stays], err_msg=str(config))
    refined = refine_mask(Bright(), image, mask, RefineConfig(strength=1, radius=6)).mask
    assert (refined != mask)[..., ~far].any()


@pytest.mark.parametrize("order", [(3, 7), (7, 3)])
def test_ignored_pixels_are_a_side_of_their_own(order):
    """How far an edge may move beside them does not depend on how classes are numbered."""
    image = np.full((64, 96, 3), 220, np.uint8)
    labels = np.full((64, 96), order[0], np.uint8)
    labels[:, 40:50] = 255
    labels[:, 50:] = order[1]
    network = Bright()  # wants the larger number everywhere
    refined = refine_mask(network, image, labels, RefineConfig(strength=1, radius=3)).mask
    changed = np.flatnonzero((refined != labels).any(0))
    expected = range(37, 40) if order == (3, 7) else range(50, 53)
    assert changed.tolist() == list(expected)


class Counts(Same):
    """Counts its runs."""

    runs = 0

    def refine(self, images, masks, boxes=None):
        self.runs += 1
        return super().refine(images, masks, boxes)


def test_an_ignored_area_of_a_large_map_brings_no_class_from_elsewhere():
    image = np.full((96, 640, 3), 90, np.uint8)
    labels = np.ones((96, 640), np.uint8)  # the largest class
    labels[:, :100] = 0
    labels[20:70, 20:60] = 255
    labels[:, 600:] = 2
    config = RefineConfig(strength=1, core=64, margin=16)
    network = Counts()
    np.testing.assert_array_equal(refine_mask(network, image, labels, config).mask, labels)
    # The whole, and two parts with an edge; the part around the ignored area has one class.
    assert network.runs == 3


@pytest.mark.parametrize("kind", ["soft", "probabilities"])
def test_mirrored_and_read_only_arrays(kind):
    image, truth = photo(96, 640)
    mask = kinds_of(truth)[kind].astype(np.float32)
    mirrored, again = mask[..., ::-1], mask.copy()
    again.setflags(write=False)
    config = RefineConfig(strength=1, core=64, margin=16)
    flipped = refine_mask(Same(), image[:, ::-1].copy(), mirrored, config).mask
    np.testing.assert_allclose(
        flipped[..., ::-1], refine_mask(Same(), image, again, config).mask, atol=0.1
    )


def test_strength_is_the_lead_that_a_change_needs():
    image, truth = photo(64, 96)
    mask = np.roll(truth, 4, 1)
    # Bright pixels are foreground with a probability of 0.9: logit 2.2 at a brightness of 220.
    network = Bright(sureness=float(np.log(9) / (220 / 255 - 0.5)))
    # It leads by 0.8.
    for strength, is_changed in ((0.0, False), (0.15, False), (0.25, True), (1.0, True)):
        refined = refine_mask(network, image, mask, RefineConfig(strength=strength)).mask
        assert (refined[:, 32:36] != mask[:, 32:36]).all() == is_changed, strength


def test_at_strength_1_the_most_probable_of_many_classes_is_taken():
    part = Part([2, 5, 9], torch.tensor([1.0, 0, 0]).view(3, 1, 1), np.zeros((1, 1), np.bool_))
    probabilities = torch.tensor([0.3, 0.4, 0.3]).view(3, 1, 1)
    for strength, best in ((1.0, 1), (0.95, 1), (0.85, 0), (0.0, 0)):
        assert decide(part, probabilities, RefineConfig(strength=strength)).best.item() == best
    sure = torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)
    assert not decide(part, sure, RefineConfig(strength=0)).is_changed.any()


@pytest.mark.parametrize("value", [False, True])
def test_a_part_of_one_class_is_all_of_it(value):
    part = Part.of(np.full((4, 5), value), "binary")
    assert part.classes == [int(value)]
    assert torch.equal(part.masks, torch.ones(1, 4, 5))


@pytest.mark.parametrize("radius", [0, 1, 3, 500])
def test_an_edge_moves_no_farther_than_the_radius(radius):
    image, truth = photo(64, 96)
    mask = np.zeros_like(truth)
    mask[:, 50:] = True  # 18 pixels off
    refined = refine_mask(Bright(), image, mask, RefineConfig(strength=1, radius=radius)).mask
    assert (refined != mask).sum() == 64 * min(radius, 18)
    assert (refined[:, 50 - min(radius, 18) :]).all()


def test_ignored_pixels_stay_and_are_not_called_wrong():
    image, truth = photo(64, 96)
    mask = np.where(np.roll(truth, 6, 1), 7, 3).astype(np.uint8)
    mask[20:30] = 255
    refined, wrong = refine_mask(Bright(), image, mask, SURE)
    np.testing.assert_array_equal(refined == 255, mask == 255)
    assert not wrong[20:30].any()
    np.testing.assert_array_equal(refined[:20], np.where(truth, 7, 3)[:20])


@pytest.mark.parametrize("value", [0, 3, 255])
def test_a_mask_without_edges_stays(value):
    image, _ = photo(64, 96)
    mask = np.full((64, 96), value, np.uint8)
    refined, wrong = refine_mask(Bright(), image, mask, SURE)
    np.testing.assert_array_equal(refined, mask)
    assert not wrong.any()


def test_only_chosen_classes_change():
    image, truth = photo(64, 96)
    mask = np.where(np.roll(truth, 6, 1), 7, 3).astype(np.uint8)
    for classes, is_changed in (((3,), True), ((7,), True), ((5,), False)):
        config = RefineConfig(strength=1, classes=classes)
        assert (refine_mask(Bright(), image, mask, config).mask != mask).any() == is_changed


@pytest.mark.parametrize("kind", ["bool", "labels", "soft", "probabilities"])
@pytest.mark.parametrize("size", [(300, 90), (201, 333)])
def test_a_large_image_is_refined_in_parts(kind, size):
    image, truth = photo(*size)
    mask = kinds_of(np.roll(truth, 9, 1))[kind]
    network = Bright()
    config = RefineConfig(strength=1, core=64, margin=16)
    refined = refine_mask(network, image, mask, config).mask
    expected = kinds_of(truth)[kind]
    if kind in ("soft", "probabilities"):
        refined, expected = refined > 0.5, expected > 0.5
    np.testing.assert_array_equal(refined, expected)
    # First the whole, reduced to a part; then parts of 64 pixels with 16 around them.
    assert max(network.sizes[0]) <= 96
    assert max(max(size) for size in network.sizes) <= 96


def test_errors_wider_than_a_part_are_mended():
    class FromFar(Bright):
        """Sees brightness in small images alone: a part of a large one is too near."""

        def refine(self, images, masks, boxes=None):
            if not self.sizes:
                return super().refine(images, masks, boxes)
            return masks

    image, truth = photo(96, 640)
    mask = np.zeros_like(truth)
    mask[:, 600:] = True  # 387 pixels off, parts are 64 wide
    config = RefineConfig(strength=1, core=64, margin=16)
    refined = refine_mask(FromFar(), image, mask, config).mask
    assert (refined != truth).mean() < 0.01


def test_a_part_without_any_mask_is_not_run():
    class Hints(Same):
        """Finds a hint of an object in the whole image, and cannot run without a mask."""

        runs = 0

        def refine(self, images, masks, boxes=None):
            assert masks.shape[1] > 0
            self.runs += 1
            if self.runs > 1:
                return masks
            hint = masks.clone()
            hint[..., 12] += 0.04  # pixels 80 to 86: just beside what the first part sees
            return hint

    image = np.full((96, 640, 3), 90, np.uint8)
    mask = np.zeros((96, 640), bool)
    mask[40:60, 90:110] = True
    config = RefineConfig(strength=1, core=64, margin=16)
    np.testing.assert_array_equal(refine_mask(Hints(), image, mask, config).mask, mask)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((96, 64), bool), r"got \(96, 64\): the mask lies on its side"),
        (np.zeros((32, 48), bool), r"\(64, 96\).*got \(32, 48\): resize the mask"),
        (np.zeros((4, 64, 96, 1)), r"expected a mask \(64, 96\) or probabilities \(K, 64, 96\)"),
        (np.full((64, 96), -1), r"the mask holds negative values \[-1\]"),
        (np.full((64, 96), 256), "expected labels up to 255, got 256: number them anew"),
        (np.full((64, 96), 1.5), r"values in \[1.5, 1.5\]: expected shares in \[0, 1\]"),
        (np.full((64, 96), np.nan), "the mask holds NaN or infinity"),
        (np.full((3, 64, 96), 0.5), r"expected \(K, H, W\) probabilities of sum 1"),
        (np.ones((1, 64, 96)), r"2 classes or more, got 1: pass one as"),
        (np.full((64, 96), "a"), r"expected labels \(H, W\) as bool or integers"),
        (np.zeros((3, 64, 96), bool), r"got \(3, 64, 96\) bool: pass one label map"),
        (np.zeros((0, 64, 96)), "2 classes or more, got 0"),
        (np.zeros((64, 96, 3)), r"the classes come first: mask.transpose\(2, 0, 1\)"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused(mask, message):
    image, _ = photo(64, 96)
    with pytest.raises(PnaError, match=message):
        check_mask(image, mask)


def test_an_image_that_is_none_is_refused():
    with pytest.raises(PnaError, match=r"expected an image \(H, W, 3\) uint8, got \(64, 96\)"):
        check_mask(np.zeros((64, 96), np.uint8), np.zeros((64, 96), bool))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"strength": 1.2}, r"expected a strength in \[0, 1\], got 1.2"),
        ({"radius": -1}, "expected a radius of at least 0 pixels, got -1"),
        ({"core": 0}, "expected a core of at least 1 pixel"),
        ({"radius": 2.5}, "expected whole pixels, got radius=2.5"),
        ({"core": 64.0}, "expected whole pixels, got core=64.0"),
    ],
)
def test_a_value_out_of_range_is_refused(values, message):
    with pytest.raises(PnaError, match=message):
        RefineConfig(**values)


def test_near_edge_counts_rows_and_columns():
    labels = torch.zeros(9, 9, dtype=torch.int64)
    labels[4, 4] = 1
    near = near_edge(labels, 2)
    assert near.sum() == 25
    assert near[2:7, 2:7].all()


def test_many_classes_of_the_network_are_those_of_single_runs():
    torch.manual_seed(0)
    network = create_mask_refiner(encoder_weights=None).eval()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    labels = np.zeros((96, 128), np.uint8)
    labels[:50, :40], labels[30:, 80:] = 1, 2
    with torch.inference_mode():
        masks = torch.stack([torch.from_numpy(labels == k).float() for k in range(3)])[None]
        images = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
        together = network(images, masks)[-1].logits
        for k in range(3):
            alone = network(images, masks[:, k : k + 1])[-1].logits
            torch.testing.assert_close(together[:, k : k + 1], alone, atol=1e-5, rtol=1e-4)


class Unsure(Bright):
    """Doubts each mask: 0.4 wherever it looks."""

    def refine(self, images, masks, boxes=None):
        self.masks = masks
        return torch.full_like(masks, 0.4)


def test_of_many_classes_the_largest_is_what_the_others_leave():
    image = np.full((256, 256, 3), 90, np.uint8)
    labels = np.zeros((256, 256), np.uint8)
    labels[200:220, 20:40], labels[200:220, 200:220] = 3, 5
    network = Unsure()
    refined, _ = refine_mask(network, image, labels, SURE)
    assert network.masks.shape[1] == 2  # the background is not run
    # Far from both objects nothing else is possible.
    assert (refined[:128] == 0).all()
    assert (refined[:, 100:140] == 0).all()
    # At an object its own 0.4 is less than the 0.6 that it leaves.
    assert (refined == 0).all()


def test_a_doubted_background_is_not_given_to_a_class_from_elsewhere():
    """Twenty classes of a little doubt each do not add up to more than the background."""
    image = np.full((320, 320, 3), 90, np.uint8)
    labels = np.zeros((320, 320), np.uint8)
    for k in range(20):
        labels[300:310, 10 + 15 * k : 20 + 15 * k] = k + 1
    refined, wrong = refine_mask(Same(), image, labels, SURE)
    assert (refined[:224] == 0).all()
    assert (wrong[:224] == 0).all()
