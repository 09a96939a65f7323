"""Layers that the modules of a stage share. Maps are channels-last here: (B, H, W, D)."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEWEST_CELLS = 2**12
"""Cells from which a 1x1 convolution is faster than a matrix product on a CPU."""


class CellLinear(nn.Linear):
    """A linear layer on the cells of a channels-last map.

    On a CPU it runs as a 1x1 convolution where there are many cells: oneDNN's reaches up to twice
    the rate of the matrix product then (4352 cells, 96 to 510 channels: 92 against 42 GMAC/s on two
    cores), but it takes longer for few (180 cells, 128 channels: 0.12 against 0.07 ms).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, D)."""
        is_compiled = torch.compiler.is_compiling() or torch.compiler.is_exporting()
        if is_compiled or x.device.type != "cpu" or x.shape[:3].numel() < FEWEST_CELLS:
            return super().forward(x)
        # The permuted view is channels-last in memory, so nothing is copied.
        out = F.conv2d(x.permute(0, 3, 1, 2), self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1)


class Pointwise(CellLinear):
    """A 1x1 convolution: a `CellLinear` that `Stage` initializes like a convolution."""


class FeedForward(nn.Module):
    """Linear, activation, linear, on the last axis.

    Args:
        width: Channels in and out.
        ratio: Hidden channels per channel.
        activation: GELU as released.
    """

    def __init__(
        self,
        width: int,
        ratio: float = 1.0,
        activation: Callable[[Tensor], Tensor] = F.gelu,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.expand = CellLinear(width, int(width * ratio))
        self.reduce = CellLinear(int(width * ratio), width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, D) to (B, H, W, D)."""
        out: Tensor = self.reduce(self.activation(self.expand(x)))
        return out


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Run a convolution over a channels-last map: (B, H, W, D) -> (B, H, W, D')."""
    out: Tensor = conv(x.permute(0, 3, 1, 2))
    return out.permute(0, 2, 3, 1)


def depthwise(width: int, *, bias: bool) -> nn.Conv2d:
    """Make a 3x3 convolution of each channel alone."""
    return nn.Conv2d(width, width, 3, padding=1, groups=width, bias=bias)


STRIP_CELLS = 2**12
"""Cells of a strip: at 510 channels a strip has 8 MiB, which fits into a cache."""
STRIP_ROWS = 16
"""Rows of a strip at least: two more are computed with them."""


class Strip(NamedTuple):
    """Some rows of a map, and the rows that a 3x3 convolution needs to compute them.

    Attributes:
        x: (B, rows + halo, W, D), the rows with one more on each side that the map has.
        inner: Where the rows are in `x`.
    """

    x: Tensor
    inner: slice


def cut_strips(x: Tensor) -> Iterator[Strip]:
    """Cut a map (B, H, W, D) into strips; into one where gradients or a graph are recorded.

    A wide intermediate map then exists for one strip at a time, which bounds memory and saves time.
    """
    H, W = x.shape[1:3]
    # A backward pass keeps all intermediate maps anyway, and a graph would unroll the loop.
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        yield Strip(x, slice(0, H))
        return
    # One row of halo on each side, for the 3x3 convolution; none at the border of the map.
    rows = max(STRIP_ROWS, STRIP_CELLS // W)
    for begin in range(0, H, rows):
        end, top = min(begin + rows, H), max(begin - 1, 0)
        yield Strip(x[:, top : end + 1], slice(begin - top, end - top))


def map_strips(local: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function that reaches one row far at most to a map (B, H, W, D), strip by strip."""
    # The halo is cut off again: its rows belong to the neighboring strips.
    strips = [local(strip.x)[:, strip.inner] for strip in cut_strips(x)]
    return strips[0] if len(strips) == 1 else torch.cat(strips, 1)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """View (B, H, W, heads * d) as (B, heads, H, W, d)."""
    return x.unflatten(-1, (heads, -1)).permute(0, 3, 1, 2, 4)  # type: ignore[no-untyped-call, no-any-return]


def merge_heads(x: Tensor) -> Tensor:
    """Map (B, heads, H, W, d) to (B, H, W, heads * d)."""
    return x.permute(0, 2, 3, 1, 4).flatten(3)
