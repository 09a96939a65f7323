"""Semantic FPN head: a feature pyramid whose levels are brought to the finest and summed.

Source: Kirillov, Girshick, He, Dollár, "Panoptic Feature Pyramid Networks" (CVPR 2019),
section 3.1, with batch norm or, as there, group norm.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from torch import Tensor, nn

from pna.model.coarse.layers import Classifier, CoarseHead, ConvBNReLU, ConvGNReLU
from pna.model.coarse.necks import FeaturePyramid
from pna.model.resize import resize


class ScaleHead(nn.Module):
    """One level brought to the finest in steps: convolve, resize to the next finer one, repeat.

    The sizes come from the maps themselves, so levels of equal stride (a dilated encoder) are
    steps without a resize.

    Args:
        in_channels: Channels of the level.
        channels: Channels of the result.
        level: Index of the level, 0 being the finest.
        conv: Makes a convolution from channels in and channels out.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        level: int,
        conv: Callable[[int, int], nn.Module] = ConvBNReLU,
    ) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * (max(level, 1) - 1)]
        self.convs = nn.ModuleList(conv(width, channels) for width in widths)
        self.level = level

    def forward(self, x: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
        """Map (B, in_channels, h, w) to (B, channels, *sizes[0]).

        Args:
            x: The level's map.
            sizes: (height, width) of every level, fine to coarse.
        """
        # Step by step, so that a convolution smooths the map before each resize.
        for step, conv in enumerate(self.convs, start=1):
            x = resize(conv(x), sizes[max(self.level - step, 0)])
        return x


class SemanticFPNHead(CoarseHead):
    """Coarse logits at the finest stride, from all levels.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse.
        num_classes: Number of classes K.
        fpn_channels: Width of the feature pyramid; twice `channels` by default.
        channels: Width of the maps that are summed.
        pyramid: Makes the feature pyramid from the channels of the levels and `fpn_channels`; None
            where the levels are a pyramid's already (a neck's, which a refiner takes too).
        norm: "batch", or "group" for 32 groups.
        dropout: Probability of zeroing a channel before the classifier while training.

    Raises:
        PnaError: Group norm cannot divide `channels` into its groups.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        fpn_channels: int | None = None,
        channels: int = 128,
        norm: Literal["batch", "group"] = "batch",
        pyramid: Callable[[Sequence[int], int], nn.Module] | None = FeaturePyramid,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(in_channels)
        widths, self.pyramid = self.in_channels, None
        if pyramid is not None:
            fpn_channels = 2 * channels if fpn_channels is None else fpn_channels
            self.pyramid = pyramid(self.in_channels, fpn_channels)
            widths = (fpn_channels,) * len(self.in_channels)
        conv = ConvGNReLU if norm == "group" else ConvBNReLU
        self.scale_heads = nn.ModuleList(
            ScaleHead(width, channels, level=level, conv=conv) for level, width in enumerate(widths)
        )
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Sum all levels at the finest one's size."""
        sizes = [x.shape[-2:] for x in features]
        levels = features if self.pyramid is None else self.pyramid(features)
        # Each (B, channels, h_0, w_0), at the finest level's size.
        maps = [head(x, sizes) for head, x in zip(self.scale_heads, levels, strict=True)]
        summed: Tensor = sum(maps[1:], start=maps[0])
        return summed
