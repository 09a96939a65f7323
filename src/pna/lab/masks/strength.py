"""How strong must a rule be for a given error? A search on a small copy of the mask."""

import math
from collections.abc import Callable

import numpy as np

from pna.lab.masks.fields import BoolArray, shrink

WEAKEST, STRONGEST = 1 / 128, 8.0
"""Strengths that are tried, in mean widths of the foreground or of the segments."""

_STEPS = 7  # 10 octaves of strength, halved 7 times: within 6 %
_SMALL = 160  # pixels along the longer side; a rule takes 1 to 5 ms there


def find_strength(error: Callable[[float], float], target: float) -> tuple[float, float]:
    """Find the strength whose error is nearest to a target.

    Args:
        error: Maps a strength to an error; by and large increasing.
        target: The wanted error.

    Returns:
        The best strength tried, in [`WEAKEST`, `STRONGEST`], and its error.

    Example:
        >>> strength, error = find_strength(lambda strength: strength / 4, 0.2)
        >>> round(strength, 1), round(error, 1)
        (0.8, 0.2)
    """
    low, high = math.log(WEAKEST), math.log(STRONGEST)
    best = WEAKEST, error(WEAKEST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        found = error(math.exp(middle))
        if abs(found - target) < abs(best[1] - target):
            best = math.exp(middle), found
        low, high = (low, middle) if found > target else (middle, high)
    return best


def small_copy(mask: BoolArray) -> BoolArray:
    """Shrink a mask for the search; the share of its foreground stays, thin lines too.

    Args:
        mask: (H, W) bool.

    Returns:
        (h, w) bool, at most 160 pixels along the longer side.

    Example:
        >>> line = np.zeros((320, 320), bool)
        >>> line[100] = True
        >>> small_copy(line).shape, int(small_copy(line).sum())
        ((160, 160), 160)
    """
    factor = max(mask.shape) / _SMALL
    if factor <= 1:
        return mask
    average = shrink(mask, factor)
    # Cut where the share stays: cut at 0.5, each line thinner than half a cell would be lost.
    levels = np.sort(average, axis=None)[::-1]
    number = round(float(average.sum()))
    threshold = max(float(levels[max(number, 1) - 1]), 1e-6)
    return np.asarray(average >= threshold)
