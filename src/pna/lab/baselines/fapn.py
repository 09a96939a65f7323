"""FaPN: a feature pyramid whose coarse levels are aligned to the fine ones before the sum.

Source: Huang, Lu, Cheng, He, "FaPN: Feature-aligned Pyramid Network for Dense Image Prediction"
(ICCV 2021), sections 3.1 (feature alignment) and 3.2 (feature selection). Sizes that the paper
leaves open (groups, the input of the offsets) as in the authors' code. The levels are summed and
classified as in semantic FPN.
"""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from pna.errors import PnaError
from pna.labels import LabelSpace
from pna.model.coarse.fpn import SemanticFPNHead
from pna.model.coarse.necks import plain_conv
from pna.model.config import ModelConfig
from pna.model.encoder import EncoderWeights
from pna.model.presets import allow_head_options, assemble, build_encoder, coarse_width
from pna.model.resize import resize
from pna.model.segmenter import Segmenter

_GROUPS = 8  # each has its own offsets
_TAPS = 9


class FeatureSelection(nn.Module):
    """Feature selection module (FSM): weigh channels by their averages, then reduce them.

    Args:
        in_channels: Channels of the level.
        channels: Channels of the result.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.importance = _pointwise(in_channels, in_channels)
        self.reduce = _pointwise(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, channels, h, w)."""
        importance = self.importance(x.mean(dim=(2, 3), keepdim=True)).sigmoid()
        selected: Tensor = self.reduce(x + x * importance)
        return selected


class AlignedConv(nn.Module):
    """A modulated deformable 3x3 convolution (DCNv2) whose offsets come from another map.

    It starts with zero offsets and a weight of 1/2 for each tap.

    Args:
        channels: Channels of both maps and of the result, a multiple of `groups`.
        groups: Groups of channels with offsets and weights of their own.
    """

    def __init__(self, channels: int, *, groups: int = _GROUPS) -> None:
        super().__init__()
        self.num_offsets = 2 * groups * _TAPS
        self.look = nn.Conv2d(channels, self.num_offsets + groups * _TAPS, 3, padding=1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)  # run by `deform_conv2d`
        nn.init.zeros_(self.look.weight)
        nn.init.zeros_(self.look.bias)  # type: ignore[arg-type]  # declared as optional

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Convolve `x` (B, channels, h, w); offsets and weights come from `guide`, of its shape."""
        offsets, weights = self.look(guide).tensor_split([self.num_offsets], dim=1)
        # The operator takes one type only, and no bfloat16; half precision is coarse for offsets.
        dtype = torch.promote_types(self.conv.weight.dtype, torch.float32)
        bias = cast(Tensor, self.conv.bias)
        out: Tensor = deform_conv2d(
            x.to(dtype),
            offsets.to(dtype),
            self.conv.weight.to(dtype),
            bias.to(dtype),
            padding=1,
            mask=weights.to(dtype).sigmoid(),
        )
        return out.to(guide.dtype)


class FeatureAlignment(nn.Module):
    """Feature alignment module (FAM): align the upsampled coarse map to a fine level, add both.

    Args:
        in_channels: Channels of the fine level.
        channels: Channels of the coarse map and of the result, a multiple of 8.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.select = FeatureSelection(in_channels, channels)
        self.compare = _pointwise(2 * channels, channels)
        self.aligned = AlignedConv(channels)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) and (B, channels, h, w) to (B, channels, H, W)."""
        selected = self.select(fine)
        upsampled = resize(coarse, fine.shape[-2:])  # (B, channels, H, W), not aligned yet
        guide = self.compare(torch.cat([selected, 2 * upsampled], dim=1))
        summed: Tensor = selected + self.aligned(upsampled, guide).relu()
        return summed


class AlignedPyramid(nn.Module):
    """Feature pyramid: every level is summed with the aligned coarser ones.

    Args:
        in_channels: Channels of all levels, fine to coarse.
        channels: Channels of every level of the result, a multiple of 8.

    Raises:
        PnaError: `channels` is no multiple of 8.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        if channels < 1 or channels % _GROUPS:
            raise PnaError(f"expected fpn_channels in multiples of {_GROUPS}, got {channels}")
        *finer, coarsest = in_channels
        self.coarsest = plain_conv(coarsest, channels, 1)
        self.alignments = nn.ModuleList(FeatureAlignment(width, channels) for width in finer)
        self.outputs = nn.ModuleList(plain_conv(channels, channels, 3) for _ in finer)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map features, fine to coarse, to as many maps of `channels` and the same sizes."""
        # Coarse to fine, each level aligned to the next finer one.
        merged = [self.coarsest(features[-1])]
        for align, finer in zip(reversed(self.alignments), reversed(features[:-1]), strict=True):
            merged.append(align(finer, merged[-1]))
        coarsest, *levels = merged
        outputs = [output(x) for output, x in zip(self.outputs, reversed(levels), strict=True)]
        return [*outputs, coarsest]


class FaPNHead(SemanticFPNHead):
    """Coarse logits at the finest stride, from all levels, aligned.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse.
        num_classes: Number of classes K.
        fpn_channels: Width of the feature pyramid, a multiple of 8; twice `channels` by default.
        channels: Width of the maps that are summed.
        dropout: Probability of zeroing a channel before the classifier while training.

    Raises:
        PnaError: The pyramid's width is no multiple of 8.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        fpn_channels: int | None = None,
        channels: int = 128,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(
            in_channels,
            num_classes,
            fpn_channels=fpn_channels,
            channels=channels,
            pyramid=AlignedPyramid,
            dropout=dropout,
        )


def _pointwise(in_channels: int, channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, channels, 1, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return conv


def build_fapn(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build FaPN, without refinement."""
    allow_head_options(config)
    encoder = build_encoder(config, weights)
    coarse = FaPNHead(encoder.channels, labels.num_classes, **coarse_width(config))
    return assemble(config, labels, encoder, coarse)
