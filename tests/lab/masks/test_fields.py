"""Distances, widths and noise against direct computations."""

import numpy as np
import pytest

from pna.lab.masks import fields
from pna.lab.masks.fields import (
    bounds,
    distance_to,
    extent,
    mean_width,
    resize,
    shrink,
    signed_distance,
    smooth_noise,
)


def brute_force(targets):
    y, x = np.indices(targets.shape)
    rows, columns = np.nonzero(targets)
    distances = np.hypot(y[..., None] - rows, x[..., None] - columns).min(axis=2)
    return np.maximum(distances - 0.5, 0)


@pytest.mark.parametrize("shape", [(1, 1), (1, 17), (13, 1), (23, 31)])
@pytest.mark.parametrize("reach", [0.5, 3.2, 40.0])
def test_distances_are_exact_within_reach(shape, reach):
    rng = np.random.default_rng(0)
    for share in (0.02, 0.3, 0.9):
        targets = rng.random(shape) < share
        targets.flat[rng.integers(targets.size)] = True
        expected = brute_force(targets)
        found = distance_to(targets, reach)
        near = expected <= reach
        np.testing.assert_allclose(found[near], expected[near], atol=1e-5)
        assert (found[~near] > reach).all()


def test_without_a_target_everything_is_far():
    assert (distance_to(np.zeros((5, 7), bool), 3) > 3).all()


def test_a_distance_on_a_coarser_grid_is_close(monkeypatch):
    y, x = np.indices((160, 200))
    disk = np.hypot(y - 80, x - 100) < 50
    exact = signed_distance(disk, 40)
    monkeypatch.setattr(fields, "_WORK", 2e4)  # a step of 4 pixels
    coarse = signed_distance(disk, 40)
    near = np.abs(exact) < 40
    assert 0 < np.abs(coarse - exact)[near].max() < 4


def test_the_border_of_the_image_is_no_boundary():
    left = np.arange(20)[None].repeat(10, 0) < 12
    assert signed_distance(left, 30)[:, 0].tolist() == [11.5] * 10
    assert mean_width(left) == pytest.approx(2 * 12 / (np.pi / 4))


def test_the_mean_width_of_a_disk_is_its_radius():
    y, x = np.indices((300, 300))
    assert mean_width(np.hypot(y - 150, x - 150) < 100) == pytest.approx(100, rel=0.02)


def test_a_box_and_its_longer_side():
    mask = np.zeros((9, 12), bool)
    mask[2, 3] = mask[4, 10] = True
    assert bounds(mask) == (slice(2, 5), slice(3, 11))
    assert extent(mask) == 8


def test_areas_are_averaged_and_never_less_than_a_pixel_is_left():
    mask = np.arange(30).reshape(5, 6) % 2 == 0
    assert shrink(mask, 100).tolist() == [[0.5]]
    assert shrink(mask, 3).shape == (2, 2)
    assert resize(np.array([[0.0, 1.0]]), (1, 4)).tolist() == [[0.0, 0.25, 0.75, 1.0]]


def test_noise_is_smooth_and_alike_at_all_sizes():
    large = smooth_noise((90, 240), 6, np.random.default_rng(1))
    small = smooth_noise((30, 80), 6, np.random.default_rng(1))
    assert np.abs(large[1::3, 1::3] - small).max() < 0.05
    assert 0.3 < large.std() < 1.2
    assert np.abs(np.diff(large, axis=1)).max() < 0.2
    assert smooth_noise((1, 3), 9, np.random.default_rng(1)).shape == (1, 3)
