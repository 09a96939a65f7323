"""Coarse versions of an accurate mask, at a chosen degree."""

from typing import Any

import numpy as np
import numpy.typing as npt

from pna.errors import PnaError
from pna.lab.masks import outlines
from pna.lab.masks.fields import (
    BoolArray,
    FloatArray,
    blur,
    bounds,
    extent,
    has_boundary,
    mean_width,
    signed_distance,
    smooth_noise,
)
from pna.lab.masks.held_out import vertices_and_boxes
from pna.lab.masks.rules import RULES, Coarsening
from pna.lab.masks.strength import find_strength, small_copy

HELD_OUT = {"vertices_and_boxes": vertices_and_boxes}
"""Rules that are drawn only by name: they score what `RULES` trained."""

_LOSSES = (0.03, 0.40)  # 1 - IoU at amounts 0 and 1
_COMBINED = 0.3  # share of the draws that combine two rules
_NEAR = 0.04  # distance from the wanted IoU that is good enough
_LARGE = 4e6  # pixels from which on a second try must do
_TOO_MUCH = 0.2  # IoU below the wanted one at which a result is refused


def coarsen(
    mask: npt.NDArray[Any],
    rng: np.random.Generator,
    *,
    rule: str | None = None,
    amount: float | None = None,
) -> FloatArray:
    """Make an accurate mask coarse, as a coarse network or a person in a hurry would give it.

    The strength of the rule is chosen so that the IoU of the result falls about linearly with the
    amount: 0.97 at amount 0, 0.6 at amount 1. Where a rule can't reach that (a disk has no thin
    parts to lose, a single pixel no half), the nearest it can do is returned. An empty or a full
    mask has no boundary and comes back as it is.

    Args:
        mask: (H, W) bool.
        rng: Source of all choices.
        rule: A key of `RULES` or of `HELD_OUT`; by default one of `RULES` is drawn, and sometimes
            two that act one after the other.
        amount: Degree of coarseness in [0, 1]; drawn by default.

    Returns:
        (H, W) float32, foreground probabilities in [0, 1].

    Raises:
        PnaError: The mask isn't a boolean map, or rule or amount is out of range.

    Example:
        >>> mask = np.zeros((60, 80), bool)
        >>> mask[10:50, 20:60] = True
        >>> coarse = coarsen(mask, np.random.default_rng(0), rule="smooth", amount=0.2)
        >>> coarse.shape, 0.85 < degree(coarse, mask) < 0.95
        ((60, 80), True)
    """
    mask = _check(mask)
    if rule is not None and rule not in RULES and rule not in HELD_OUT:
        raise PnaError(f"expected a rule of {', '.join((*RULES, *HELD_OUT))}; got {rule!r}")
    if amount is not None and not 0 <= amount <= 1:
        raise PnaError(f"expected an amount in [0, 1], got {amount}")
    if amount is None:
        amount = rng.random()
    loss = _LOSSES[0] + amount * (_LOSSES[1] - _LOSSES[0])
    if not has_boundary(mask):
        return mask.astype(np.float32)
    window = _window(mask)
    result = np.zeros(mask.shape, np.float32)
    if rule in HELD_OUT:
        result[window] = HELD_OUT[rule](mask[window], loss, rng)
    else:
        result[window] = _to_loss(mask[window], _draw(rule, rng), loss)
    return result


def follow_convention(mask: npt.NDArray[Any], rng: np.random.Generator) -> BoolArray:
    """Move a whole outline, as people do who label generously, tightly, smoothly or a bit aside.

    Such masks are right by the convention of their data set, though no edge of the image lies where
    they end: what sharpens masks is to keep the convention.

    Args:
        mask: (H, W) bool.
        rng: Source of all choices.

    Returns:
        (H, W) bool: wider by up to 3 pixels or narrower by up to 3, and a quarter of the mean
        width; half of the time smoothed by up to 2 pixels, and half of the time up to 4 aside.

    Raises:
        PnaError: The mask isn't a boolean map.
    """
    mask = _check(mask)
    if not has_boundary(mask):
        return mask
    least = min(3.0, mean_width(mask) / 4)
    moved = signed_distance(mask, 4.0) > -rng.uniform(-least, 3.0)
    if rng.random() < 0.5:
        moved = blur(moved, rng.uniform(0.25, 1) * min(2.0, 2 * least)) > 0.5
    if rng.random() < 0.5:
        top, left = rng.integers(0, 9, 2)
        moved = np.pad(moved, 4, mode="edge")[top:, left:][: mask.shape[0], : mask.shape[1]]
    return moved if has_boundary(moved) else mask


