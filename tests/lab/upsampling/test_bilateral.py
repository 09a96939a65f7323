"""Joint bilateral upsampling against its definition, one pixel at a time."""

import math

import pytest
import torch
from torch.nn import functional as F

from pna.errors import PnaError
from pna.lab.upsampling.bilateral import joint_bilateral


def made_case(size, grid, channels=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = 0.4 + 0.15 * torch.rand(2, 3, *size, generator=generator)
    image[..., size[1] // 2 :] += 0.3
    return image, torch.randn(2, channels, *grid, generator=generator)


def oracle(image, features, size, *, sigma_color, sigma_space, window):
    """The weighted mean of one window per pixel, in float64."""
    fine = F.adaptive_avg_pool2d(image.double(), size)
    coarse = F.adaptive_avg_pool2d(image.double(), features.shape[-2:])
    (H, W), (h, w) = size, features.shape[-2:]
    out = torch.empty(*features.shape[:2], H, W, dtype=torch.float64)

    def cells(i, N, n):
        """Center of the pixel i in cells, and its window."""
        center = (i + 0.5) * n / N - 0.5
        extent = min(window, n)
        start = min(max(math.floor((i + 0.5) * n / N) - window // 2, 0), n - extent)
        return center, slice(start, start + extent)

    for i in range(H):
        y, rows = cells(i, H, h)
        for j in range(W):
            x, columns = cells(j, W, w)
            down = (torch.arange(h)[rows] - y).double() ** 2
            right = (torch.arange(w)[columns] - x).double() ** 2
            color = (coarse[..., rows, columns] - fine[..., i, j, None, None]).square().sum(1)
            distance = down[:, None] + right
            weight = torch.exp(-distance / 2 / sigma_space**2 - color / 2 / sigma_color**2)[:, None]
            some = features[..., rows, columns].double()
            out[..., i, j] = (weight * some).sum((2, 3)) / weight.sum((2, 3))
    return out


# Whole, unequal and broken ratios, an image larger than the result, a grid finer than the result,
# and a map smaller than the window.
CASES = [
    ((18, 28), (6, 7), (18, 28)),
    ((17, 25), (6, 9), (17, 25)),
    ((34, 50), (5, 8), (17, 25)),
    ((24, 24), (12, 12), (8, 8)),
    ((15, 21), (3, 2), (15, 21)),
]


@pytest.mark.parametrize(("image_size", "grid", "size"), CASES)
def test_values_are_those_of_the_definition(image_size, grid, size):
    image, features = made_case(image_size, grid)
    options = {"sigma_color": 0.2, "sigma_space": 0.7, "window": 5}
    found = joint_bilateral(image, features, size, **options)
    expected = oracle(image, features, size, **options)
    assert found.shape == (2, 5, *size)
    # At the border the table of distances ends at 4 cells: weights below exp(-16) differ.
    torch.testing.assert_close(found, expected.float(), atol=2e-5, rtol=0)


def test_distances_are_exact_wherever_no_window_shifts():
    """Also a wide Gaussian, whose weights at the window's edge count."""
    image, features = made_case((40, 55), (10, 11))
    options = {"sigma_color": 0.5, "sigma_space": 3.0, "window": 3}
    found = joint_bilateral(image, features, (40, 55), **options)
    expected = oracle(image, features, (40, 55), **options).float()
    inside = (..., slice(4, -4), slice(5, -5))
    torch.testing.assert_close(found[inside], expected[inside], atol=2e-5, rtol=0)
    assert 1e-4 < (found - expected).abs().max() < 0.1  # the farthest cell at the border


def test_features_meet_where_the_colors_change():
    image = torch.zeros(1, 3, 32, 32)
    image[..., 13:] = 0.5  # within the second cell of four
    features = torch.zeros(1, 1, 4, 4)
    features[..., 2:] = 1
    found = joint_bilateral(image, features, (32, 32))
    assert found[..., :13].max() < 0.05
    assert found[..., 13:].min() > 0.8
    blurred = joint_bilateral(image, features, (32, 32), sigma_color=100.0)
    assert blurred[0, 0, 16, 13] < 0.5 < blurred[0, 0, 16, 18]


def test_a_narrow_gaussian_takes_the_nearest_cell():
    image, features = made_case((20, 30), (4, 5))
    found = joint_bilateral(image, features, (20, 30), sigma_space=0.05, sigma_color=1e3)
    torch.testing.assert_close(found, F.interpolate(features, (20, 30), mode="nearest"))


def test_constants_stay_and_the_range_is_kept():
    image, features = made_case((17, 25), (6, 9))
    constant = torch.tensor([3.0, -2.0])[None, :, None, None].expand(2, 2, 6, 9)
    found = joint_bilateral(image, constant, (17, 25))
    torch.testing.assert_close(found, constant[..., :1, :1].expand(2, 2, 17, 25))
    found = joint_bilateral(image, features, (17, 25))
    assert features.min() <= found.min() < found.max() <= features.max()


def test_gradients_of_image_and_features_are_finite():
    image, features = (x.requires_grad_() for x in made_case((17, 25), (6, 9)))
    joint_bilateral(image, features, (17, 25)).square().sum().backward()
    for x in (image, features):
        assert x.grad.isfinite().all()
        assert x.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_color": 0.0}, "expected sigma_color above 0, and finite, got 0.0"),
        ({"sigma_space": float("inf")}, "expected sigma_space above 0, and finite, got inf"),
        ({"window": 4}, "expected an odd window >= 1, .* got window=4"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(PnaError, match=f"^{message}"):
        joint_bilateral(*made_case((8, 8), (2, 2)), (8, 8), **options)


IMAGE, FEATURES = torch.rand(1, 3, 8, 8), torch.rand(1, 4, 2, 2)


@pytest.mark.parametrize(
    ("image", "features", "size", "message"),
    [
        (IMAGE[0], FEATURES, (8, 8), r"images \(B, 3, H, W\), got \(3, 8, 8\)"),
        (IMAGE[:, :1], FEATURES, (8, 8), r"images \(B, 3, H, W\), got \(1, 1, 8, 8\)"),
        (IMAGE, FEATURES[0], (8, 8), r"features \(B, C, h, w\), got \(4, 2, 2\)"),
        (IMAGE, FEATURES[..., :0], (8, 8), r"features \(B, C, h, w\), got \(1, 4, 2, 0\)"),
        (IMAGE, FEATURES.repeat(2, 1, 1, 1), (8, 8), "one batch size, got 1 images and 2 maps"),
        ((255 * IMAGE).byte(), FEATURES, (8, 8), ".* in floating point, got torch.uint8 .* by 255"),
        (IMAGE, FEATURES.to("meta"), (8, 8), "images and features on one device, got cpu and meta"),
        (IMAGE, FEATURES, (8, 0), r"a size \(height, width\) of at least \(1, 1\), got \(8, 0\)"),
        (IMAGE, FEATURES, (8,), r"a size \(height, width\) of at least \(1, 1\), got \(8,\)"),
    ],
)
def test_bad_arguments(image, features, size, message):
    with pytest.raises(PnaError, match=f"^expected {message}"):
        joint_bilateral(image, features, size)
