"""FaPN head: a feature pyramid whose coarse levels are moved onto the fine ones before the sum.

Source: Huang, Lu, Cheng, He, "FaPN: Feature-aligned Pyramid Network for Dense Image Prediction"
(ICCV 2021), sections 3.1 (feature alignment) and 3.2 (feature selection); the sizes that the paper
leaves open (groups, what the offsets are computed from) as in the authors' code. The levels are
summed and classified as in semantic FPN.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pna.model.coarse.fpn import SemanticFPNHead, plain_conv
from pna.model.resize import resize

_GROUPS = 8  # each has its own offsets
_TAPS = 9


class FeatureSelection(nn.Module):
    """FSM: emphasise the channels that matter, judged by their averages, then reduce.

    Args:
        in_channels: channels of the level.
        channels: channels of the result.
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
    """A modulated deformable 3x3 convolution (DCNv2) that is told where to look by another map.

    It starts without offsets and with a weight of 1/2 for each tap.

    Args:
        channels: channels of both maps and of the result, a multiple of `groups`.
        groups: groups of channels with offsets and weights of their own.
    """

    def __init__(self, channels: int, *, groups: int = _GROUPS) -> None:
        from torchvision.ops import DeformConv2d

        super().__init__()
        self.num_offsets = 2 * groups * _TAPS
        self.look = nn.Conv2d(channels, self.num_offsets + groups * _TAPS, 3, padding=1)
        self.conv = DeformConv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.look.weight)
        nn.init.zeros_(self.look.bias)  # type: ignore[arg-type]  # declared as optional

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """Convolve (B, channels, h, w) where the guide, of the same shape, says."""
        offsets, weights = self.look(guide).tensor_split([self.num_offsets], dim=1)
        kind = (
            self.conv.weight.dtype
        )  # the operator takes one type only, on a CPU no half precision
        out: Tensor = self.conv(x.to(kind), offsets.to(kind), weights.to(kind).sigmoid())
        return out


class FeatureAlignment(nn.Module):
    """FAM: move the upsampled coarse map onto a fine level, then add the two.

    Args:
        in_channels: channels of the fine level.
        channels: channels of the coarse map and of the result, a multiple of 8.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.select = FeatureSelection(in_channels, channels)
        self.compare = _pointwise(2 * channels, channels)
        self.aligned = AlignedConv(channels)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) and (B, channels, h, w) to (B, channels, H, W)."""
        selected = self.select(fine)
        upsampled = resize(coarse, fine.shape[-2:])
        guide = self.compare(torch.cat([selected, 2 * upsampled], dim=1))
        summed: Tensor = selected + self.aligned(upsampled, guide).relu()
        return summed


class AlignedPyramid(nn.Module):
    """Feature pyramid in which every level gets what the coarser ones know, aligned to it.

    Args:
        in_channels: channels of all levels, fine to coarse.
        channels: channels of every level of the result, a multiple of 8.

    Raises:
        ValueError: `channels` is no multiple of 8.
    """

    def __init__(self, in_channels: Sequence[int], channels: int) -> None:
        super().__init__()
        if channels < 1 or channels % _GROUPS:
            raise ValueError(f"expected fpn_channels in multiples of {_GROUPS}, got {channels}")
        *finer, coarsest = in_channels
        self.coarsest = plain_conv(coarsest, channels, 1)
        self.alignments = nn.ModuleList(FeatureAlignment(width, channels) for width in finer)
        self.outputs = nn.ModuleList(plain_conv(channels, channels, 3) for _ in finer)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map features, fine to coarse, to as many maps of ``channels`` and the same sizes."""
        merged = [self.coarsest(features[-1])]
        for align, finer in zip(reversed(self.alignments), reversed(features[:-1]), strict=True):
            merged.append(align(finer, merged[-1]))
        coarsest, *levels = merged
        outputs = [output(x) for output, x in zip(self.outputs, reversed(levels), strict=True)]
        return [*outputs, coarsest]


class FaPNHead(SemanticFPNHead):
    """Coarse logits at the finest stride, from all levels, aligned.

    Args:
        in_channels: channels of all encoder levels, fine to coarse.
        num_classes: number of classes K.
        fpn_channels: width of the feature pyramid, a multiple of 8; twice `channels` by default.
        channels: width of the maps that are summed.
        dropout: probability of zeroing a channel before the classifier while training.

    Raises:
        ValueError: The pyramid's width is no multiple of 8.
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
