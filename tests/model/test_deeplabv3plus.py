"""DeepLabV3+: sizes and costs that the field reports, and the layers of its paper."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pna.model.coarse.deeplabv3plus import DeepLabV3PlusHead
from pna.model.coarse.fcn import FCNHead
from pna.model.encoder import create_encoder

CHANNELS = (6, 8, 10, 12)


def _millions(*modules: nn.Module) -> float:
    return sum(p.numel() for module in modules for p in module.parameters()) / 1e6


def _auxiliary(channels: tuple[int, ...], num_classes: int) -> nn.Module:
    return FCNHead(channels, num_classes, channels=256, num_convs=1, concat_input=False, level=-2)


def test_size_on_resnet50_and_cityscapes() -> None:
    """43.58 M is commonly reported."""
    with torch.device("meta"):
        encoder = create_encoder("resnet50c", weights=None)
        head = DeepLabV3PlusHead(encoder.channels, 19, channels=512)
        auxiliary = _auxiliary(encoder.channels, 19)
    assert _millions(encoder, head, auxiliary) == pytest.approx(43.58, abs=0.01)


def test_cost_on_resnet101_and_ade20k() -> None:
    """SegFormer (Xie et al., NeurIPS 2021), table 2: 62.7 M, 255.1 GFLOPs, with ResNet-101."""
    with torch.device("meta"):
        encoder = create_encoder("resnet101c", weights=None, output_stride=8).eval()
        head = DeepLabV3PlusHead(encoder.channels, 150, channels=512, rates=(12, 24, 36)).eval()
        auxiliary = _auxiliary(encoder.channels, 150)
        images = torch.empty(1, 3, 512, 512)
    assert _millions(encoder, head, auxiliary) == pytest.approx(62.7, abs=0.05)
    with FlopCounterMode(display=False) as counter:
        head(encoder(images))
    assert counter.get_total_flops() / 2e9 == pytest.approx(255.1, rel=0.01)


def test_convolutions_are_separable_and_low_level_channels_few() -> None:
    head = DeepLabV3PlusHead(CHANNELS, 5)
    kernels = [m for m in head.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    plain = [m for m in kernels if m.groups == 1]
    assert plain == [head.pyramid.fuse[0]]
    assert all(m.groups == m.in_channels for m in kernels if m not in plain)
    assert sorted(m.dilation[0] for m in kernels) == [1, 1, 1, 6, 12, 18]
    assert (head.low_level[0].out_channels, head.pyramid.fuse[0].out_channels) == (48, 256)


def test_finest_and_coarsest_level_are_used() -> None:
    torch.manual_seed(0)
    head = DeepLabV3PlusHead(CHANNELS, 5, channels=16, low_level_channels=4, rates=(2, 4))
    sizes = [(13, 9), (7, 5), (4, 3), (2, 2)]
    features = [
        torch.randn(1, c, *size, requires_grad=True)
        for c, size in zip(CHANNELS, sizes, strict=True)
    ]
    logits = head(features)
    assert logits.shape == (1, 5, 13, 9)
    logits.square().mean().backward()
    assert [x.grad is not None for x in features] == [True, False, False, True]
