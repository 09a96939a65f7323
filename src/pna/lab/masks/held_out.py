"""The rule kept for scoring: what other refiners of masks are trained on.

After the training data of Cheng, Chung, Tai and Tang, "CascadePSP: Toward Class-Agnostic and Very
High-Resolution Segmentation via Global and Local Refinement", CVPR 2020. A refiner trained on
`rules` has never seen it. The shapes of the kernels and the number of seeds are choices made here.
"""

import math

import numpy as np
from PIL import Image

from pna.lab.masks import outlines
from pna.lab.masks.fields import BoolArray, FloatArray, bounds, resize, shrink

# Along the longer side, in pixels: the sizes of rectangles and kernels belong to images like this.
_SIDE = 320
_MOST_RECTANGLES = 400
_TOO_FAR = 0.1  # IoU below the wanted one at which a rectangle is taken back


def vertices_and_boxes(mask: BoolArray, loss: float, rng: np.random.Generator) -> FloatArray:
    """Drop most vertices, then dilate and erode rectangles until the IoU has fallen.

    Of each outline a contiguous 10 % of the vertices goes, then 90 % of the others at random. Each
    rectangle is dilated or eroded with a kernel of 3 to 9 pixels, from single pixels sown in it as
    well. Large masks are changed on a grid of 320 pixels along the longer side.

    Args:
        mask: (H, W) bool with a boundary.
        loss: 1 - the wanted IoU, in [0, 1]. The vertices alone may cost more.
        rng: Source of the choices.

    Returns:
        (H, W) float32 of 0 and 1.

    Example:
        >>> mask = np.zeros((60, 80), bool)
        >>> mask[10:50, 20:60] = True
        >>> coarse = vertices_and_boxes(mask, 0.2, np.random.default_rng(0)) > 0.5
        >>> bool(0.7 < (coarse & mask).sum() / (coarse | mask).sum() <= 0.8)
        True
    """
    loops = outlines.trace(mask)
    loops = [_drop_run(loop, 0.1, rng) for loop in loops]
    coarse = outlines.fill(outlines.drop_vertices(loops, 0.1, rng), mask.shape)

    step = max(1.0, max(mask.shape) / _SIDE)
    truth = shrink(mask, step) > 0.5
    small = before = shrink(coarse, step) > 0.5
    if truth.any():
        small = _change_rectangles(before.copy(), truth, loss, rng)
    # Outlines that no rectangle met keep the full resolution.
    nearest = Image.Resampling.NEAREST
    is_changed = resize(small != before, mask.shape, nearest) > 0
    after = resize(small, mask.shape) > 0.5
    return np.where(is_changed, after, coarse).astype(np.float32)


def _drop_run(loop: outlines.Loop, share: float, rng: np.random.Generator) -> outlines.Loop:
    """Drop a contiguous share of the vertices."""
    number = round(share * len(loop))
    return np.roll(loop, -int(rng.integers(len(loop))), axis=0)[number:]


def _change_rectangles(
    mask: BoolArray, truth: BoolArray, loss: float, rng: np.random.Generator
) -> BoolArray:
    """Dilate or erode random rectangles, in place, until the IoU with the truth is 1 - loss."""
    rows, columns = bounds(truth | mask)
    corner = np.array([rows.start, columns.start])
    size = np.array([rows.stop, columns.stop]) - corner
    for _ in range(_MOST_RECTANGLES):
        if _iou(mask, truth) <= 1 - loss:
            break
        sides = np.ceil(size * rng.uniform(0.05, 0.4, 2)).astype(int)
        at = np.floor(corner + size * rng.uniform(0, 1, 2) - sides / 2).astype(int).clip(0)
        window = mask[at[0] : at[0] + sides[0], at[1] : at[1] + sides[1]]
        if window.size:
            is_dilation = bool(rng.random() < 0.5)
            # Erosion is dilation of the background.
            before = window.copy()
            window[...] = _dilate(window == is_dilation, _kernel(rng), rng) == is_dilation
            if _iou(mask, truth) < 1 - loss - _TOO_FAR:
                window[...] = before  # a small object would be gone at once
    return mask


def _iou(mask: BoolArray, truth: BoolArray) -> float:
    return float(np.count_nonzero(mask & truth) / np.count_nonzero(mask | truth))


def _kernel(rng: np.random.Generator) -> BoolArray:
    """Draw a kernel of 3 to 9 pixels: a square, a disk, a diamond or a cross."""
    radius = int(rng.integers(1, 5))
    y, x = np.abs(np.mgrid[-radius : radius + 1, -radius : radius + 1])
    shapes = (
        y <= radius,
        y**2 + x**2 <= (radius + 0.5) ** 2,
        y + x <= radius,
        (y == 0) | (x == 0),
    )
    kernel: BoolArray = shapes[int(rng.integers(len(shapes)))]
    return kernel


def _dilate(window: BoolArray, kernel: BoolArray, rng: np.random.Generator) -> BoolArray:
    """Dilate a window from its foreground and from a few pixels more."""
    seeds = rng.integers(window.size, size=math.ceil(rng.uniform(0, 0.003) * window.size))
    sown = window.copy()
    sown.flat[seeds] = True
    radius = len(kernel) // 2
    neighborhoods = np.lib.stride_tricks.sliding_window_view(np.pad(sown, radius), kernel.shape)
    return np.asarray((neighborhoods & kernel).any(axis=(2, 3)))