def nearly_right(mask: npt.NDArray[Any], rng: np.random.Generator) -> FloatArray:
    """Make small errors only: all pixels farther than 3 pixels from the boundary stay.

    One or two of: vertices of the outline dropped; dilation or erosion by up to 2 pixels in a
    smooth random field, and a quarter of the mean width; a shift by 1 pixel. Then, half of the
    time, a soft edge.

    Args:
        mask: (H, W) bool.
        rng: Source of all choices.

    Returns:
        (H, W) float32, foreground probabilities in [0, 1].

    Raises:
        PnaError: The mask isn't a boolean map.

    Example:
        >>> mask = np.zeros((60, 80), bool)
        >>> mask[10:50, 20:60] = True
        >>> degree(nearly_right(mask, np.random.default_rng(0)), mask) > 0.85
        True
    """
    mask = _check(mask)
    if not has_boundary(mask):
        return mask.astype(np.float32)
    window = _window(mask)
    accurate = mask[window]
    errors = (_vertices_dropped, _slightly_wide_or_narrow, _off_by_one)
    coarse = accurate
    for error in rng.choice(len(errors), size=int(rng.integers(1, 3)), replace=False):
        coarse = errors[error](coarse, rng)
    soft = coarse.astype(np.float32)
    if rng.random() < 0.5:
        soft = blur(soft, rng.uniform(0.5, 1.5))
    is_near = np.abs(signed_distance(accurate, 3.0)) <= 3
    result = mask.astype(np.float32)
    result[window] = np.where(is_near, soft, accurate)
    return result


def degree(coarse: npt.NDArray[Any], mask: npt.NDArray[np.bool_]) -> float:
    """Measure how coarse a result is: the IoU of its pixels above 0.5 with the accurate mask.

    Args:
        coarse: (H, W) foreground probabilities.
        mask: (H, W) bool.

    Returns:
        IoU in [0, 1]; 1 if both are empty.

    Example:
        >>> degree(np.array([[0.9, 0.6, 0.2]]), np.array([[True, False, False]]))
        0.5
    """
    found = coarse > 0.5
    union = np.count_nonzero(found | mask)
    return float(np.count_nonzero(found & mask) / union) if union else 1.0


def _check(mask: npt.NDArray[Any]) -> BoolArray:
    if mask.ndim != 2 or mask.dtype != np.bool_ or mask.size == 0:
        raise PnaError(
            f"expected a mask (H, W) of bool, at least 1 x 1; got {mask.shape} of {mask.dtype}; "
            "compare probabilities or gray levels with a threshold first"
        )
    return mask


def _window(mask: BoolArray) -> tuple[slice, slice]:
    """Return the rows and columns that a rule may change: the object and what is around it."""
    margin = 8 + extent(mask)
    rows, columns = bounds(mask)
    return (
        slice(max(0, rows.start - margin), rows.stop + margin),
        slice(max(0, columns.start - margin), columns.stop + margin),
    )


def _draw(rule: str | None, rng: np.random.Generator) -> Coarsening:
    if rule is not None:
        return RULES[rule](rng)
    names = list(RULES)
    if rng.random() >= _COMBINED:
        return RULES[names[rng.integers(len(names))]](rng)
    first, second = (RULES[names[at]](rng) for at in rng.choice(len(names), 2, replace=False))

    def combined(mask: BoolArray, strength: float) -> FloatArray:
        between = first(mask, strength) > 0.5
        return second(between, strength) if has_boundary(between) else between.astype(np.float32)

    return combined


def _to_loss(mask: BoolArray, coarsening: Coarsening, loss: float) -> FloatArray:
    """Apply a rule at the strength that costs `loss` of IoU."""
    small = small_copy(mask)
    if not has_boundary(small):
        return mask.astype(np.float32)
    strength, expected = find_strength(
        lambda tried: 1 - degree(coarsening(small, tried), small), loss
    )
    # Details that the small copy can't show may fare otherwise: a few steps correct that.
    best, distance = mask.astype(np.float32), loss + _TOO_MUCH
    for _ in range(4 if mask.size < _LARGE else 2):
        coarse = coarsening(mask, strength)
        found = 1 - degree(coarse, mask)
        if found <= loss + _TOO_MUCH and abs(found - loss) < distance:
            best, distance = coarse, abs(found - loss)
        if abs(found - loss) <= abs(expected - loss) + _NEAR:
            break
        strength *= 1.2 if found < loss else 1 / 1.5
    return best


def _vertices_dropped(mask: BoolArray, rng: np.random.Generator) -> BoolArray:
    loops = outlines.trace(np.pad(mask, 4, mode="edge"))
    loops = outlines.drop_vertices(loops, rng.uniform(0.15, 0.5), rng)
    return outlines.fill(loops, (mask.shape[0] + 8, mask.shape[1] + 8))[4:-4, 4:-4]


def _slightly_wide_or_narrow(mask: BoolArray, rng: np.random.Generator) -> BoolArray:
    if not has_boundary(mask):
        return mask
    largest = min(2.0, mean_width(mask) / 4)
    radius = smooth_noise(mask.shape, int(rng.integers(3, 16)), rng) * np.float32(1.5 * largest)
    return np.asarray(signed_distance(mask, 2.0) + np.clip(radius, -largest, largest) > 0)


def _off_by_one(mask: BoolArray, rng: np.random.Generator) -> BoolArray:
    H, W = mask.shape
    steps = [(0, -1), (0, 1), (-1, 0), (1, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)]
    y, x = steps[rng.integers(len(steps))]
    return np.pad(mask, 1, mode="edge")[1 + y : 1 + y + H, 1 + x : 1 + x + W]
