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
    if h > H or w > W:
        return resize(x, size)
    if (h, w) == (H, W):
        return x
    # Cells of whole pixels are the common case, and the one that exports.
    if H % h == 0 and W % w == 0:
        return F.avg_pool2d(x, (H // h, W // w))
    return F.adaptive_avg_pool2d(x, (h, w))
