"""Segments of a label map: connected pieces of a class, their neighbors, and unknown pixels."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pna.lab.masks.fields import BoolArray, smooth_noise

Labels = npt.NDArray[np.uint8]
T = TypeVar("T", bound=np.generic)
_Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segments:
    """Connected pieces of the classes of a label map.

    Attributes:
        ids: (H, W) index of the segment of each pixel, 0 to N - 1.
        labels: (N,) uint8, class of each segment.
        areas: (N,) in pixels.
    """

    ids: _Ids
    labels: Labels
    areas: _Ids

    def neighbors(self, rng: np.random.Generator) -> _Ids:
        """Draw a class that each segment borders on, by the length of the border.

        Returns:
            (N,) classes; -1 for segments without a neighbor of another class.
        """
        ids = self.ids
        pairs = [(ids[1:], ids[:-1]), (ids[:, 1:], ids[:, :-1])]
        one = np.concatenate([part.ravel() for a, b in pairs for part in (a, b)])
        other = np.concatenate([part.ravel() for a, b in pairs for part in (b, a)])
        differ = self.labels[one] != self.labels[other]
        one, other = one[differ], other[differ]
        order = rng.permutation(len(one))
        segments, first = np.unique(one[order], return_index=True)
        drawn = np.full(len(self.labels), -1)
        drawn[segments] = self.labels[other[order][first]]
        return drawn


def cut_into_segments(labels: Labels, num_cuts: int, rng: np.random.Generator) -> Segments:
    """Find the connected pieces of each class, after cutting the map into cells.

    Args:
        labels: (H, W) classes.
        num_cuts: Cells of the map with wavy borders; 1 cuts nothing.
        rng: Source of the cells.

    Example:
        >>> labels = np.array([[1, 1, 2, 1], [1, 2, 2, 1]], np.uint8)
        >>> segments = cut_into_segments(labels, 1, np.random.default_rng(0))
        >>> segments.labels.tolist(), segments.areas.tolist()
        ([1, 2, 1], [3, 3, 2])
    """
    keys = labels.astype(np.int64)
    if num_cuts > 1:
        keys = keys * num_cuts + _cells(labels.shape, num_cuts, rng)
    ids = connected(keys)
    _, first, areas = np.unique(ids, return_index=True, return_counts=True)
    return Segments(ids, labels.flat[first], areas)


def _cells(shape: tuple[int, ...], number: int, rng: np.random.Generator) -> _Ids:
    """Cut a map into the cells of random points; noise makes their borders wavy."""
    y, x = np.indices(shape, dtype=np.float32) / max(shape)
    y += smooth_noise(shape, 8, rng) * np.float32(0.06)
    x += smooth_noise(shape, 8, rng) * np.float32(0.06)
    points = rng.random((number, 2)).astype(np.float32) * np.array(shape, np.float32) / max(shape)
    nearest = np.zeros(shape, np.int64)
    least = np.full(shape, np.inf, np.float32)
    for index, (row, column) in enumerate(points):
        squares = (y - row) ** 2 + (x - column) ** 2
        nearest[squares < least] = index
        np.minimum(least, squares, out=least)
    return nearest


def connected(keys: npt.NDArray[np.integer]) -> _Ids:
    """Number the connected pieces of equal keys; pixels connect along their sides.

    Args:
        keys: (H, W) integers.

    Returns:
        (H, W) numbers from 0, in the order of the pieces' first pixels.

    Example:
        >>> connected(np.array([[5, 5, 7], [7, 5, 5]])).tolist()
        [[0, 0, 1], [2, 0, 0]]
    """
    # Runs of equal keys in a row are far fewer than pixels. Two runs, one below the other, connect
    # where a pixel of both has the same key.
    is_first = np.ones(keys.shape, bool)
    is_first[:, 1:] = keys[:, 1:] != keys[:, :-1]
    runs = is_first.ravel().cumsum().reshape(keys.shape) - 1
    touches = (keys[1:] == keys[:-1]) & (is_first[1:] | is_first[:-1])  # once for each pair
    one, other = runs[:-1][touches], runs[1:][touches]
    roots = np.arange(runs[-1, -1] + 1)
    while (roots[one] != roots[other]).any():
        least = np.minimum(roots[one], roots[other])
        # The root itself takes the lower root, so that all runs that hang on it follow.
        np.minimum.at(roots, roots[one], least)
        np.minimum.at(roots, roots[other], least)
        while (roots != roots[roots]).any():
            roots = roots[roots]
    _, ids = np.unique(roots, return_inverse=True)
    numbers: _Ids = ids[runs]
    return numbers


def fill_unknown(labels: Labels, is_unknown: BoolArray) -> Labels:
    """Give unknown pixels the class of a known pixel nearby; if none is known, all stay.

    Args:
        labels: (H, W) classes.
        is_unknown: (H, W) bool.

    Returns:
        (H, W) classes, a new map.

    Example:
        >>> labels = np.array([[3, 9, 9, 9, 4, 4]], np.uint8)
        >>> fill_unknown(labels, labels == 9).tolist()
        [[3, 3, 3, 4, 4, 4]]
    """
    if not is_unknown.any() or is_unknown.all():
        return labels.copy()
    return labels.ravel()[_nearest_known(is_unknown)]


def _nearest_known(is_unknown: BoolArray) -> _Ids:
    """Return the number (row * W + column) of a known pixel near each pixel, (H, W).

    On a map of half the size first, where a cell is known if one of its pixels is. Then each
    unknown pixel takes the nearest of what its cell and the cells around it have found.
    """
    H, W = is_unknown.shape
    nearest = np.arange(H * W).reshape(H, W)
    if not is_unknown.any():
        return nearest
    pad = (0, H % 2), (0, W % 2)
    unknown = np.pad(is_unknown, pad, constant_values=True)
    numbers = np.pad(nearest, pad)
    cell, cell_unknown = numbers[::2, ::2].copy(), unknown[::2, ::2].copy()
    for y, x in ((0, 1), (1, 0), (1, 1)):
        is_taken = cell_unknown & ~unknown[y::2, x::2]
        cell[is_taken] = numbers[y::2, x::2][is_taken]
        cell_unknown &= ~is_taken
    cell = cell.ravel()[_nearest_known(cell_unknown)]
    rows, columns = np.nonzero(is_unknown)
    best = np.full(len(rows), np.iinfo(np.int64).max)
    for y, x in np.ndindex(3, 3):
        at = cell[
            (rows // 2 + y - 1).clip(0, cell.shape[0] - 1),
            (columns // 2 + x - 1).clip(0, cell.shape[1] - 1),
        ]
        squares = (at // W - rows) ** 2 + (at % W - columns) ** 2
        is_nearer = squares < best
        best[is_nearer] = squares[is_nearer]
        nearest[rows[is_nearer], columns[is_nearer]] = at[is_nearer]
    return nearest


def resize_nearest(values: npt.NDArray[T], shape: tuple[int, ...]) -> npt.NDArray[T]:
    """Resize a map by taking the nearest pixel.

    Example:
        >>> resize_nearest(np.arange(8)[None], (2, 4)).tolist()
        [[1, 3, 5, 7], [1, 3, 5, 7]]
    """
    rows, columns = (
        ((np.arange(size) + 0.5) * (old / size)).astype(np.int64)
        for size, old in zip(shape, values.shape, strict=True)
    )
    resized: npt.NDArray[T] = values[rows[:, None], columns]
    return resized
