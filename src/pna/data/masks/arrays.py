"""Masks as arrays: the four kinds that refinement takes, and the class of each pixel in them.

| array | kind |
|---|---|
| (H, W) bool | binary |
| (H, W) integers | labels, 255 ignored; values within {0, 255} with a 255 are binary |
| (H, W) floats in [0, 1] | soft: the share of foreground |
| (K, H, W) floats, at each pixel of sum 1 | soft: the probabilities of K classes |
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pna.data.errors import DataError
from pna.labels import IGNORE_INDEX

MaskArray = npt.NDArray[Any]
"""A mask of one of the four kinds."""

_FOREGROUND = 0.5  # a soft mask's pixel belongs to the foreground from here on
_SUM_TOLERANCE = 0.01  # 171 probabilities in float16 add up to within 0.001


def decide(mask: MaskArray) -> npt.NDArray[Any]:
    """Return the class of each pixel: of a soft mask whether it is foreground, or the likeliest.

    Args:
        mask: Of any kind.

    Returns:
        (H, W) bool or integers; of a binary mask or labels the mask itself.

    Example:
        >>> decide(np.array([[0.2, 0.5, 0.9]])).tolist()
        [[False, True, True]]
        >>> decide(np.array([[[0.7, 0.1]], [[0.3, 0.9]]])).tolist()
        [[0, 1]]
    """
    if mask.ndim == 3:
        return np.asarray(mask.argmax(axis=0))
    if np.issubdtype(mask.dtype, np.floating):
        return np.asarray(mask >= _FOREGROUND)
    return mask


def changed_pixels(before: MaskArray, after: MaskArray) -> npt.NDArray[np.bool_]:
    """Find the pixels whose class differs between two masks of one kind and size: (H, W).

    Example:
        >>> changed_pixels(np.array([[0.2, 0.4, 0.9]]), np.array([[0.3, 0.6, 1.0]])).tolist()
        [[False, True, False]]
    """
    return np.asarray(decide(before) != decide(after))


def is_binary(mask: MaskArray) -> bool:
    """Return whether a mask is binary: bool, or integers 0 and 255 with a 255.

    Example:
        >>> is_binary(np.array([[0, 255]])), is_binary(np.array([[0, 1, 255]]))
        (True, False)
    """
    if not np.issubdtype(mask.dtype, np.integer):
        return mask.dtype == np.bool_
    is_high = mask == IGNORE_INDEX
    return bool(is_high.any() and ((mask == 0) | is_high).all())


def check_labels(mask: MaskArray, source: str) -> None:
    """Check label numbers.

    Args:
        mask: Integers.
        source: Name of the mask in the error message.

    Raises:
        DataError: If one is negative.
    """
    if mask.min() < 0:
        negative = np.unique(mask[mask < 0])[:8].tolist()
        raise DataError(
            f"{source} holds negative values {negative}: expected label numbers from 0 up; use "
            f"{IGNORE_INDEX} for ignored pixels"
        )


def check_floats(mask: MaskArray, source: str) -> None:
    """Check a soft mask: (H, W) in [0, 1], or (K, H, W) probabilities.

    Args:
        mask: Floats.
        source: Name of the mask in the error message.

    Raises:
        DataError: If a value is no number or out of range, or probabilities do not add up to 1.
    """
    if not np.isfinite(mask).all():
        where = [int(index) for index in np.argwhere(~np.isfinite(mask))[0]]
        raise DataError(
            f"{source} holds NaN or infinity, first at {where}: expected numbers in [0, 1]; "
            "replace them, by 0 for background"
        )
    low, high = float(mask.min()), float(mask.max())
    if low < 0 or high > 1:
        remedy = (
            "divide by 255"
            if low >= 0 and high <= IGNORE_INDEX
            else ("take the sigmoid of logits first, or the softmax over several classes")
        )
        if low >= 0 and (mask == np.rint(mask)).all():
            remedy = "save label numbers as integers, or divide gray levels by 255"
        raise DataError(
            f"{source} holds values in [{low:.4g}, {high:.4g}]: expected shares in [0, 1]; {remedy}"
        )
    if mask.ndim == 3:
        _check_probabilities(mask, source)


def _check_probabilities(mask: MaskArray, source: str) -> None:
    sums = mask.sum(axis=0, dtype=np.float32)
    if abs(sums - 1).max() <= _SUM_TOLERANCE:
        return
    remedy = "take the softmax over the classes first"
    if abs(mask.sum(axis=2, dtype=np.float32) - 1).max() <= _SUM_TOLERANCE:
        remedy = "its last axis adds up to 1: transpose it, array.transpose(2, 0, 1)"
    elif len(mask) == 1:
        remedy = "save the foreground of a soft mask as (H, W), array[0]"
    raise DataError(
        f"{source} has the shape {mask.shape} and sums in [{sums.min():.4g}, {sums.max():.4g}] "
        f"over its first axis: expected (K, H, W) probabilities of sum 1; {remedy}"
    )
