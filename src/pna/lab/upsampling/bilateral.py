"""Joint bilateral upsampling: features follow the colors of an image, without training.

The result at a pixel p is the mean of the features around it, each weighted by a Gaussian of its
distance and one of the difference of colors,

    o(p) = sum_q w(p, q) v(q) / sum_q w(p, q),
    w(p, q) = exp(-|p - q|^2 / 2 sigma_space^2) * exp(-|I(p) - I(q)|^2 / 2 sigma_color^2)

over the cells q of a window around p in the coarse grid; distances are in cells of it. That is
neighborhood attention whose scores are the logarithm of w.

Source: Kopf, Cohen, Lischinski, Uyttendaele, "Joint Bilateral Upsampling", ACM Transactions on
Graphics 26(3), 2007.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pna.errors import PnaError
from pna.model.resize import average
from pna.ops import neighborhood_attention
from pna.refinement.upsampler import check_arguments


def joint_bilateral(
    image: Tensor,
    features: Tensor,
    size: Sequence[int],
    *,
    sigma_color: float = 0.2,
    sigma_space: float = 0.5,
    window: int = 5,
) -> Tensor:
    """Upsample features along the edges of an image.

    Args:
        image: (B, 3, H, W) in [0, 1]; it is averaged over the cells of either grid.
        features: (B, C, h, w) of any meaning and range: features, logits, probabilities.
        size: (height, width) of the result, usually those of the image.
        sigma_color: Standard deviation of the color: distance in RGB at which a cell's weight
            falls to 61 %. Below the contrast of edges, above that of texture.
        sigma_space: Standard deviation of the position, in cells of the features. A wider one lets
            cells of the same color in from beyond an edge.
        window: Cells per side of the neighborhood, odd. It shifts at the border, as that of the
            operator does.

    Returns:
        (B, C, height, width) in the type of the features, within their range.

    Raises:
        PnaError: Shapes or types do not fit, or an option is out of range.

    Example:
        Two cells meet where the colors change, not halfway.

        >>> import torch
        >>> image = torch.zeros(1, 3, 8, 16)
        >>> image[..., 5:] = 1
        >>> features = torch.tensor([[[[0.0, 1.0]]]])
        >>> joint_bilateral(image, features, (8, 16))[0, 0, 0].round().int().tolist()
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    """
    check_arguments(image, features, size)
    for name, sigma in (("sigma_color", sigma_color), ("sigma_space", sigma_space)):
        if not 0 < sigma < math.inf:
            raise PnaError(f"expected {name} above 0, and finite, got {sigma}")
    # Around 0, so that the products below, which cancel, stay small.
    centered = image - 0.5
    fine = average(centered, size).permute(0, 2, 3, 1)  # (B, H, W, 3)
    coarse = average(centered, features.shape[-2:]).permute(0, 2, 3, 1)
    # -s |c_p - c_q|^2 = <2 s c_p, c_q> - s |c_q|^2 - s |c_p|^2, and the last is the same for all
    # cells q, so it drops out of the mean: the distance is four channels.
    sharpness = 0.5 / sigma_color**2
    query = torch.cat([2 * sharpness * fine, torch.ones_like(fine[..., :1])], -1)
    key = torch.cat([coarse, -sharpness * coarse.square().sum(-1, keepdim=True)], -1)
    out = neighborhood_attention(
        query[:, None],
        key[:, None],
        features.permute(0, 2, 3, 1)[:, None],
        _distances(window, sigma_space).to(query),
        window=window,
        scale=1.0,
    )
    return out[:, 0].permute(0, 3, 1, 2)


def _distances(window: int, sigma: float) -> Tensor:
    """Return the bias (1, 2 * window - 1, 2 * window - 1): -distance^2 / 2 sigma^2.

    The operator reads it linearly between two entries. There a parabola is too low by the same
    amount for all cells of a window, which drops out of the mean: the distance is exact. The table
    ends half a cell short of the farthest cell of a window that is shifted at the border.
    """
    offset = torch.arange(2 * window - 1) - (window - 1.0)
    along_axis = -0.5 * (offset / sigma).square()
    return (along_axis[:, None] + along_axis)[None]
