"""NAF: its size, its weighted means against their definition, and the authors' way of gathering."""

import math

import pytest
import torch
from torch.nn import functional as F

from pna.errors import PnaError
from pna.lab.upsampling.naf import NAF, rotate


def made(width=32, window=9, *, sharpness=8.0):
    """A small upsampler whose attention is far from uniform, in evaluation mode."""
    torch.manual_seed(0)
    upsampler = NAF(width=width, window=window).eval()
    with torch.no_grad():
        for branch in (upsampler.pixel, upsampler.context):
            branch[-1][-1].weight.mul_(sharpness)
    return upsampler


def made_case(size, grid, channels=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, *size, generator=generator)
    return image, torch.randn(2, channels, *grid, generator=generator)


def test_number_of_parameters():
    branches = {"pixel": 67_584, "context": 594_944}
    upsampler = NAF()
    counts = {
        name: sum(p.numel() for p in m.parameters()) for name, m in upsampler.named_children()
    }
    assert counts == branches
    assert sum(p.numel() for p in upsampler.parameters()) == 662_528
    assert len(upsampler.state_dict()) == len(list(upsampler.parameters()))


def complex_rotation(x):
    """Rotary embedding of (..., d, H, W) by products of complex numbers, in float64."""
    d, H, W = x.shape[-3:]
    pairs = torch.complex(*x.double().chunk(2, -3))
    for c in range(d // 2):
        frequency = 2 * math.pi * 100 ** (-(c % (d // 4)) / (d // 4))
        for i in range(H):
            for j in range(W):
                row, column = (2 * i + 1) / H - 1, (2 * j + 1) / W - 1
                angle = torch.tensor(frequency * (row if c < d // 4 else column))
                pairs[..., c, i, j] *= torch.polar(torch.ones(()).double(), angle.double())
    return torch.cat([pairs.real, pairs.imag], -3)


def test_rotation_is_a_product_of_complex_numbers():
    x = torch.randn(2, 16, 5, 7)
    torch.testing.assert_close(rotate(x), complex_rotation(x).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(rotate(x).norm(dim=1), x.norm(dim=1))


def test_products_of_rotated_vectors_depend_on_their_distance_alone():
    query, key = (torch.randn(16, 1, 1).expand(16, 6, 9) for _ in range(2))
    products = torch.einsum("cyx,cvu->yxvu", rotate(query), rotate(key))
    for down, right in ((0, 0), (1, 2), (-2, 3)):
        same = [
            products[y, x, y + down, x + right]
            for y in range(6)
            for x in range(9)
            if 0 <= y + down < 6 and 0 <= x + right < 9
        ]
        torch.testing.assert_close(torch.stack(same), same[0].expand(len(same)))
    assert products[0, 0, 0, 0] != products[0, 0, 1, 2] != products[0, 0, 2, 1]


def oracle(upsampler, image, features, size):
    """The mean of one window per query and head; whole ratios only."""
    h, w = features.shape[-2:]
    queries = complex_rotation(upsampler.guide(image, size).unflatten(1, (4, -1)))
    keys = F.adaptive_avg_pool2d(queries.flatten(1, 2), (h, w)).unflatten(1, (4, -1))
    values = features.double().unflatten(1, (4, -1))
    out = torch.empty(*values.shape[:3], *size, dtype=torch.float64)
    for i in range(size[0]):
        for j in range(size[1]):
            windows = []
            for position, cells, n in ((i, size[0], h), (j, size[1], w)):
                extent = min(upsampler.window, n)
                start = position * n // cells - upsampler.window // 2
                start = min(max(start, 0), n - extent)
                windows.append(slice(start, start + extent))
            key, value = (x[:, :, :, windows[0], windows[1]].flatten(3) for x in (keys, values))
            scores = torch.einsum("bhdk,bhd->bhk", key, queries[..., i, j])
            weights = (scores / math.sqrt(queries.shape[2])).softmax(-1)
            out[..., i, j] = torch.einsum("bhk,bhck->bhc", weights, value)
    return out.flatten(1, 2)


@pytest.mark.parametrize("window", [3, 5])
@torch.no_grad()
def test_values_are_those_of_the_definition(window):
    upsampler, (image, features) = made(window=window), made_case((24, 24), (4, 6))
    expected = oracle(upsampler, image, features, (12, 12)).float()
    found = upsampler(image, features, (12, 12))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    # Far from a plain mean of the windows: the queries matter.
    flat = made(window=window, sharpness=0.0)(image, features, (12, 12))
    assert (found - flat).abs().mean() > 0.05


@torch.no_grad()
def test_constant_features_stay():
    image, _ = made_case((17, 25), (1, 1))
    constant = torch.arange(8.0)[None, :, None, None].expand(2, 8, 5, 7)
    found = made()(image, constant, (17, 25))
    torch.testing.assert_close(found, constant[..., :1, :1].expand(2, 8, 17, 25))


@pytest.mark.parametrize("repeated", [False, True])
@torch.no_grad()
def test_the_range_of_every_channel_is_kept(repeated):
    image, features = made_case((40, 60), (10, 15))
    found = made(window=3)(image, features, (40, 60), repeated=repeated)
    for reduce in (torch.amin, torch.amax):
        low, high = sorted([reduce(features, (2, 3)), reduce(found, (2, 3))], key=torch.sum)
        inner, outer = (high, low) if reduce is torch.amin else (low, high)
        sign = 1 if reduce is torch.amin else -1
        assert (sign * (inner - outer) >= -1e-6).all()


@torch.no_grad()
def test_each_head_weighs_its_own_channels():
    upsampler, (image, features) = made(), made_case((24, 24), (4, 4))
    same = features[:, :1].expand(2, 8, 4, 4)  # one feature in every channel
    found = upsampler(image, same, (24, 24))
    torch.testing.assert_close(found[:, 0::2], found[:, 1::2])  # two channels a head
    assert (found[:, 0] - found[:, 2]).abs().max() > 0.1


# The two ways gather the same cells with the same weights wherever the ratio is whole, also at the
# border: a query's dilated window holds one copy of each of its cells. They sum in another order,
# so they differ by rounding.
@pytest.mark.parametrize(
    ("grid", "ratio", "window"), [((10, 12), 3, 9), ((5, 7), 4, 9), ((12, 9), 2, 3), ((6, 6), 1, 5)]
)
@torch.no_grad()
def test_both_ways_agree_at_whole_ratios(grid, ratio, window):
    size = (ratio * grid[0], ratio * grid[1])
    upsampler, (image, features) = made(window=window), made_case(size, grid)
    found, repeated = (upsampler(image, features, size, repeated=r) for r in (False, True))
    torch.testing.assert_close(found, repeated, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_at_other_ratios_the_authors_way_gathers_other_cells():
    """The rounded-down ratio takes some cells twice and reaches less far."""
    upsampler, (image, features) = made(window=3), made_case((25, 35), (10, 14))
    found, repeated = (upsampler(image, features, (25, 35), repeated=r) for r in (False, True))
    assert repeated.shape == found.shape
    difference = (found - repeated).abs()
    assert 0.05 < difference.mean() < 0.7
    assert features.std() > 0.9


@pytest.mark.parametrize(
    ("image_size", "grid", "size"),
    [
        ((33, 47), (5, 6), (33, 47)),  # broken ratios
        ((64, 64), (3, 5), (7, 13)),  # an image of more than 4 pixels per cell
        ((9, 9), (4, 4), (31, 18)),  # an image smaller than the result
        ((2, 2), (1, 1), (3, 1)),
        ((16, 16), (8, 8), (4, 4)),  # fewer cells than the features have
    ],
)
@torch.no_grad()
def test_any_size(image_size, grid, size):
    image, features = made_case(image_size, grid)
    found = made()(image, features, size)
    assert found.shape == (2, 8, *size)
    assert found.isfinite().all()


@torch.no_grad()
def test_large_images_are_shrunk_to_four_pixels_per_cell():
    upsampler, (image, _) = made(), made_case((40, 30), (1, 1))
    shrunk = F.interpolate(image, (20, 28), mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampler.guide(image, (5, 7)), upsampler.guide(shrunk, (5, 7)))
    as_it_is = upsampler.guide(image, (10, 8))
    assert (as_it_is - upsampler.guide(shrunk, (10, 8))).abs().max() > 0.01


def test_training_stretches_the_coordinates():
    upsampler, (image, features) = made(), made_case((16, 16), (4, 4))
    evaluated = [upsampler(image, features, (16, 16)) for _ in range(2)]
    assert torch.equal(*evaluated)
    upsampler.train()
    trained = [upsampler(image, features, (16, 16)) for _ in range(2)]
    assert not torch.equal(*trained)
    x = torch.randn(8, 3, 3)
    torch.testing.assert_close(rotate(x, stretch=2.0)[:, 1, 1], x[:, 1, 1])
    assert (rotate(x, stretch=2.0) - rotate(x)).abs().max() > 0.1


@pytest.mark.parametrize("repeated", [False, True])
def test_gradients_reach_every_parameter(repeated):
    upsampler, (image, features) = made().train(), made_case((16, 16), (4, 4))
    features.requires_grad_()
    upsampler(image, features, (16, 16), repeated=repeated).square().sum().backward()
    for name, parameter in [*upsampler.named_parameters(), ("features", features)]:
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("width", [0, 24])
def test_bad_width(width):
    with pytest.raises(PnaError, match=rf"^expected a width in multiples of 16, got width={width}"):
        NAF(width=width)


@pytest.mark.parametrize(
    ("image", "channels", "size", "repeated", "message"),
    [
        ((8, 8), 6, (8, 8), False, r"features with a multiple of 4 channels, .* 6; append 2 chann"),
        ((8, 1), 4, (8, 8), False, r"images of at least 2x2 pixels, got \(1, 3, 8, 1\)"),
        ((8, 8), 4, (8, 12), True, r"a result .* got \(8, 12\) from \(2, 2\); pass repeated=False"),
        ((8, 8), 4, (1, 1), True, r"a result at least as large as the features, .* got \(1, 1\)"),
        ((8, 8), 4, (0, 8), False, r"a size \(height, width\) of at least \(1, 1\), got \(0, 8\)"),
    ],
)
def test_bad_arguments(image, channels, size, repeated, message):
    features = torch.rand(1, channels, 2, 2)
    with pytest.raises(PnaError, match=f"^expected {message}"):
        made()(torch.rand(1, 3, *image), features, size, repeated=repeated)
