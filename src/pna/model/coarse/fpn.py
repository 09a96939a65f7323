"""Semantic FPN head: a feature pyramid whose levels are brought to the finest and summed.

Source: Kirillov, Girshick, He, Dollár, "Panoptic Feature Pyramid Networks" (CVPR 2019),
section 3.1, with batch norm.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from pna.model.coarse.layers import Classifier, CoarseHead, ConvBNReLU
from pna.model.resize import ResizeMode, resize


class FeaturePyramid(nn.Module):
    """Feature pyramid network: every level gets what the coarser ones know.

    Args:
        in_channels: channels of all levels, fine to coarse.
        channels: channels of every level of the result.

    Attributes:
        channels: the same, once per level.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.channels = (channels,) * len(in_channels)
        self.laterals = nn.ModuleList(plain_conv(width, channels, 1) for width in in_channels)
        self.outputs = nn.ModuleList(plain_conv(channels, channels, 3) for _ in in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map features, fine to coarse, to as many maps of ``channels`` and the same sizes."""
        laterals = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        merged = add_top_down(laterals, mode="nearest")
        return [output(x) for output, x in zip(self.outputs, merged, strict=True)]


class ScaleHead(nn.Module):
    """Brings one level to the finest in steps: convolve, resize to the next finer level, repeat.

    The sizes come from the maps themselves, so levels of equal stride (a dilated encoder) are
    steps without a resize.

    Args:
        in_channels: channels of the level.
        channels: channels of the result.
        level: place of the level, 0 being the finest.
    """

    def __init__(self, in_channels: int, channels: int, *, level: int) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * (max(level, 1) - 1)]
        self.convs = nn.ModuleList(ConvBNReLU(width, channels) for width in widths)
        self.level = level

    def forward(self, x: Tensor, sizes: Sequence[Sequence[int]]) -> Tensor:
        """Map (B, in_channels, h, w) to (B, channels, *sizes[0]).

        Args:
            x: the level's map.
            sizes: (height, width) of every level, fine to coarse.
        """
        for step, conv in enumerate(self.convs, start=1):
            x = resize(conv(x), sizes[max(self.level - step, 0)])
        return x


class SemanticFPNHead(CoarseHead):
    """Coarse logits at the finest stride, from all levels.

    Args:
        in_channels: channels of all encoder levels, fine to coarse.
        num_classes: number of classes K.
        fpn_channels: width of the feature pyramid; twice `channels` by default.
        channels: width of the maps that are summed.
        pyramid: makes the feature pyramid from the channels of the levels and `fpn_channels`; None
            where the levels are a pyramid's already (a neck's, which a refiner looks at too).
        dropout: probability of zeroing a channel before the classifier while training.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        fpn_channels: int | None = None,
        channels: int = 128,
        pyramid: Callable[[Sequence[int], int], nn.Module] | None = FeaturePyramid,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(in_channels)
        widths, self.pyramid = self.in_channels, None
        if pyramid is not None:
            fpn_channels = 2 * channels if fpn_channels is None else fpn_channels
            self.pyramid = pyramid(self.in_channels, fpn_channels)
            widths = (fpn_channels,) * len(self.in_channels)
        self.scale_heads = nn.ModuleList(
            ScaleHead(width, channels, level=level) for level, width in enumerate(widths)
        )
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Sum all levels at the finest one's size."""
        sizes = [x.shape[-2:] for x in features]
        levels = features if self.pyramid is None else self.pyramid(features)
        brought = [head(x, sizes) for head, x in zip(self.scale_heads, levels, strict=True)]
        summed: Tensor = sum(brought[1:], start=brought[0])
        return summed


def add_top_down(maps: Sequence[Tensor], *, mode: ResizeMode) -> list[Tensor]:
    """Add to each map the resized sum of the coarser ones.

    Args:
        maps: (B, C, h, w) per level, fine to coarse, of equal C.
        mode: how to resize.

    Returns:
        As many maps of the same sizes; the coarsest as it was.
    """
    merged = [maps[-1]]
    for finer in reversed(maps[:-1]):
        merged.append(finer + resize(merged[-1], finer.shape[-2:], mode))
    return merged[::-1]


def plain_conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """A convolution that keeps the size of the map, with a bias and nothing after it."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # nn.Conv2d declares an optional bias
    return conv
