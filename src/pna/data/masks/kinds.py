"""The kind of a mask that its file does not state: label numbers, a soft mask, or blurred colors.

A value of a label map fills areas; the values between black and white of a soft mask, and the mixed
colors of an anti-aliased or compressed one, stand along edges. So a value counts as solid if most
of its pixels equal their right and lower neighbors. In the masks of nine data sets nearly all
values of label maps are solid, and at most 10 of the 125 to 256 gray levels of saliency maps.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from pna.data.errors import DataError
from pna.labels import IGNORE_INDEX

Kind = Literal["binary", "labels", "colors", "soft"]
ReadAs = Literal["binary", "labels", "colors", "soft", "alpha"]
"""The kinds that may be asked for: alpha is a binary or soft mask in an alpha channel."""

_BAND = 512  # rows that are counted at once
# A few small numbers are labels even if all are thin, as cracks are.
_FEW_LEVELS, _SMALL_LABEL = 8, 31
_MOST_GRAYS = 16  # classes that people draw as gray steps; more steps are label numbers


class Counted(NamedTuple):
    """The values of a mask, ascending.

    Attributes:
        values: (N,) int64, each value once.
        counts: (N,) pixels of each.
        is_solid: (N,) bool, whether most of its pixels equal their right and lower neighbors.
    """

    values: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    is_solid: npt.NDArray[np.bool_]

    @property
    def is_blurred(self) -> bool:
        """Whether most values stand along edges alone, as after anti-aliasing or compression."""
        return len(self.values) > _FEW_LEVELS and 2 * self.is_solid.sum() < len(self.values)


def count_values(values: npt.NDArray[np.integer[Any]]) -> Counted:
    """Count each value of a map.

    Args:
        values: (H, W) integers, 0 to 2^24 - 1.

    Example:
        >>> count_values(np.array([[0, 0, 7], [0, 0, 7]])).values.tolist()
        [0, 7]
    """
    size = int(values.max()) + 1
    counts, pairs, even = (np.zeros(size, np.int64) for _ in range(3))
    for rows in _bands(values):
        inner = rows[:-1, :-1]
        equal = (inner == rows[:-1, 1:]) & (inner == rows[1:, :-1])
        pairs += np.bincount(inner.ravel(), minlength=size)
        even += np.bincount(inner[equal].ravel(), minlength=size)
    for top in range(0, len(values), _BAND):  # bincount needs 8 bytes a pixel
        counts += np.bincount(values[top : top + _BAND].ravel(), minlength=size)
    found = np.flatnonzero(counts)
    return Counted(found, counts[found], 2 * even[found] > pairs[found])


def _bands(values: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the rows in bands, each with the first row of the next."""
    for top in range(0, len(values) - 1, _BAND):
        yield values[top : top + _BAND + 1]


class GrayMask(NamedTuple):
    """A mask that was read from gray levels.

    Attributes:
        array: (H, W): bool, uint8 labels, or float32 in [0, 1].
        kind: Of the array.
        levels: The gray level of each class, background and foreground of a binary mask; None if
            labels are the levels, and for soft masks.
        guess: The reason where the kind was guessed, else None.
    """

    array: npt.NDArray[Any]
    kind: Kind
    levels: npt.NDArray[np.int64] | None
    guess: str | None


def read_gray(
    values: npt.NDArray[np.integer[Any]],
    top: int,
    *,
    kind: ReadAs | None = None,
    source: str,
    is_lossy: bool = False,
) -> GrayMask:
    """Read gray levels as a mask.

    Args:
        values: (H, W) integers, at least 0.
        top: The level of full foreground in a soft mask: 255 or 65535.
        kind: "binary", "labels" or "soft"; None guesses.
        source: Name of the mask in error messages.
        is_lossy: Whether compression has changed the levels.

    Raises:
        DataError: If there are more than 255 classes, or a level lies above `top` in a soft mask.

    Example:
        >>> mask = read_gray(np.array([[0, 255, 255]]), 255, source="a mask")
        >>> mask.kind, mask.array.tolist()
        ('binary', [[False, True, True]])
    """
    # Label numbers of several bytes are rare, and counting needs a table as long as the largest.
    counted = count_values(values) if values.max() < 1 << 24 else _count_large(values)
    assert kind not in ("colors", "alpha"), "they are no gray levels"
    guess = None
    if kind is None:
        kind, guess = _guess(counted, top, is_lossy)
    if kind == "binary":
        return _as_binary(values, counted.values, top, guess)
    if kind == "labels":
        return _as_labels(values, counted.values, top, guess, source)
    if counted.values[-1] > top:
        raise DataError(
            f"{source} holds levels up to {counted.values[-1]}: a soft mask of this type has 0 to "
            f"{top}; if they are label numbers, give the kind labels"
        )
    return GrayMask((values / np.float32(top)).astype(np.float32), "soft", None, guess)


