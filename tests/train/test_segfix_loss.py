"""SegFix's targets against scipy and by brute force, its losses, and what both make of a shift."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from pna.model.rivals.segfix import DIRECTIONS, take_from_inside
from pna.train.segfix_loss import WIDTH, direction_inside, distance_to_boundary, segfix_losses


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
    for picture, distance in zip(labels.numpy(), found, strict=True):
        if len(np.unique(picture)) == 1:
            assert (distance == 8).all()
            continue
        expected = sum(depths(picture).values())  # each is 0 outside of its region
        np.testing.assert_allclose(distance, np.minimum(expected, 8), rtol=1e-6)


def test_directions_are_the_slope_of_scipys_distances() -> None:
    labels = blobs(64, 80)
    found = direction_inside(labels, distance_to_boundary(labels))[0].numpy()
    offsets = np.arange(-2, 3)
    squares = offsets[:, None] ** 2 + offsets**2
    squares[2, 2] = 1
    picture, checked = labels[0].numpy(), 0
    for label, depth in depths(picture).items():
        down = ndimage.correlate(depth, offsets[:, None] / squares, mode="nearest")
        right = ndimage.correlate(depth, offsets / squares, mode="nearest")
        octants = np.arctan2(down, right) / (np.pi / 4)
        sure = np.abs(octants - octants.round()) < 0.49  # not between two directions
        here = (picture == label) & (depth <= WIDTH) & sure & (np.hypot(down, right) > 0.1)
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
    for y, x in (distance[0] <= WIDTH).nonzero().tolist():
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
        fixed = take_from_inside(logits, distance <= WIDTH, direction, step=2).argmax(1)
        assert (moved != truth).sum() > 50
        assert (fixed != truth).sum() <= at_corners


def test_an_eroded_region_is_restored() -> None:
    labels = disc(65, 20.0)
    eroded = torch.from_numpy(ndimage.binary_erosion(labels[0].numpy(), iterations=2)).long()[None]
    distance = distance_to_boundary(labels)
    logits = F.one_hot(eroded, 2).permute(0, 3, 1, 2).float()
    direction = direction_inside(labels, distance)
    fixed = take_from_inside(logits, distance <= WIDTH, direction, step=2).argmax(1)
    assert (eroded != labels).sum() > 100
    torch.testing.assert_close(fixed, labels)


def outputs(
    size: tuple[int, int], batch: int = 2, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        name: torch.randn(batch, channels, *size, dtype=dtype).requires_grad_()
        for name, channels in (("boundary", 1), ("direction", 8))
    }


def test_losses_are_their_definition() -> None:
    labels, aux = blobs(32, 40, batch=2), outputs((32, 40))
    found = segfix_losses(aux, labels)
    assert list(found) == ["boundary", "direction"]
    distance = distance_to_boundary(labels)
    target = direction_inside(labels, distance)
    is_boundary, valid = distance <= WIDTH, labels != 255
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
    boundary = (distance <= WIDTH).float()[:, None]
    found = segfix_losses({"boundary": 40 * boundary - 20, "direction": 40 * target}, labels)
    assert max(found.values()) < 1e-6


def test_ignored_pixels_have_no_gradient_at_any_stride() -> None:
    labels, aux = blobs(32, 40, batch=2), outputs((32, 40))
    sum(segfix_losses(aux, labels).values()).backward()
    for logits in aux.values():
        gradient = logits.grad.abs().sum(1)
        assert gradient[labels != 255].any()
        assert not gradient[labels == 255].any()
    coarse = outputs((8, 10))
    sum(segfix_losses(coarse, labels).values()).backward()
    assert all(x.grad.isfinite().all() and x.grad.any() for x in coarse.values())


@pytest.mark.parametrize("label", [255, 3])
def test_one_region_alone(label: int) -> None:
    """Ignored: all is 0, with a graph. Of one class: no pixel has a direction."""
    aux = outputs((4, 5))
    found = segfix_losses(aux, torch.full((2, 16, 20), label))
    sum(found.values()).backward()
    assert found["direction"].detach() == 0
    assert not aux["direction"].grad.any()
    assert aux["boundary"].grad.any() == (label != 255)
    if label == 255:
        assert found["boundary"].detach() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_losses_are_at_least_float32(dtype: torch.dtype) -> None:
    found = segfix_losses(outputs((8, 10), dtype=dtype), blobs(32, 40, batch=2))
    wanted = torch.float64 if dtype == torch.float64 else torch.float32
    assert {x.dtype for x in found.values()} == {wanted}
    assert all(x.detach().isfinite() for x in found.values())
