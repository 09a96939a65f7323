"""The one function that resizes feature maps and logits.

Pixel centers are never aligned at the corners (`align_corners=False`): mixing the two
conventions shifts a coarse map by up to half a cell against its image.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pna.errors import PnaError

ResizeMode = Literal["bilinear", "nearest"]


def resize(x: Tensor, size: Sequence[int], mode: ResizeMode = "bilinear") -> Tensor:
    """Resize a map to `size`, up or down.

    Args:
        x: (B, C, h, w), floating point.
        size: (H, W) of the result, in cells, each at least 1.
        mode: "bilinear" for scores and features, "nearest" for the authors' resize of the previous
            stage.

    Returns:
        (B, C, H, W) in the type of `x`; `x` itself where the size is already right.

    Raises:
        PnaError: `x` has not four axes, or the mode is unknown.
    """
    if x.dim() != 4:
        raise PnaError(f"expected a (B, C, H, W) map, got {tuple(x.shape)}; add the missing axes")
    if mode not in ("bilinear", "nearest"):
        raise PnaError(f"unknown resize mode {mode!r}; expected 'bilinear' or 'nearest'")
    height, width = size
    # While exporting with free sizes this comparison would pin them, so it is left out there.
    if not torch.compiler.is_exporting() and x.shape[-2] == height and x.shape[-1] == width:
        return x
    align_corners = False if mode == "bilinear" else None  # PyTorch takes it with bilinear only
    return F.interpolate(x, size=(height, width), mode=mode, align_corners=align_corners)


def average(x: Tensor, size: Sequence[int]) -> Tensor:
    """Average a map over the cells of a coarser grid; resize it to a finer one.

    Args:
        x: (B, C, H, W), floating point.
        size: (h, w) of the grid.

    Returns:
        (B, C, h, w) in the type of `x`; `x` itself where it has that size.

    Example:
        >>> import torch
        >>> average(torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]]), (1, 1)).item()
        4.0
    """
    (H, W), (h, w) = x.shape[-2:], size
    if torch.compiler.is_exporting():
        from torch.fx.experimental.symbolic_shapes import statically_known_true as holds

        # Sizes may be symbols: a comparison would bind the graph to its outcome, so only what holds
        # for all of them is used. The matrix products serve equal sides and whole cells, too.
        if holds(h == H) and holds(w == W):
            return x
        if holds(H % h == 0) and holds(W % w == 0):
            return F.avg_pool2d(x, (H // h, W // w))
        return resize(x, size) if h > H or w > W else adaptive_average_pool(x, size)
    if h > H or w > W:
        return resize(x, size)
    if (h, w) == (H, W):
        return x
    # Cells of whole pixels are the common case.
    if H % h == 0 and W % w == 0:
        return F.avg_pool2d(x, (H // h, W // w))
    return F.adaptive_avg_pool2d(x, (h, w))


def adaptive_average_pool(x: Tensor, size: Sequence[int]) -> Tensor:
    """Average a map over a grid of bins, like `F.adaptive_avg_pool2d` at every size.

    Written as two small matrix products whose matrices come from the shape alone, because the
    fused operator does not export to ONNX with free heights and widths.

    Args:
        x: (B, C, h, w), of any size; where a side is shorter than its bins, bins overlap.
        size: Bins along height and width.

    Returns:
        (B, C, *size).
    """
    rows = _averaging_matrix(x, x.shape[-2], size[0])
    columns = _averaging_matrix(x, x.shape[-1], size[1])
    return rows @ x @ columns.T  # (bins, h) (B, C, h, w) (w, bins)


def _averaging_matrix(x: Tensor, length: int, bins: int) -> Tensor:
    """Return (bins, length): row i averages the cells from floor(i L/n) to ceil((i+1) L/n)."""
    index = torch.arange(bins, device=x.device)[:, None]
    start = index * length // bins
    stop = ((index + 1) * length + bins - 1) // bins
    cell = torch.arange(length, device=x.device)[None]
    inside = (cell >= start) & (cell < stop)  # (bins, length)
    return inside.to(x.dtype) / (stop - start).to(x.dtype)
