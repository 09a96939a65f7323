"""The guided filter against one ridge regression per window, and what it does to edges."""

import numpy as np
import pytest

from pna.errors import PnaError
from pna.refinement.guided_filter import box_mean, guided_filter


def made_case(height, width, classes, seed=0):
    """An image of noise on two colors, and any probabilities."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 120, (height, width, 3))
    image[:, width // 2 :] += 110
    return image.astype(np.uint8), rng.dirichlet(np.ones(classes), (height, width)).transpose(
        2, 0, 1
    )


def oracle(image, p, radius, epsilon):
    """One least-squares problem per window, averaged pixel by pixel; one map (H, W)."""
    H, W = p.shape
    colors = image / 255.0
    total, count = np.zeros((H, W)), np.zeros((H, W))
    for y in range(H):
        for x in range(W):
            window = (
                slice(max(y - radius, 0), y + radius + 1),
                slice(max(x - radius, 0), x + radius + 1),
            )
            inputs = colors[window].reshape(-1, 3)
            n = len(inputs)
            # epsilon |a|^2 for each pixel of the window, as three more rows; b is not penalized.
            ridge = np.c_[np.sqrt(n * epsilon) * np.eye(3), np.zeros(3)]
            rows = np.r_[np.c_[inputs, np.ones(n)], ridge]
            fit, *_ = np.linalg.lstsq(rows, np.r_[p[window].ravel(), np.zeros(3)], rcond=None)
            total[window] += (np.c_[inputs, np.ones(n)] @ fit).reshape(total[window].shape)
            count[window] += 1
    return total / count


@pytest.mark.parametrize("radius", [1, 3, 30])
@pytest.mark.parametrize("epsilon", [1e-6, 1e-2])
def test_values_are_those_of_one_regression_per_window(radius, epsilon):
    image, probabilities = made_case(7, 11, 3)
    expected = np.stack([oracle(image, p, radius, epsilon) for p in probabilities])
    np.testing.assert_allclose(expected.sum(0), 1)
    expected = expected.clip(0, 1)
    found = guided_filter(image, probabilities, radius=radius, epsilon=epsilon)
    assert np.abs(found - probabilities).max() > 0.1
    np.testing.assert_allclose(found, expected / expected.sum(0), atol=1e-5)


def test_one_class_is_a_foreground():
    image, probabilities = made_case(7, 11, 2)
    options = {"radius": 2, "epsilon": 1e-3}
    (found,) = guided_filter(image, probabilities[1:], **options)
    np.testing.assert_allclose(
        found, oracle(image, probabilities[1], **options).clip(0, 1), atol=1e-5
    )
    np.testing.assert_allclose(guided_filter(image, probabilities, **options)[1], found, atol=1e-5)


def test_box_means_count_only_pixels_of_the_image():
    x = np.random.default_rng(0).random((2, 6, 9))
    for radius in (1, 2, 4, 20):
        for y in range(6):
            for column in range(9):
                window = x[
                    :,
                    max(y - radius, 0) : y + radius + 1,
                    max(column - radius, 0) : column + radius + 1,
                ]
                np.testing.assert_allclose(
                    box_mean(x, radius)[:, y, column], window.mean((1, 2)), rtol=1e-12
                )


def test_it_is_linear_where_nothing_is_clipped():
    image, _ = made_case(20, 30, 1)
    rng = np.random.default_rng(1)
    p, q = rng.uniform(0.45, 0.55, (2, 1, 20, 30))  # results stay within [0.3, 0.7]
    separate = 0.3 * guided_filter(image, p) + 0.7 * guided_filter(image, q)
    np.testing.assert_allclose(guided_filter(image, 0.3 * p + 0.7 * q), separate, atol=1e-6)


def test_constant_probabilities_stay():
    image, _ = made_case(20, 30, 1)
    shares = np.array([0.2, 0.3, 0.5])[:, None, None]
    found = guided_filter(image, np.broadcast_to(shares, (3, 20, 30)))
    np.testing.assert_allclose(found, np.broadcast_to(shares, (3, 20, 30)), atol=1e-6)


def test_without_colors_it_is_two_box_filters():
    """So masks stay as they are farther than two radii from their edges."""
    mask = np.zeros((1, 40, 50))
    mask[:, :, 25:] = 1
    found = guided_filter(np.full((40, 50, 3), 77, np.uint8), mask, radius=3)
    np.testing.assert_allclose(found, box_mean(box_mean(mask, 3), 3), atol=1e-6)
    np.testing.assert_allclose(found[..., :19], 0, atol=1e-6)
    np.testing.assert_allclose(found[..., 31:], 1, atol=1e-6)
    assert 0.2 < found[0, 20, 24] < 0.5 < found[0, 20, 25] < 0.8


def test_snaps_to_an_edge():
    """A boundary that is blurred and four pixels off moves to where the colors change."""
    noise = np.random.default_rng(0).integers(-1, 2, (48, 64, 3))
    image = (np.where(np.arange(64) < 30, 64, 191)[None, :, None] + noise).astype(np.uint8)
    ramp = np.clip((np.arange(64.0) - 33.5) / 16 + 0.5, 0, 1)
    right = np.broadcast_to(ramp, (48, 64))
    truth = np.broadcast_to(np.arange(64) >= 30, (48, 64))
    found = guided_filter(image, np.stack([1 - right, right]), radius=8).argmax(0)
    assert ((right > 0.5) == truth).mean() == pytest.approx(1 - 4 / 64)
    assert (found == truth).mean() == 1


def test_a_larger_epsilon_smooths_weaker_edges():
    image = np.full((30, 40, 3), 100, np.uint8)
    image[:, 20:] += 13  # variance of a color 6.4e-4, in windows on the edge
    mask = np.zeros((1, 30, 40))
    mask[..., 20:] = 1
    steps = [
        found[0, 15, 20] - found[0, 15, 19]
        for found in (guided_filter(image, mask, epsilon=e) for e in (1e-6, 1e-3, 1e-1))
    ]
    assert steps[0] > 0.99
    assert 0.4 < steps[1] < 0.8
    assert steps[2] < 0.2  # two means over 9 columns: 0.11


@pytest.mark.parametrize("classes", [1, 2, 21])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5)])
def test_any_size(size, classes):
    """Also images that are smaller than the window."""
    image, probabilities = made_case(*size, classes)
    found = guided_filter(image, probabilities)
    assert (found.shape, found.dtype) == ((classes, *size), np.float32)
    assert found.min() >= 0
    assert found.max() <= 1
    if classes > 1:
        np.testing.assert_allclose(found.sum(0), np.ones(size), rtol=1e-5)


def test_arguments_are_left_as_they_were():
    image, probabilities = made_case(7, 5, 3)
    before = image.copy(), probabilities.copy()
    guided_filter(image, probabilities)
    assert np.array_equal(image, before[0])
    assert np.array_equal(probabilities, before[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"radius": 0}, "expected a radius in pixels, a whole number >= 1, got radius=0"),
        ({"radius": 2.5}, "expected a radius in pixels, a whole number >= 1, got radius=2.5"),
        ({"epsilon": 0.0}, "expected epsilon above 0, and finite, got 0.0"),
        ({"epsilon": float("nan")}, "expected epsilon above 0, and finite, got nan"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(PnaError, match=rf"^{message}$"):
        guided_filter(*made_case(8, 8, 2), **options)


IMAGE = np.zeros((4, 5, 3), np.uint8)


@pytest.mark.parametrize(
    ("image", "probabilities", "message"),
    [
        (IMAGE[..., 0], np.ones((2, 4, 5)), r"an image \(H, W, 3\) uint8, got \(4, 5\) uint8"),
        (IMAGE / 255, np.ones((2, 4, 5)), r"an image \(H, W, 3\) uint8, got .* float64"),
        (IMAGE, np.ones((2, 5, 4)), r"probabilities \(K, 4, 5\) at the size of the image, got"),
        (IMAGE, np.ones((4, 5)), r"probabilities \(K, 4, 5\) at the size of the image, got"),
        (IMAGE, np.ones((2, 4, 5), int), "probabilities as floats, got int"),
        (
            IMAGE,
            np.full((1, 4, 5), 1.5),
            r"a foreground probability in \[0, 1\] for K = 1, got values in \[1.5, 1.5\]; take the",
        ),
        (IMAGE, np.full((1, 4, 5), np.nan), r"a foreground probability in \[0, 1\] for K = 1"),
        (IMAGE, np.zeros((2, 4, 5)), "probabilities of at least 0 with a positive, finite sum"),
        (IMAGE, np.full((2, 4, 5), -1.0), r"probabilities of at least 0 .* in \[-1, -1\]; take"),
    ],
)
def test_bad_arrays(image, probabilities, message):
    with pytest.raises(PnaError, match=rf"^expected {message}"):
        guided_filter(image, probabilities)
