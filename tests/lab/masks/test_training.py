"""Scenes, losses, scores and calibration of mask refiners, on drawings."""

import numpy as np
import pytest
import torch
from PIL import Image

from pna.errors import PnaError
from pna.lab.masks.calibration import calibrate, calibration_error
from pna.lab.masks.decoder import create_mask_decoder
from pna.lab.masks.examples import draw_example, draw_shapes, join, paste_copies
from pna.lab.masks.scenes import (
    Scene,
    cut,
    cut_part,
    cut_scene,
    find_colored,
    find_crisp,
    read_scene,
    split,
)
from pna.lab.masks.scoring import Pair, read_pairs, score_mask, score_set
from pna.lab.masks.training import (
    Batch,
    dice_loss,
    disturb,
    draw_batch,
    near_edges,
    refinement_losses,
)
from pna.labels import LabelSpace, generic
from pna.refinement.network import StageResult, create_mask_refiner


@pytest.fixture(scope="module")
def crisp(tmp_path_factory):
    """A folder of drawn scenes: 20 of kind "disk", 3 of "empty"."""
    root = tmp_path_factory.mktemp("crisp")
    for name in ("images", "masks", "objects"):
        (root / name).mkdir()
    y, x = np.mgrid[:90, :120]
    for i in range(20):
        mask = (y - 45) ** 2 + (x - 40 - i) ** 2 < 25**2
        image = np.where(mask[..., None], (200, 180, 40), (30, 60, 90)).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"disk_{i:02}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / "masks" / f"disk_{i:02}.png")
    for i in range(3):
        Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(root / "images" / f"two_{i}.png")
        objects = np.zeros((40, 50), np.uint8)
        objects[5:20, 5:20], objects[25:38, 30:48] = 1, 2
        Image.fromarray(objects).save(root / "objects" / f"two_{i}.png")
        Image.fromarray((objects > 0).astype(np.uint8) * 255).save(root / "masks" / f"two_{i}.png")
    return root


def test_scenes_are_found_and_split(crisp):
    scenes = find_crisp(crisp, ["disk", "two"], without=["disk_03"])
    assert [scene.image.stem for scene in scenes[:4]] == [
        "disk_00",
        "disk_01",
        "disk_02",
        "disk_04",
    ]
    assert scenes[-1].objects.parent.name == "objects"
    train, held_out = split(scenes)
    assert [scene.image.stem for scene in held_out] == ["disk_00", "disk_11", "two_0"]
    assert len(train) + len(held_out) == len(scenes) == 22
    assert read_scene(scenes[-1])[1].max() == 2
    with pytest.raises(PnaError, match=r"expected images named cat_\.\.\., got none"):
        find_crisp(crisp, ["cat"])


def test_an_image_without_a_mask_is_refused(tmp_path):
    for name in ("images", "masks", "objects"):
        (tmp_path / name).mkdir()
        Image.new("L", (5, 4)).save(tmp_path / name / "disk_0.png")
    Image.new("RGB", (5, 4)).save(tmp_path / "images" / "disk_1.png")
    with pytest.raises(PnaError, match=r"disk_1\.png: expected a mask of that name"):
        find_crisp(tmp_path, ["disk"])
    with pytest.raises(PnaError, match=r"disk_1\.png: expected a mask of that name"):
        find_colored(tmp_path, "disk", generic(2))


