"""The guided filter, for arrays: each window fits the probabilities as a linear map of the colors.

In every square window the probability p is fitted by ridge regression on the color I,

    min over a, b of  sum_i (a . I_i + b - p_i)^2 + epsilon * |a|^2,

which the window's covariance solves: `a = (cov(I) + epsilon * U)^-1 cov(I, p)` and
`b = mean(p) - a . mean(I)`. A pixel lies in many windows; its result is `mean(a) . I + mean(b)`
over them. Where a window has no contrast, a is about 0 and the result is a mean; at an edge of the
image the result has an edge too. All means are over boxes, so the time does not depend on the
radius.

Source: He, Sun, Tang, "Guided Image Filtering", TPAMI 35(6), 2013, with a color image as the guide.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pna.errors import PnaError
from pna.refinement.arrays import FloatArray, check_arrays, normalize

_Float64Array = npt.NDArray[np.float64]


def guided_filter(
    image: npt.NDArray[np.uint8],
    probabilities: npt.NDArray[Any],
    *,
    radius: int = 4,
    epsilon: float = 1e-3,
) -> FloatArray:
    """Sharpen a prediction along the edges of the image by local linear fits, without training.

    The defaults suit masks of 512 pixels that a network computed at stride 8. The radius is half a
    cell of the mask's own grid: windows must reach across its error, and wider ones lose thin
    parts; at stride 16 it is 8. Epsilon is the variance of colors that differ by about 8 of 255
    gray levels, as noise makes them.

    Args:
        image: (H, W, 3) uint8 RGB.
        probabilities: (K, H, W) floats, at least 0, each pixel's with a positive sum; they are
            normalized. K = 1 is the probability of a foreground, in [0, 1], and stays one.
        radius: A window has 2 * radius + 1 pixels per side, at the border those of them that lie
            in the image. The result depends on pixels up to twice the radius away.
        epsilon: Variance of a color, for values in [0, 1], below which a window counts as flat.

    Returns:
        (K, H, W) float32 probabilities, clipped to [0, 1]; for K > 1 they sum to 1 over the
        classes.

    Raises:
        PnaError: Shapes or types do not fit, a value is out of range, or an option is.

    Example:
        A boundary that is four pixels off moves to where the colors change.

        >>> import numpy as np
        >>> image = np.zeros((20, 30, 3), np.uint8)
        >>> image[:, 12:] = 200
        >>> right = np.clip((np.arange(30) - 15.5) / 12 + 0.5, 0, 1)  # 0.5 at column 16
        >>> refined = guided_filter(image, np.broadcast_to(right, (1, 20, 30)), radius=8)
        >>> int((right > 0.5).argmax()), int((refined[0, 0] > 0.5).argmax())
        (16, 12)
    """
    image, given = check_arrays(image, probabilities)
    if isinstance(radius, bool) or not isinstance(radius, int) or radius < 1:
        raise PnaError(f"expected a radius in pixels, a whole number >= 1, got {radius=}")
    if not 0 < epsilon < math.inf:
        raise PnaError(f"expected epsilon above 0, and finite, got {epsilon}")
    has_classes = len(given) > 1
    if has_classes:
        given = normalize(given)
    elif not (given.min() >= 0 and given.max() <= 1):  # also for NaN
        raise PnaError(
            f"expected a foreground probability in [0, 1] for K = 1, got values in "
            f"[{given.min():.3g}, {given.max():.3g}]; take the sigmoid of logits first"
        )
    fit = _Fit(image, radius, epsilon)
    refined = np.stack([fit.filter(p) for p in given])
    np.clip(refined, 0, 1, out=refined)
    # Fits are linear, so before clipping the classes sum to 1: the clipped sums are never 0.
    return refined / refined.sum(axis=0) if has_classes else refined


class _Fit:
    """What the fits of all classes share: the colors, and their statistics in every window.

    In float64: a variance is the difference of two means, and epsilon may be far below both.

    Args:
        image: (H, W, 3) uint8.
        radius: Of the windows.
        epsilon: Added to the variances.
    """

    def __init__(self, image: npt.NDArray[np.uint8], radius: int, epsilon: float) -> None:
        self._radius = radius
        self._colors = image.transpose(2, 0, 1) / 255.0  # (3, H, W)
        self._mean = box_mean(self._colors, radius)
        covariance = np.empty((*image.shape[:2], 3, 3))
        for i in range(3):
            for j in range(i + 1):
                product = box_mean(self._colors[i] * self._colors[j], radius)
                covariance[..., i, j] = product - self._mean[i] * self._mean[j]
                covariance[..., j, i] = covariance[..., i, j]
        self._inverse = np.linalg.inv(covariance + epsilon * np.eye(3))  # (H, W, 3, 3)

    def filter(self, p: FloatArray) -> FloatArray:
        """Filter one map (H, W)."""
        p_mean = box_mean(p, self._radius)
        shared = box_mean(self._colors * p, self._radius) - self._mean * p_mean  # cov(I, p)
        a = np.einsum("yxij,jyx->iyx", self._inverse, shared)
        b = p_mean - (a * self._mean).sum(axis=0)
        a, b = box_mean(a, self._radius), box_mean(b, self._radius)
        refined: FloatArray = ((a * self._colors).sum(axis=0) + b).astype(np.float32)
        return refined


def box_mean(x: npt.NDArray[Any], radius: int) -> _Float64Array:
    """Average over the part of each pixel's window that lies in the image.

    Args:
        x: (..., H, W).
        radius: A window has 2 * radius + 1 pixels per side.

    Returns:
        (..., H, W) float64.

    Example:
        >>> box_mean(np.array([[3.0, 6.0, 0.0]]), 1).tolist()
        [[4.5, 3.0, 3.0]]
    """
    # A window is a rectangle at the border too, so the mean of its rows' means is its mean.
    rows = _mean_along_rows(x, radius)
    return _mean_along_rows(rows.swapaxes(-1, -2), radius).swapaxes(-1, -2)


def _mean_along_rows(x: npt.NDArray[Any], radius: int) -> _Float64Array:
    n = x.shape[-1]
    position = np.arange(n)
    first, end = np.maximum(position - radius, 0), np.minimum(position + radius + 1, n)
    sums = np.zeros((*x.shape[:-1], n + 1))
    np.cumsum(x, axis=-1, dtype=np.float64, out=sums[..., 1:])
    mean: _Float64Array = (sums[..., end] - sums[..., first]) / (end - first)
    return mean
