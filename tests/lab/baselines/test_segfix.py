"""SegFix: branches, moved predictions, and its losses against scipy and by brute force."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from pna.lab.baselines.segfix import (
    BOUNDARY_WIDTH,
    DIRECTIONS,
    SegFix,
    direction_inside,
    distance_to_boundary,
    take_from_inside,
)
from pna.model.resize import resize

CHANNELS = (6, 8, 10)
SIZES = ((8, 12), (4, 6), (2, 3))


def _inputs(num_classes: int = 3) -> tuple[list[Tensor], Tensor, Tensor]:
    """Features, coarse logits and images."""
    torch.manual_seed(0)
    features = [
        torch.randn(2, c, *size, requires_grad=True)
        for c, size in zip(CHANNELS, SIZES, strict=True)
    ]
    return features, torch.randn(2, num_classes, 2, 3), torch.rand(2, 3, 32, 48)


def _segfix() -> SegFix:
    torch.manual_seed(1)
    return SegFix(CHANNELS, channels=16)


def test_a_pixel_at_a_boundary_takes_the_logits_in_its_direction() -> None:
    H, W = 7, 9
    logits = torch.randn(2, 4, H, W)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randint(8, (2, H, W), generator=generator)
    is_boundary = torch.rand(2, H, W, generator=generator) < 0.5
    out = take_from_inside(logits, is_boundary, direction, step=2)
    for b in range(2):
        for y in range(H):
            for x in range(W):
                down, right = DIRECTIONS[direction[b, y, x]]
                row, column = min(max(y + 2 * down, 0), H - 1), min(max(x + 2 * right, 0), W - 1)
                source = logits[b, :, row, column] if is_boundary[b, y, x] else logits[b, :, y, x]
                torch.testing.assert_close(out[b, :, y, x], source, rtol=0, atol=0)


@pytest.mark.parametrize("num_classes", [1, 2, 21])
def test_one_stage_at_the_images_size(num_classes: int) -> None:
    features, coarse, images = _inputs(num_classes)
    with torch.no_grad():
        (stage,) = _segfix().eval()(features, coarse, images=images)
    assert stage.shape == (2, num_classes, 32, 48)


def test_branches_are_those_of_the_concatenation() -> None:
    """As in the paper: all levels at the finest size, concatenated, then 1x1, norm, ReLU."""
    segfix, (features, _, _) = _segfix().eval(), _inputs()
    for name, buffer in segfix.norm.named_buffers():
        if "running" in name:
            buffer.add_(0.3)
    joined = torch.cat([resize(x, SIZES[0]) for x in features], 1)
    weight = torch.cat([conv.weight for conv in segfix.reduce], 1)
    hidden = segfix.norm(torch.nn.functional.conv2d(joined, weight)).relu()
    boundary, direction = segfix.branches(features)
    torch.testing.assert_close(boundary, segfix.boundary(hidden[:, :16]))
    torch.testing.assert_close(direction, segfix.direction(hidden[:, 16:]))


def test_pixels_off_the_boundary_keep_their_logits() -> None:
    segfix, (features, coarse, images) = _segfix().eval(), _inputs()
    upsampled = resize(coarse, (32, 48))
    # The branches are linear in their last layer: a positive boundary in the right half only.
    with torch.no_grad():
        for reduce in segfix.reduce:
            reduce.weight.zero_()
        segfix.reduce[0].weight[0, 0] = 1
        segfix.boundary.weight.zero_()[0, 0] = 1
        segfix.direction.weight.zero_()
        features[0][:, 0] = -1
        features[0][:, 0, :, 6:] = 1
        fixed = segfix(features, coarse, images=images)[0]
    torch.testing.assert_close(fixed[..., :22], upsampled[..., :22], rtol=0, atol=0)
    # All directions score 0, so the first one is chosen: from the right.
    torch.testing.assert_close(fixed[..., 26:46], upsampled[..., 28:], rtol=0, atol=0)


def test_training_reaches_the_features() -> None:
    segfix, (features, coarse, images) = _segfix().train(), _inputs()
    refined = segfix.forward_training(features, coarse, images=images)
    assert refined.stages == []
    assert {k: v.shape for k, v in refined.aux.items()} == {
        "boundary": (2, 1, 8, 12),
        "direction": (2, 8, 8, 12),
    }
    sum(x.square().sum() for x in refined.aux.values()).backward()
    assert all(p.grad.abs().max() > 0 for p in segfix.parameters())
    assert all(x.grad.abs().max() > 0 for x in features)


# ---- losses


def blobs(height: int, width: int, *, batch: int = 1, num_classes: int = 4) -> Tensor:
    """Labels of smooth regions, some of them ignored."""
    rng = np.random.default_rng(height * width)
    noise = rng.normal(size=(batch, num_classes, height, width))
    smooth = ndimage.gaussian_filter(noise, (0, 0, 5, 5))
    labels = smooth.argmax(1)
    labels[labels == num_classes - 1] = 255
    return torch.from_numpy(labels)


def disc(size: int, radius: float) -> Tensor:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    middle = (size - 1) / 2
    return (((y - middle) ** 2 + (x - middle) ** 2).sqrt() <= radius).long()[None]


def depths(labels: np.ndarray) -> dict[int, np.ndarray]:
    return {
        int(label): ndimage.distance_transform_edt(labels == label) for label in np.unique(labels)
    }


@pytest.mark.parametrize("size", [(64, 80), (37, 53), (5, 40), (1, 9), (1, 1)])
def test_distances_are_scipys(size: tuple[int, int]) -> None:
    labels = blobs(*size, batch=2)
    found = distance_to_boundary(labels).numpy()
    for image, distance in zip(labels.numpy(), found, strict=True):
        if len(np.unique(image)) == 1:
            assert (distance == 8).all()
            continue
        expected = sum(depths(image).values())  # each is 0 outside of its region
        np.testing.assert_allclose(distance, np.minimum(expected, 8), rtol=1e-6)


def test_directions_are_the_slope_of_scipys_distances() -> None:
    labels = blobs(64, 80)
    found = direction_inside(labels, distance_to_boundary(labels))[0].numpy()
    offsets = np.arange(-2, 3)
    squares = offsets[:, None] ** 2 + offsets**2
    squares[2, 2] = 1
    image, checked = labels[0].numpy(), 0
    for label, depth in depths(image).items():
        down = ndimage.correlate(depth, offsets[:, None] / squares, mode="nearest")
        right = ndimage.correlate(depth, offsets / squares, mode="nearest")
        octants = np.arctan2(down, right) / (np.pi / 4)
        sure = np.abs(octants - octants.round()) < 0.49  # not between two directions
        here = (image == label) & (depth <= BOUNDARY_WIDTH) & sure & (np.hypot(down, right) > 0.1)
        here[:2], here[-2:], here[:, :2], here[:, -2:] = False, False, False, False
        assert (found[here] == octants.round()[here].astype(int) % 8).all()
        checked += here.sum()
    assert checked > 1000


@pytest.mark.parametrize("radius", [12.0, 20.0])
def test_directions_lead_to_the_inside(radius: float) -> None:
    """By brute force: towards the middle within a disc, away from it outside, and deeper."""
    labels = disc(65, radius)
    distance = distance_to_boundary(labels)
    direction = direction_inside(labels, distance)[0]
    for y, x in (distance[0] <= BOUNDARY_WIDTH).nonzero().tolist():
        down, right = DIRECTIONS[direction[y, x]]
        inwards = 1 if labels[0, y, x] else -1
        wanted = math.atan2(inwards * (32 - y), inwards * (32 - x))
        turn = (math.atan2(down, right) - wanted + math.pi) % (2 * math.pi) - math.pi
        assert abs(turn) < math.radians(22.5 + 6)  # half of an octant, and the pixels' corners
        ahead = y + 2 * down, x + 2 * right
        assert labels[0, y, x] == labels[0, *ahead]
        assert distance[0, *ahead] > distance[0, y, x]


@pytest.mark.parametrize("shift", [(0, 2), (2, 0), (0, -2), (-1, 1)])
def test_a_known_shift_is_recovered(shift: tuple[int, int]) -> None:
    """A prediction that lies two pixels beside the truth, and true boundaries and directions."""
    labels = torch.zeros(1, 48, 64, dtype=torch.long)
    labels[:, 14:36, 12:30] = 1
    labels[:, :, 44:] = 2
    for truth, at_corners in ((labels, 2), (disc(65, 20.0), 0)):
        distance = distance_to_boundary(truth)
        direction = direction_inside(truth, distance)
        moved = truth.roll(shift, (1, 2))
        moved[:, :2], moved[:, -2:] = truth[:, :2], truth[:, -2:]
        moved[..., :2], moved[..., -2:] = truth[..., :2], truth[..., -2:]
        logits = F.one_hot(moved, 3).permute(0, 3, 1, 2).float()
        fixed = take_from_inside(logits, distance <= BOUNDARY_WIDTH, direction, step=2).argmax(1)
        assert (moved != truth).sum() > 50
        assert (fixed != truth).sum() <= at_corners


def test_an_eroded_region_is_restored() -> None:
    labels = disc(65, 20.0)
    eroded = torch.from_numpy(ndimage.binary_erosion(labels[0].numpy(), iterations=2)).long()[None]
    distance = distance_to_boundary(labels)
    logits = F.one_hot(eroded, 2).permute(0, 3, 1, 2).float()
    direction = direction_inside(labels, distance)
    fixed = take_from_inside(logits, distance <= BOUNDARY_WIDTH, direction, step=2).argmax(1)
    assert (eroded != labels).sum() > 100
    torch.testing.assert_close(fixed, labels)


def outputs(size: tuple[int, int]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.randn(2, channels, *size).requires_grad_()
        for name, channels in (("boundary", 1), ("direction", 8))
    }


def test_losses_are_their_definition() -> None:
    labels, aux = blobs(32, 40, batch=2), outputs((32, 40))
    found = _segfix().losses(aux, labels)
    assert list(found) == ["boundary", "direction"]
    distance = distance_to_boundary(labels)
    target = direction_inside(labels, distance)
    is_boundary, valid = distance <= BOUNDARY_WIDTH, labels != 255
    log_p = F.logsigmoid(aux["boundary"][:, 0]), F.logsigmoid(-aux["boundary"][:, 0])
    # With two classes these weights make the mean of the classes' means.
    means = [-log_p[0][valid & is_boundary].mean(), -log_p[1][valid & ~is_boundary].mean()]
    torch.testing.assert_close(found["boundary"], (means[0] + means[1]) / 2)
    at = valid & is_boundary
    shares = torch.stack([(target[at] == k).float().mean() for k in range(8)])
    scores = aux["direction"].permute(0, 2, 3, 1)[at]
    expected = F.cross_entropy(scores, target[at], weight=1 - shares)
    torch.testing.assert_close(found["direction"], expected)


def test_the_truth_has_no_loss() -> None:
    labels = blobs(32, 40, batch=2)
    distance = distance_to_boundary(labels)
    target = F.one_hot(direction_inside(labels, distance), 8).permute(0, 3, 1, 2).float()
    boundary = (distance <= BOUNDARY_WIDTH).float()[:, None]
    found = _segfix().losses({"boundary": 40 * boundary - 20, "direction": 40 * target}, labels)
    assert max(found.values()) < 1e-6


def test_ignored_pixels_have_no_gradient_at_any_stride() -> None:
    labels, aux = blobs(32, 40, batch=2), outputs((32, 40))
    sum(_segfix().losses(aux, labels).values()).backward()
    for logits in aux.values():
        gradient = logits.grad.abs().sum(1)
        assert gradient[labels != 255].any()
        assert not gradient[labels == 255].any()
    coarse = outputs((8, 10))
    sum(_segfix().losses(coarse, labels).values()).backward()
    assert all(x.grad.isfinite().all() and x.grad.any() for x in coarse.values())


@pytest.mark.parametrize("label", [255, 3])
def test_one_region_alone(label: int) -> None:
    """Ignored: all is 0, with a graph. Of one class: no pixel has a direction."""
    aux = outputs((4, 5))
    found = _segfix().losses(aux, torch.full((2, 16, 20), label))
    sum(found.values()).backward()
    assert found["direction"].detach() == 0
    assert not aux["direction"].grad.any()
    assert aux["boundary"].grad.any() == (label != 255)
    if label == 255:
        assert found["boundary"].detach() == 0