def test_ignored_pixels_of_colored_maps_are_no_object(tmp_path):
    labels = LabelSpace("two", ("ground", "crack"), ((0, 0, 0), (200, 10, 10)))
    colors = np.zeros((20, 30, 3), np.uint8)
    colors[:10], colors[10:12] = (200, 10, 10), (224, 224, 192)
    Image.fromarray(colors).save(tmp_path / "m.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "i.png")
    _, objects = read_scene(Scene(tmp_path / "i.png", tmp_path / "m.png", "crack", labels))
    assert np.unique(objects[:10]).tolist() == [1]
    assert not objects[10:].any()


def test_scenes_without_an_object_end(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "i.png")
    Image.new("L", (40, 40)).save(tmp_path / "m.png")
    scene = Scene(tmp_path / "i.png", tmp_path / "m.png", "empty")
    with pytest.raises(PnaError, match="expected scenes with objects of 64 pixels or more"):
        cut_scene([scene], (32, 32), np.random.default_rng(0))


def test_a_map_of_another_size_is_refused(crisp, tmp_path):
    (scene, *_) = find_crisp(crisp, ["disk"])
    Image.new("L", (5, 4)).save(tmp_path / "m.png")
    with pytest.raises(PnaError, match=r"m\.png: expected a map of \(90, 120\)"):
        read_scene(type(scene)(scene.image, tmp_path / "m.png", "disk"))


@pytest.mark.parametrize("size", [(64, 64), (48, 80), (200, 200)])
def test_a_part_shows_the_object_with_its_mask(crisp, size):
    image, objects = read_scene(find_crisp(crisp, ["disk"])[0])
    for seed in range(10):
        example = cut(image, objects > 0, size, np.random.default_rng(seed))
        assert example.image.shape == (*size, 3)
        assert example.mask.shape == size
        assert example.mask.any()
        # The disk is bright: image and mask agree but for pixels at the edge.
        assert ((example.image[..., 0] > 115) != example.mask).mean() < 0.02


def test_a_square_part_has_its_map(crisp):
    image, objects = read_scene(find_crisp(crisp, ["disk"])[0])
    for seed in range(5):
        part, ids = cut_part(image, objects, 64, np.random.default_rng(seed))
        assert part.shape == (64, 64, 3)
        assert ((part[..., 0] > 115) != (ids > 0)).mean() < 0.05


def test_the_same_seed_draws_the_same(crisp):
    scenes = find_crisp(crisp, ["disk", "two"])
    draws = [draw_example(scenes, (64, 64), np.random.default_rng(s)) for s in (0, 0, 1)]
    np.testing.assert_array_equal(draws[0].image, draws[1].image)
    assert not np.array_equal(draws[0].mask, draws[2].mask)


def test_copies_cover_the_object_only_where_the_mask_says(crisp):
    image, objects = read_scene(find_crisp(crisp, ["two"])[0])
    example = cut(image, objects == 1, (64, 64), np.random.default_rng(0))
    bright = example.image.copy()
    bright[example.mask] = (250, 10, 10)
    pasted = paste_copies(example._replace(image=bright), np.random.default_rng(1))
    assert pasted.mask.sum() <= example.mask.sum()
    assert (pasted.mask <= example.mask).all()


def test_drawings_have_a_mask():
    for seed in range(20):
        example = draw_shapes((60, 80), np.random.default_rng(seed))
        assert example.image.shape == (60, 80, 3)
        assert 0 < example.mask.sum() < example.mask.size


def test_a_third_of_the_masks_is_right(crisp):
    mask = read_scene(find_crisp(crisp, ["disk"])[0])[1] > 0
    differing = [(disturb(mask, np.random.default_rng(s)) - mask).any() for s in range(300)]
    assert 0.55 < np.mean(differing) < 0.78


def test_a_batch_depends_on_step_and_seed(crisp):
    scenes = find_crisp(crisp, ["disk", "two"])
    options = {"size": (32, 48), "batch_size": 2}
    batches = [
        draw_batch(scenes, step, seed=seed, **options) for step, seed in ((3, 0), (3, 0), (4, 0))
    ]
    assert batches[0].images.shape == (2, 3, 32, 48)
    assert batches[0].given.shape == batches[0].truth.shape == (2, 1, 32, 48)
    for a, b in zip(batches[0], batches[1], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(batches[0].images, batches[2].images)


def test_losses_are_small_for_the_truth_and_large_for_its_opposite():
    truth = torch.zeros(1, 1, 64, 64)
    truth[..., 20:40, 10:50] = 1
    batch = Batch(torch.rand(1, 3, 64, 64), truth, truth, truth)

    def losses(sign):
        logits = sign * (20 * truth - 10)
        coarse = torch.nn.functional.avg_pool2d(logits, 2)
        return refinement_losses(
            lambda images, masks: [StageResult(coarse, None), StageResult(logits, None)], batch
        )

    right, wrong = losses(1), losses(-1)
    assert right.keys() == {"final", "stages"}
    assert float(sum(right.values())) < 0.01
    assert float(sum(wrong.values())) > 10


@pytest.mark.parametrize(
    "create",
    [
        create_mask_refiner,
        lambda **options: create_mask_decoder(pass_features=True, **options),
        lambda **options: create_mask_decoder(pass_features=False, **options),
    ],
    ids=["refiner", "decoder-features", "decoder"],
)
def test_every_parameter_gets_a_gradient(create, crisp):
    torch.manual_seed(0)
    network = create(encoder_weights=None)
    scenes = find_crisp(crisp, ["disk"])
    losses = refinement_losses(network, draw_batch(scenes, 0, size=(64, 64), batch_size=4, seed=0))
    sum(losses.values()).backward()
    assert ("affinity" in losses) == (create is create_mask_refiner)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_dice():
    truth = torch.zeros(1, 1, 10, 10)
    truth[..., :5] = 1
    assert float(dice_loss(truth, truth)) == 0
    assert float(dice_loss(1 - truth, truth)) == pytest.approx(1 - 1 / 101)


def test_near_edges_is_4_pixels_to_both_sides():
    mask = torch.zeros(1, 1, 5, 20)
    mask[..., 10:] = 1
    assert near_edges(mask)[0, 0, 2].nonzero().flatten().tolist() == list(range(6, 14))


def test_scores_of_a_shifted_square():
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    mask = np.roll(truth, 2, 1) > 0
    scores = score_mask(mask, truth)
    assert scores.iou == pytest.approx(18 / 22)
    assert scores.boundary_iou < scores.iou
    truth[:, 28:32] = 255  # where the mask is wrong on one side
    assert score_mask(mask, truth).iou == pytest.approx(16 / 18)


def test_a_set_counts_what_got_worse():
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    image = np.zeros((40, 40, 3), np.uint8)
    shifted = np.roll(truth, 2, 1).astype(np.float32)
    pairs = [
        Pair("better", image, shifted, truth),
        Pair("worse", image, truth.astype(np.float32), np.roll(truth, 2, 1)),
        Pair("harm", image, truth.astype(np.float32), truth),
    ]
    scores = score_set(pairs, lambda image, given: truth if (given == shifted).all() else shifted)
    assert scores.number == 3
    assert scores.share_worse == pytest.approx(1 / 3)
    assert scores.largest_loss == pytest.approx(1 - 18 / 22)
    assert scores.share_changed == pytest.approx(80 / 1600)
    with pytest.raises(PnaError, match="expected images to score, got none"):
        score_set([], lambda image, given: given)


def test_real_masks_of_all_kinds_are_read(tmp_path):
    for name in ("images", "gt", "net"):
        (tmp_path / name).mkdir()
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:20] = 1
    color = np.zeros((20, 30, 3), np.uint8)
    color[mask > 0] = (0, 0, 255)
    color[4, 4] = (0, 0, 9)  # a soft edge
    void = mask * 7
    void[0] = 255
    for name, truth, given in (
        ("gray", mask * 255, (mask * 180 + 20).astype(np.uint8)),
        ("color", color, mask * 3),
        ("classes", void, mask * 7),
        ("one_viewer", mask * 255, mask * 255),
    ):
        stem = name.partition("_")[0]
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "images" / f"{stem}.png")
        Image.fromarray(truth).save(tmp_path / "gt" / f"{name}.png")
        Image.fromarray(given).save(tmp_path / "net" / f"{name}.png")
    pairs = {pair.name: pair for pair in read_pairs(tmp_path, "net")}
    assert pairs.keys() == {"gray", "color", "classes", "one_viewer"}
    for name, pair in pairs.items():
        np.testing.assert_array_equal(pair.given > 0.5, mask > 0, err_msg=name)
        np.testing.assert_array_equal(pair.truth[1:], mask[1:], err_msg=name)
    assert (pairs["classes"].truth[0] == 255).all()
    assert pairs["gray"].given.min() == pytest.approx(20 / 255)
    (tmp_path / "gt" / "gray.png").unlink()
    with pytest.raises(PnaError, match=r"gray\.png: expected an image and an accurate mask"):
        list(read_pairs(tmp_path, "net"))


