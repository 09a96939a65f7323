from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pna.errors import PnaError
from pna.model.coarse.deeplab import DeepLabV3Head, average_windows
from pna.model.coarse.deeplabv3plus import DeepLabV3PlusHead
from pna.model.coarse.fcn import FCNHead
from pna.model.coarse.fpn import SemanticFPNHead
from pna.model.coarse.layers import BatchNorm
from pna.model.coarse.psp import PSPHead
from pna.model.coarse.upernet import UPerHead
from pna.model.encoder import create_encoder
from pna.model.resize import adaptive_average_pool

CHANNELS = (6, 8, 10, 12)
K = 5
Head = Callable[[Sequence[int], int], nn.Module]
COARSEST: dict[str, Head] = {
    "fcn": partial(FCNHead, channels=16),
    "psp": partial(PSPHead, channels=16),
    "deeplabv3": partial(DeepLabV3Head, channels=16, rates=(2, 4, 6)),
    "deeplabv3-windows": partial(
        DeepLabV3Head,
        channels=16,
        rates=(2, 4, 6),
        pool_window=(2, 4),
        pool_norm=False,
        fuse_kernel=1,
    ),
}
FINEST: dict[str, Head] = {
    "deeplabv3plus": partial(DeepLabV3PlusHead, channels=16, low_level_channels=4, rates=(2, 4)),
    "fpn": partial(SemanticFPNHead, fpn_channels=16, channels=8),
    "fpn-group-norm": partial(SemanticFPNHead, fpn_channels=16, channels=32, norm="group"),
    "upernet": partial(UPerHead, channels=16),
}
READS = {name: [3] for name in COARSEST} | {"deeplabv3plus": [0, 3]}
HEADS = COARSEST | FINEST
AUXILIARY: Head = partial(FCNHead, channels=256, num_convs=1, concat_input=False, level=-2)


