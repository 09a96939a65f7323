"""CascadePSP on an image of any size: as a whole, reduced, and then crop by crop.

The global step refines the image at 900 pixels, the local step overlapping crops at full size by
the network's second and third pass.

Source: Cheng et al., CVPR 2020 (see `cascadepsp`), section 3.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pna.errors import PnaError
from pna.lab.masks.cascadepsp import CascadePSP
from pna.model.cascade.inputs import evaluation
from pna.model.resize import average, resize
from pna.refinement.arrays import check_image

_MARGIN = 16  # pixels of a crop that are dropped where it does not end with the image
_DULL = 0.1  # least share of either side of the mask at which a crop is refined


def refine_with(
    network: CascadePSP,
    image: npt.NDArray[np.uint8],
    mask: npt.NDArray[Any],
    *,
    side: int = 900,
    is_local: bool = True,
) -> npt.NDArray[np.float32]:
    """Refine the mask of one object by the global and the local step.

    Args:
        network: Runs in evaluation mode, on its own device.
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool, or probabilities in [0, 1].
        side: Long side of the image in the global step, and side of a crop in the local step.
        is_local: Whether the local step follows the global one.

    Returns:
        (H, W) probabilities. Where the local step skips a crop, because the object has less than
        10 or more than 90 % of it, the result of the global step stays.

    Raises:
        PnaError: A shape, type or value does not fit.

    Example:
        >>> import numpy as np
        >>> network = CascadePSP(encoder="resnet18", width=0.25)
        >>> image = np.zeros((70, 100, 3), np.uint8)
        >>> refine_with(network, image, image[..., 0] > 0, side=96).shape
        (70, 100)
    """
    if side // 2 <= 2 * _MARGIN:  # or crops would not advance
        raise PnaError(f"expected a side of at least {4 * _MARGIN + 2} pixels, got {side=}")
    x, m = (each.to(network.mean) for each in _check_pair(image, mask))
    H, W = m.shape[-2:]
    scale = side / max(H, W)
    small = [max(1, round(H * scale)), max(1, round(W * scale))]
    with evaluation(network), torch.inference_mode():
        output = network(average(x, small), average(m, small))
        coarse, stride4 = (
            resize(logits.sigmoid(), (H, W)) for logits in (output.stride1, output.pass3_stride4)
        )
        result = coarse if not is_local else _refine_crops(network, x, coarse, stride4, side)
        return result[0, 0].float().cpu().numpy()


def _refine_crops(
    network: CascadePSP, x: Tensor, coarse: Tensor, stride4: Tensor, side: int
) -> Tensor:
    """Refine crop by crop, and average where crops overlap: (1, 1, H, W) probabilities."""
    binary = (coarse > 0.5).to(coarse.dtype)
    total, count = torch.zeros_like(coarse), torch.zeros_like(coarse)
    for rows, inner_rows in crops(coarse.shape[-2], side):
        for columns, inner_columns in crops(coarse.shape[-1], side):
            crop = (..., rows, columns)
            if not _DULL <= binary[crop].mean() <= 1 - _DULL:
                continue
            refined = network.refine_locally(x[crop], binary[crop], stride4[crop]).sigmoid()
            inner = (..., inner_rows, inner_columns)
            within = (
                ...,
                slice(inner_rows.start - rows.start, inner_rows.stop - rows.start),
                slice(inner_columns.start - columns.start, inner_columns.stop - columns.start),
            )
            total[inner] += refined[within]
            count[inner] += 1
    return torch.where(count > 0, total / count.clamp(min=1), coarse)


def crops(length: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Cut an axis into crops that overlap by a little more than half.

    Args:
        length: Pixels of the axis.
        side: Pixels of a crop, at least 66.

    Yields:
        A crop, and its part without the margins that lie within the image.

    Example:
        >>> for crop, inner in crops(1500, 900):
        ...     print(crop.start, crop.stop, inner.start, inner.stop)
        0 900 0 884
        418 1318 434 1302
        600 1500 616 1500
    """
    last = max(length - side, 0)
    for start in [*range(0, last, side // 2 - 2 * _MARGIN), last]:
        stop = min(start + side, length)
        inner_start = start + _MARGIN if start > 0 else 0
        yield slice(start, stop), slice(inner_start, stop - _MARGIN if stop < length else length)


def _check_pair(image: npt.NDArray[np.uint8], mask: npt.NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Return the image (1, 3, H, W) in [0, 1] and the mask (1, 1, H, W)."""
    image, mask = np.asarray(image), np.asarray(mask)
    check_image(image)
    if mask.shape != image.shape[:2]:
        raise PnaError(f"expected a mask {image.shape[:2]} like the image, got {mask.shape}")
    is_probability = np.issubdtype(mask.dtype, np.floating) and mask.min() >= 0 and mask.max() <= 1
    if mask.dtype != bool and not is_probability:
        raise PnaError(
            f"expected a mask of bool, or of floats in [0, 1], got {mask.dtype} in "
            f"[{mask.min():.3g}, {mask.max():.3g}]; divide a gray image by 255.0"
        )
    x = torch.from_numpy(image.transpose(2, 0, 1)[None] / 255.0)
    return x, torch.from_numpy(mask.astype(np.float32)[None, None])