def _count_large(values: npt.NDArray[np.integer[Any]]) -> Counted:
    found, counts = np.unique(values, return_counts=True)
    return Counted(found.astype(np.int64), counts, np.ones(len(found), np.bool_))


def _guess(counted: Counted, top: int, is_lossy: bool) -> tuple[Kind, str | None]:
    """Guess the kind of gray levels; the sentence is None where no other kind makes sense."""
    levels = counted.values
    listed = _name_levels(levels)
    if set(levels.tolist()) <= {0, 1} or set(levels.tolist()) <= {0, IGNORE_INDEX}:
        return "binary", None
    if set(levels.tolist()) <= {0, top}:
        return "binary", None
    if is_lossy:
        return "soft", (
            f"{listed}, in a file whose compression blurs edges: taken for a soft mask; the kind "
            "binary cuts it at one half"
        )
    if len(levels) <= 2:
        return "labels", None  # two classes, whatever their numbers
    inner = levels[(levels != IGNORE_INDEX) & (levels != top)]
    is_small = len(levels) <= _FEW_LEVELS and int(inner.max()) <= _SMALL_LABEL
    if is_small or 2 * counted.is_solid.sum() >= len(levels):
        return "labels", (
            f"{listed}, which fill areas: taken for label numbers{_ignored(levels, top)}; if they "
            "are shares of foreground, give the kind soft"
        )
    return "soft", (
        f"{listed}, most of them along edges: taken for a soft mask; if they are label numbers, "
        "give the kind labels"
    )


def _ignored(levels: npt.NDArray[np.int64], top: int) -> str:
    is_ignored = IGNORE_INDEX in levels and not _is_renumbered(levels, top)
    return f", {IGNORE_INDEX} for ignored pixels" if is_ignored else ""


def _as_binary(
    values: npt.NDArray[np.integer[Any]], levels: npt.NDArray[np.int64], top: int, guess: str | None
) -> GrayMask:
    if len(levels) > 2:
        return GrayMask(np.asarray(values > top / 2), "binary", np.array([0, top]), guess)
    # Of one level alone: black is background.
    low, high = (levels[0], levels[1]) if len(levels) == 2 else (0, levels[0] or top)
    pair = np.array([low, high], dtype=np.int64)
    return GrayMask(np.asarray(values == high), "binary", pair, guess)


def _as_labels(
    values: npt.NDArray[np.integer[Any]],
    levels: npt.NDArray[np.int64],
    top: int,
    guess: str | None,
    source: str,
) -> GrayMask:
    if not _is_renumbered(levels, top):
        return GrayMask(values.astype(np.uint8), "labels", None, guess)
    if len(levels) > IGNORE_INDEX:
        raise DataError(
            f"{source} has {len(levels)} different values: expected at most {IGNORE_INDEX} "
            "classes; if they are shares of foreground, give the kind soft, else join classes"
        )
    # Classes are numbered in the order of their levels: labels are 8-bit, and 255 is ignored.
    labels = np.searchsorted(levels, values).astype(np.uint8)
    return GrayMask(labels, "labels", levels, guess)


def _is_renumbered(levels: npt.NDArray[np.int64], top: int) -> bool:
    """Return whether levels are no labels themselves: beyond 8 bits, or gray steps up to white."""
    if levels[-1] > IGNORE_INDEX:
        return True
    # 0, 85, 170, 255: four classes drawn as grays, where 255 is the last one and not ignored.
    steps = np.linspace(0, top, len(levels))
    is_drawn = 2 < len(levels) <= _MOST_GRAYS and (abs(levels - steps) <= 1).all()
    return bool(is_drawn)


def _name_levels(levels: npt.NDArray[np.int64]) -> str:
    shown = ", ".join(map(str, levels[:6].tolist())) + (", ..." if len(levels) > 6 else "")
    return f"{len(levels)} gray levels ({shown})" if len(levels) > 1 else f"gray level {shown}"
