"""Small parts that the modules of a stage share. Maps are channels-last here: (B, H, W, D)."""

from torch import Tensor, nn
from torch.nn import functional as F


class FeedForward(nn.Module):
    """Linear, GELU, linear, on the last axis.

    Args:
        width: Channels in and out.
        ratio: Hidden channels per channel.
    """

    def __init__(self, width: int, ratio: float = 1.0) -> None:
        super().__init__()
        self.expand = nn.Linear(width, int(width * ratio))
        self.reduce = nn.Linear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        out: Tensor = self.reduce(F.gelu(self.expand(x)))
        return out


class Pointwise(nn.Linear):
    """A 1x1 convolution of a channels-last map; initialised like a convolution."""


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Run a convolution over a channels-last map: (B, H, W, D) -> (B, H, W, D')."""
    out: Tensor = conv(x.permute(0, 3, 1, 2))
    return out.permute(0, 2, 3, 1)


def depthwise(width: int, *, bias: bool) -> nn.Conv2d:
    """A 3x3 convolution of each channel alone."""
    return nn.Conv2d(width, width, 3, padding=1, groups=width, bias=bias)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, H, W, heads * d) -> (B, heads, H, W, d), a view."""
    return x.unflatten(-1, (heads, -1)).permute(0, 3, 1, 2, 4)  # type: ignore[no-untyped-call, no-any-return]


def merge_heads(x: Tensor) -> Tensor:
    """(B, heads, H, W, d) -> (B, H, W, heads * d)."""
    return x.permute(0, 2, 3, 1, 4).flatten(3)