def _features(
    height: int, width: int, *, strides: Sequence[int] = (1, 2, 4, 8), batch: int = 2
) -> list[Tensor]:
    """Random features; sizes and strides are in cells of the finest level, rounded up."""
    generator = torch.Generator().manual_seed(0)
    sizes = [(-(-height // s), -(-width // s)) for s in strides]
    return [
        torch.randn(batch, c, *size, generator=generator, requires_grad=True)
        for c, size in zip(CHANNELS, sizes, strict=False)
    ]


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (8, 40), (24, 56), (13, 9)])
def test_logits_have_the_stride_of_their_level_and_gradients_reach_it(
    name: str, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    head = HEADS[name](CHANNELS, K)
    features = _features(*size)
    logits = head(features)
    finest = name in FINEST
    assert logits.shape == (2, K, *features[0 if finest else -1].shape[-2:])
    logits.square().mean().backward()
    used = [level for level, x in enumerate(features) if x.grad is not None]
    assert used == READS.get(name, [0, 1, 2, 3])
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_levels_of_equal_stride_are_as_good_as_any(name: str) -> None:
    head = HEADS[name](CHANNELS, K).eval()
    features = _features(16, 24, strides=(1, 2, 2, 2))
    expected = (16, 24) if name in FINEST else (8, 12)
    assert head(features).shape == (2, K, *expected)


@pytest.mark.parametrize("name", HEADS)
def test_one_level_is_enough(name: str) -> None:
    head = HEADS[name](CHANNELS[:1], K).eval()
    assert head(_features(4, 6)[:1]).shape == (2, K, 4, 6)


@pytest.mark.parametrize("name", HEADS)
def test_a_single_image_trains(name: str) -> None:
    head = HEADS[name](CHANNELS, K)
    features = _features(8, 16, batch=1)
    head(features).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("name", HEADS)
def test_features_of_another_encoder_are_refused(name: str) -> None:
    head = HEADS[name](CHANNELS, K)
    with pytest.raises(ValueError, match=r"expected 4 feature maps.*got 3"):
        head(_features(8, 8)[:3])


@pytest.mark.parametrize("name", HEADS)
def test_a_head_exports_with_free_sizes(name: str) -> None:
    torch.manual_seed(0)
    head = HEADS[name](CHANNELS, K).eval()
    # Larger than the windows of a pooled branch, which would be cut to the map otherwise.
    least = 6 if name == "deeplabv3-windows" else 2
    shapes: list[Any] = [dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)] * 4
    if name != "deeplabv3-windows":  # torch 2.9 cannot prove that a window fits into every map
        h, w = torch.export.Dim("h", min=least, max=64), torch.export.Dim("w", min=least, max=64)
        shapes = [{2: s * h if s > 1 else h, 3: s * w if s > 1 else w} for s in (8, 4, 2, 1)]
    example = [x.detach() for x in _features(24 * least // 2, 40 * least // 2)]
    program = torch.export.export(head, (example,), dynamic_shapes=(shapes,)).module()
    for size in [(16, 16), (24, 40), (72, 56)]:
        features = [x.detach() for x in _features(*(side * least // 2 for side in size))]
        torch.testing.assert_close(program(features), head(features))


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_pooling_is_adaptive_average_pooling(bins: int) -> None:
    generator = torch.Generator().manual_seed(bins)
    lengths = [1, 2, 3, 4, 5, 6, 7, 11, 16, 33]
    for height in lengths:
        for width in lengths:
            x = torch.randn(2, 3, height, width, generator=generator, dtype=torch.float64)
            expected = F.adaptive_avg_pool2d(x, bins)
            torch.testing.assert_close(adaptive_average_pool(x, (bins, bins)), expected)


@pytest.mark.parametrize("window", [(1, 1), (3, 2), (5, 9), (40, 3)])
def test_averages_of_windows_are_average_pooling(window: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cut = min(window[0], 5), min(window[1], 9)
    torch.testing.assert_close(average_windows(x, window), F.avg_pool2d(x, cut, stride=1))


def test_a_window_as_large_as_the_map_averages_it() -> None:
    torch.manual_seed(0)
    windows = DeepLabV3Head(CHANNELS, K, channels=16, pool_window=(8, 8)).eval()
    whole = DeepLabV3Head(CHANNELS, K, channels=16).eval()
    whole.load_state_dict(windows.state_dict())
    features = _features(64, 64)  # 8x8 cells on the coarsest level
    torch.testing.assert_close(windows(features), whole(features))
    larger = _features(72, 64)
    assert not torch.allclose(windows(larger), whole(larger))


def test_group_norm_needs_groups() -> None:
    with pytest.raises(PnaError, match="^group norm needs a multiple of 32 channels, got 48"):
        SemanticFPNHead(CHANNELS, K, channels=48, norm="group")


def test_batch_norm_of_one_value_uses_the_running_statistics() -> None:
    norm = BatchNorm(3)
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 1
    plain = nn.BatchNorm2d(3)
    torch.testing.assert_close(norm(x), plain(x), rtol=0, atol=0)
    before = {key: value.clone() for key, value in norm.state_dict().items()}
    one = x[:1, :, :1, :1]
    in_training = norm(one)
    torch.testing.assert_close(dict(norm.state_dict()), before, rtol=0, atol=0)
    torch.testing.assert_close(in_training, norm.eval()(one))
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        plain(one)


@pytest.mark.parametrize(
    ("level", "num_levels", "read"),
    [(-1, 4, 3), (-2, 4, 2), (0, 4, 0), (-2, 1, 0), (-9, 3, 0), (7, 3, 2)],
)
def test_the_fcn_level_is_the_nearest_there_is(level: int, num_levels: int, read: int) -> None:
    head = FCNHead(CHANNELS[:num_levels], K, channels=4, level=level)
    features = _features(8, 8)[:num_levels]
    head(features).sum().backward()
    assert [i for i, x in enumerate(features) if x.grad is not None] == [read]


def test_an_fcn_without_convolutions_or_levels_is_refused() -> None:
    with pytest.raises(ValueError, match="num_convs of at least 1, got 0"):
        FCNHead(CHANNELS, K, num_convs=0)
    with pytest.raises(ValueError, match="at least one encoder level"):
        FCNHead((), K)


def _millions(*modules: nn.Module) -> float:
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e6


@pytest.mark.parametrize(("output_stride", "gmacs"), [(32, 28.65), (8, 197.60)])
def test_fcn_costs_what_the_paper_says(output_stride: int, gmacs: float) -> None:
    with torch.device("meta"):
        encoder = create_encoder("resnet50c", weights=None, output_stride=output_stride).eval()
        head = FCNHead(encoder.channels, 21).eval()
        auxiliary = AUXILIARY(encoder.channels, 21)
        images = torch.empty(1, 3, 512, 512)
    assert _millions(encoder, head, auxiliary) == pytest.approx(49.50, abs=0.01)
    with FlopCounterMode(display=False) as counter:
        head(encoder(images))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.01)


@pytest.mark.parametrize(
    ("make_head", "has_auxiliary", "millions"),
    [
        (PSPHead, True, 48.98),
        (DeepLabV3Head, True, 68.11),
        (UPerHead, True, 66.42),
        (SemanticFPNHead, False, 28.50),
    ],
)
def test_heads_are_as_large_as_the_field_makes_them(
    make_head: Head, has_auxiliary: bool, millions: float
) -> None:
    """The sizes that are commonly reported for a ResNet-50 and the 19 classes of Cityscapes."""
    with torch.device("meta"):
        encoder = create_encoder("resnet50c", weights=None)
        parts = [encoder, make_head(encoder.channels, 19)]
        if has_auxiliary:
            parts.append(AUXILIARY(encoder.channels, 19))
    assert _millions(*parts) == pytest.approx(millions, abs=0.01)


def test_the_pyramid_shrinks_with_the_head() -> None:
    assert SemanticFPNHead(CHANNELS, K).pyramid.outputs[0].out_channels == 256
    assert SemanticFPNHead(CHANNELS, K, channels=16).pyramid.outputs[0].out_channels == 32
