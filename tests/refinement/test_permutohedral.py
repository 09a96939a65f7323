"""The lattice's filter against sums over all pairs, and what holds exactly."""

import numpy as np
import pytest
import torch

from pna.errors import PnaError
from pna.refinement.permutohedral import PermutohedralLattice


def gaussian(features):
    """(N, N) weights of every pair."""
    features = features.astype(np.float64)
    squares = ((features[:, None] - features[None]) ** 2).sum(-1)
    return np.exp(-squares / 2)


def points(d, spread, count=600):
    rng = np.random.default_rng(d)
    return (spread * rng.random((count, d))).astype(np.float32)


def waves(features, count=3):
    """(N, count) values that vary on the scale of the Gaussian, between -1 and 1."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(features.shape[1], count))
    directions /= np.linalg.norm(directions, axis=0)
    return np.sin(features @ directions + rng.random(count)).astype(np.float32)


# The kernel is a sum of hat functions around the vertices, not a Gaussian, and depends on where in
# its simplex a point lies: single means of values in [-1, 1] are off by some hundredths, and by
# more where more axes spread the points thinner, so that gaps stop the blur. Measured at most:
# 0.051, 0.055, 0.087, 0.082, 0.134; on average over points 0.013 to 0.027.
@pytest.mark.parametrize(
    ("d", "spread", "bound"),
    [(1, 6, 0.06), (2, 6, 0.07), (3, 4, 0.10), (5, 2, 0.10), (5, 3, 0.15)],
)
def test_means_are_those_of_a_gaussian(d, spread, bound):
    features = points(d, spread)
    values, ones = waves(features), np.ones((len(features), 1), np.float32)
    lattice = PermutohedralLattice(features)
    found = lattice.filter(values) / lattice.filter(ones)
    weights = gaussian(features)
    expected = weights @ values / (weights @ ones)
    assert np.abs(found - expected).max() < bound
    assert np.abs(found - expected).mean() < 0.03
    assert np.abs(expected - values).mean() > 0.2  # what the filter changes


def test_sums_are_those_of_a_gaussian():
    features = points(2, 8, count=1500)
    found = PermutohedralLattice(features).filter(np.ones((1500, 1), np.float32))
    expected = gaussian(features).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=0.1)
    assert float((found / expected).mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_the_kernel_has_the_gaussians_width(d):
    """Variance 1 along every axis: of the kernel around the middle of a grid without gaps."""
    side, cells = {1: (12, 101), 2: (10, 41), 3: (8, 21), 5: (7, 8)}[d]
    axis = np.linspace(-side / 2, side / 2, cells)
    grid = np.stack(np.meshgrid(*[axis] * d), axis=-1).reshape(-1, d).astype(np.float32)
    rng = np.random.default_rng(d)
    moments = []
    for shift in rng.random((8, d)):  # the shape depends on the place; the mean of places does not
        features = np.concatenate([grid + shift.astype(np.float32), shift[None]], dtype=np.float32)
        values = np.zeros((len(features), 1), np.float32)
        values[-1] = 1
        kernel = PermutohedralLattice(features).filter(values)[:-1, 0].astype(np.float64)
        moments.append((kernel[:, None] * grid**2).sum(axis=0) / kernel.sum())
    # The grid cuts what lies farther than half its side; with 5 axes it is coarse, too.
    np.testing.assert_allclose(np.mean(moments, axis=0), np.ones(d), atol=0.15)


def test_linear():
    features = points(5, 3)
    a, b = waves(features), np.random.default_rng(1).random((600, 3), np.float32)
    lattice = PermutohedralLattice(features)
    together = lattice.filter(2 * a - 3 * b)
    apart = 2 * lattice.filter(a) - 3 * lattice.filter(b)
    np.testing.assert_allclose(together, apart, atol=1e-4 * np.abs(apart).max())


def test_constants_stay_constant():
    features = points(5, 20)  # far apart: most points are alone on their simplex
    lattice = PermutohedralLattice(features)
    ones = np.ones((600, 2), np.float32)
    sums = lattice.filter(ones)
    assert (sums > 0).all()
    np.testing.assert_allclose(lattice.filter(7 * ones) / sums, 7 * ones, rtol=1e-5)


def test_points_at_one_place_are_equal():
    features = np.repeat(points(3, 2, count=5), 4, axis=0)
    values = np.random.default_rng(0).random((20, 2), np.float32)
    found = PermutohedralLattice(features).filter(values).reshape(5, 4, 2)
    np.testing.assert_array_equal(found, np.repeat(found[:, :1], 4, axis=1))


def test_far_points_do_not_meet():
    features = np.array([[0.0, 0.0], [30.0, 0.0]], np.float32)
    values = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    found = PermutohedralLattice(features).filter(values)
    assert found[0, 1] == found[1, 0] == 0
    assert (np.diag(found) > 0).all()


def test_a_place_anywhere_gives_the_same_as_at_the_origin_on_average():
    features = points(2, 3)
    near = PermutohedralLattice(features).filter(np.ones((600, 1), np.float32))
    far = PermutohedralLattice(features - 1000).filter(np.ones((600, 1), np.float32))
    assert float(far.mean() / near.mean()) == pytest.approx(1, abs=0.05)


def test_single_point():
    lattice = PermutohedralLattice(np.zeros((1, 2)))
    assert lattice.num_points == 1
    assert lattice.filter(np.full((1, 4), 2, np.float32)).shape == (1, 4)


def test_threads_change_nothing():
    features, values = points(5, 3), np.random.default_rng(0).random((600, 7), np.float32)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(PermutohedralLattice(features).filter(values))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros(3), r"expected features \(N, d\).* got \(3,\)"),
        (np.zeros((0, 2)), r"expected features .* got \(0, 2\)"),
        (np.array([[np.nan, 1]]), "expected finite features"),
        (
            np.array([[1e9, 1]]),
            "expected features within .* standard deviations.* got 1e.09; widen",
        ),
    ],
)
def test_bad_features(features, message):
    with pytest.raises(PnaError, match=rf"^{message}"):
        PermutohedralLattice(features)


@pytest.mark.parametrize("shape", [(3,), (4, 2), (3, 0)])
def test_bad_values(shape):
    with pytest.raises(PnaError, match=r"^expected values \(3, K\), K at least 1, got"):
        PermutohedralLattice(np.zeros((3, 2))).filter(np.zeros(shape, np.float32))
