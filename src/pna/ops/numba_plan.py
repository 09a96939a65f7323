"""Where the numba kernels find a window's keys: everything that depends on positions alone.

The kernels know no grids, ratios or dilations. They follow lists: of queries, of keys in an order
in which every window is a run of neighbors (keys of one phase of the dilation, then those of the
next), and of the entries of the bias table. Along the columns eight queries are one vector, and
there are two ways to lay a window's keys beside each other for them:

shifted: Where N is a multiple of n, the queries of one remainder i % (N / n) have windows that
    advance by one key per query. A panel holds every key once, and the offset `o` of the query `j`
    is its column `j + o`. At the border windows shift: a vector takes the offsets that any of its
    queries needs, and a mask shuts the others.
spread: Anywhere else a panel repeats the keys, in the cache alone: the `o`-th key of the query
    `j` is its column `o * columns + j`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch

from pna.ops.windows import nearest_key, table_positions, window_size, window_start

LANES = 8
"""Queries of a vector."""
COLUMNS = 64
"""Columns of a tile: its panels stay in the second cache."""
ROWS = 16
"""Rows of a band: fewer pack every key more often, more leave threads without work."""

_Ints = np.ndarray


class Rows(NamedTuple):
    """The row axis.

    Attributes:
        size: Key rows of a window.
        query: (H,) rows of queries, phase by phase.
        start: (H,) first key row of their windows, as a place in `key`.
        table: (H,) row of the bias table for that key; the table repeats its first and last row,
            so that it counts from 1.
        share: (H,) float32, share of the table's next row.
        key: (h,) key rows, phase by phase.
    """

    size: int
    query: _Ints
    start: _Ints
    table: _Ints
    share: np.ndarray
    key: _Ints


class Columns(NamedTuple):
    """The column axis, cut into tiles of at most `c` queries; neighbors may use the same panel.

    Attributes:
        distance: Columns of a panel from one offset to the next.
        length: Columns of a panel.
        query_count: (tiles,) queries of a tile.
        query: (tiles, c) their columns.
        panel: (tiles,) number of its panel.
        key_count: (panels,) key columns of a panel.
        key: (panels, k) these columns.
        first: (panels,) column of the panel at which the first of them lies.
        low, high: (tiles, c // 8) first and end offset of a vector.
        slot: (tiles, c // 8) number of its biases.
        mask: (tiles, offsets, c) float32, 0 or -inf.
    """

    distance: int
    length: int
    query_count: _Ints
    query: _Ints
    panel: _Ints
    key_count: _Ints
    key: _Ints
    first: _Ints
    low: _Ints
    high: _Ints
    slot: _Ints
    mask: np.ndarray


class Reading(NamedTuple):
    """How the columns of the bias table become the biases of vectors.

    Attributes:
        lower, upper: (slots, offsets, 8 or 1) columns of the table; 1 where all lanes are alike.
        share: The same, float32: share of the upper one.
    """

    lower: _Ints
    upper: _Ints
    share: np.ndarray


class _Axis(NamedTuple):
    nearest: _Ints  # (N,) nearest key of every query
    start: _Ints  # (N,) first key of its window, as a place in `order`
    order: _Ints  # (n,) keys, phase by phase
    size: int  # keys of a window


def _axis(queries: int, keys: int, window: int, dilation: int) -> _Axis:
    position = torch.arange(queries, device="cpu")
    start = window_start(position, queries, keys, window, dilation).numpy()
    order = np.argsort(np.arange(keys) % dilation, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(keys)
    nearest = nearest_key(position, queries, keys).numpy()
    return _Axis(nearest, place[start], order, window_size(keys, window, dilation))


@lru_cache(64)
def plan_rows(queries: int, keys: int, window: int, dilation: int) -> Rows:
    """Plan the row axis, of `queries` cells on `keys` cells."""
    axis = _axis(queries, keys, window, dilation)
    query = np.argsort(axis.nearest % dilation, kind="stable")
    start = axis.start[query]
    # Rows of the table follow each other, as the keys do: the first of them is enough. None is
    # clamped there but the row before the table, so that the upper entry tells.
    places = _table_places(query, axis.order[start], queries, keys, window, dilation)
    return Rows(axis.size, query, start, places.upper, places.share, axis.order)


def _table_places(
    position: _Ints, key: _Ints, queries: int, keys: int, window: int, dilation: int
) -> Reading:
    tensors = torch.from_numpy(position), torch.from_numpy(key)
    places = table_positions(*tensors, queries, keys, window, dilation)
    lower, upper, share = (x.numpy() for x in torch.broadcast_tensors(*places))  # type: ignore[no-untyped-call]
    return Reading(lower, upper, share)


@lru_cache(64)
def cut_rows(queries: int, keys: int, window: int, dilation: int, split: bool) -> _Ints:
    """Cut the row axis into bands of one phase each.

    Args:
        queries: Cells of the axis of queries.
        keys: Cells of the axis of keys.
        window: Keys per window, odd.
        dilation: Distance of a window's keys.
        split: Whether bands of one turn must have no key in common.

    Returns:
        (bands, 3) int64: first and end place in `Rows.query`, and the turn, 0 or 1.
    """
    # Where keys are finer, fewer rows of queries have as many of keys.
    rows = max(1, ROWS * min(queries, keys) // keys)
    if split:
        # Two bands apart lie as many keys as a window and its shift at the border have; one key is
        # the nearest to at most ceil(N / n) queries.
        rows = max(rows, (window + window // 2) * -(-queries // keys))
    phase = _axis(queries, keys, window, dilation).nearest % dilation
    ends = np.cumsum(np.bincount(phase))
    bands = []
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        for turn, first in enumerate(range(begin, end, rows)):
            bands.append((first, min(first + rows, end), turn % 2))
    return np.array(bands, np.int64)


@lru_cache(64)
def plan_columns(queries: int, keys: int, window: int, dilation: int) -> tuple[Columns, Reading]:
    """Plan the column axis, of `queries` cells on `keys` cells."""
    # On few keys vectors of queries of one remainder would be mostly empty.
    if queries == keys or (queries % keys == 0 and keys >= LANES * dilation):
        return _plan_shifted(queries, keys, window, dilation)
    return _plan_spread(queries, keys, window, dilation)


def _plan_shifted(queries: int, keys: int, window: int, dilation: int) -> tuple[Columns, Reading]:
    """Offsets count from 0, as in the bias table: `o = key - query + window - 1`, in `order`."""
    axis, ratio = _axis(queries, keys, window, dilation), queries // keys
    offsets = 2 * window - 1
    query, panel, count, low, high, mask = [], [], [], [], [], []
    key, first = [], []
    ends = np.cumsum(np.bincount(np.arange(keys) % dilation))
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        for left in range(begin, end, COLUMNS):
            # The nearest keys of the tile's queries, as places in `order`.
            place = np.arange(left, min(left + COLUMNS, end))
            start = axis.start[axis.order[place] * ratio]
            offset = start - place + window - 1
            key.append(axis.order[start[0] : start[-1] + axis.size])
            first.append(start[0] - left + window - 1)
            # Lanes beyond the tile take everything: their queries are 0, so they stay finite.
            o = np.arange(offsets)[:, None]
            is_shut = (o < offset) | (o >= offset + axis.size)
            is_shut = np.pad(is_shut, ((0, 0), (0, COLUMNS - len(place))))
            vectors = np.arange(0, len(place), LANES)
            lows = offset[np.minimum(vectors + LANES, len(place)) - 1]
            highs = offset[vectors] + axis.size
            for remainder in range(ratio):
                query.append(axis.order[place] * ratio + remainder)
                panel.append(len(key) - 1)
                count.append(len(place))
                low.append(lows)
                high.append(highs)
                mask.append(is_shut)
    slot = np.repeat((np.arange(len(query)) % ratio)[:, None], COLUMNS // LANES, 1)
    columns = Columns(
        distance=1,
        length=COLUMNS + offsets - 1,
        query_count=np.array(count),
        query=_stack(query, COLUMNS),
        panel=np.array(panel),
        key_count=np.array([len(x) for x in key]),
        key=_stack(key),
        first=np.array(first),
        low=_stack(low, COLUMNS // LANES),
        high=_stack(high, COLUMNS // LANES),
        slot=slot,
        mask=np.where(mask, np.float32(-np.inf), np.float32(0)),
    )
    # Queries of one remainder read the same entries: those of the first.
    position = np.arange(ratio)[:, None, None]
    o = np.arange(offsets)[:, None]
    reading = _table_places(position, (o - window + 1) * dilation, queries, keys, window, dilation)
    return columns, reading


def _plan_spread(queries: int, keys: int, window: int, dilation: int) -> tuple[Columns, Reading]:
    """Offsets count the keys of a window."""
    axis = _axis(queries, keys, window, dilation)
    # As many columns as leave the panel about as long as a shifted one.
    width = max(COLUMNS * 2 // (axis.size * LANES), 1) * LANES
    tiles, vectors = -(-queries // width), width // LANES
    # The last tile repeats the last query.
    query = np.minimum(np.arange(tiles * width), queries - 1).reshape(tiles, width)
    key = axis.order[axis.start[query][:, None] + np.arange(axis.size)[:, None]]
    columns = Columns(
        distance=width,
        length=axis.size * width,
        query_count=np.minimum(queries - np.arange(tiles) * width, width),
        query=query,
        panel=np.arange(tiles),
        key_count=np.full(tiles, axis.size * width),
        key=key.reshape(tiles, -1),
        first=np.zeros(tiles, np.int64),
        low=np.zeros((tiles, vectors), np.int64),
        high=np.full((tiles, vectors), axis.size),
        slot=np.arange(tiles * vectors).reshape(tiles, vectors),
        mask=np.zeros((tiles, axis.size, width), np.float32),
    )
    lanes = key.reshape(tiles, axis.size, vectors, LANES).swapaxes(1, 2)
    reading = _table_places(
        query.reshape(-1, 1, LANES),
        np.ascontiguousarray(lanes).reshape(-1, axis.size, LANES),
        queries,
        keys,
        window,
        dilation,
    )
    return columns, reading


def _stack(arrays: Sequence[_Ints], length: int = 0) -> _Ints:
    """Stack arrays of several lengths, filled up with zeros."""
    length = max(length, *(len(x) for x in arrays), 0)
    return np.stack([np.pad(x, (0, length - len(x))) for x in arrays])