class TooSure(torch.nn.Module):
    """Logits are three times as large as they should be."""

    def logits_at_sizes(self, images, masks):
        return 3 * images[None, :, :1]


def test_the_temperature_makes_probabilities_true():
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 200, 200) * 2
    truth = torch.bernoulli(logits.sigmoid())
    batch = Batch(logits.expand(-1, 3, -1, -1), truth, truth, truth)
    temperature = calibrate(TooSure(), [batch])
    assert temperature == pytest.approx(3, rel=0.07)
    before, after = (
        calibration_error(TooSure(), [batch], temperature=t) for t in (1.0, temperature)
    )
    assert after < 0.02 < before
    empty = torch.zeros(1, 1, 8, 8)
    flat = Batch(torch.zeros(1, 3, 8, 8), empty, empty, empty)
    with pytest.raises(PnaError, match="expected masks with edges"):
        calibrate(TooSure(), [flat])


def test_a_cut_scene_is_no_drawing_and_has_the_outline_of_its_image(crisp):
    scenes = find_crisp(crisp, ["disk"])
    for seed in range(20):
        example = cut_scene(scenes, (64, 96), np.random.default_rng(seed))
        assert example.image.shape == (64, 96, 3)
        # Yellow is the object; smoothing of the image mixes the colors at its edge.
        is_object = example.image[..., 0] > 115
        assert (is_object != example.mask).mean() < 0.02


@pytest.mark.parametrize("size", [(64, 64), (65, 100)])
def test_joined_scenes_have_the_mask_of_one(crisp, size):
    scenes = find_crisp(crisp, ["disk"])
    shares = []
    for seed in range(12):
        example = join(scenes, size, np.random.default_rng(seed))
        assert (*example.mask.shape, 3) == example.image.shape == (*size, 3)
        is_object = example.image[..., 0] > 115
        assert (example.mask & ~is_object).mean() < 0.02
        rows, cols = np.flatnonzero(example.mask.any(1)), np.flatnonzero(example.mask.any(0))
        shares.append(max((np.ptp(rows) + 1) / size[0], (np.ptp(cols) + 1) / size[1]))
        assert is_object.sum() > example.mask.sum()  # others have objects, too
    assert max(shares) <= 0.52
