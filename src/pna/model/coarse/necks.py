"""Necks: encoder features to features that coarse heads, and refiners beside them, work on."""

from collections.abc import Sequence

from torch import Tensor, nn

from pna.model.resize import ResizeMode, resize


class FeaturePyramid(nn.Module):
    """Feature pyramid network: every level receives the sum of the coarser ones.

    Args:
        in_channels: Channels of all levels, fine to coarse.
        channels: Channels of every level of the result.

    Attributes:
        channels: The same, once per level.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 256) -> None:
        super().__init__()
        self.channels = (channels,) * len(in_channels)
        self.laterals = nn.ModuleList(plain_conv(width, channels, 1) for width in in_channels)
        self.outputs = nn.ModuleList(plain_conv(channels, channels, 3) for _ in in_channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map features, fine to coarse, to as many maps of `channels` and the same sizes."""
        laterals = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        merged = add_top_down(laterals, mode="nearest")
        return [output(x) for output, x in zip(self.outputs, merged, strict=True)]


def add_top_down(maps: Sequence[Tensor], *, mode: ResizeMode) -> list[Tensor]:
    """Add to each map the resized sum of the coarser ones.

    Args:
        maps: (B, C, h, w) per level, fine to coarse, of equal C.
        mode: How sums are resized.

    Returns:
        As many maps of the same sizes; the coarsest is unchanged.
    """
    merged = [maps[-1]]
    for finer in reversed(maps[:-1]):
        merged.append(finer + resize(merged[-1], finer.shape[-2:], mode))
    return merged[::-1]


def plain_conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    """Make a convolution that keeps the size of the map, with a bias and nothing after it."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # nn.Conv2d declares an optional bias
    return conv
