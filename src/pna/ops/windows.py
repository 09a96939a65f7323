"""The neighborhood of every query: which keys its window holds, and where it reads the bias table.

Queries lie on an axis of N cells, keys on one of n cells of the same image; N = n is an ordinary
neighborhood. The query i stands at `c = (i + 0.5) * n / N - 0.5` in key cells, nearest to the key
`floor(c + 0.5)`. Around that key lies its window, which never leaves the map: at the border it
shifts. Positions are computed with integers, so that no rounding moves a window.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor


class Positions(NamedTuple):
    """Relative positions of keys, as places in the bias table: between two of its entries.

    Attributes:
        lower, upper: Both entries, int64.
        share: Share of the upper one in [0, 1), float32: 0 wherever the grids are equal.
    """

    lower: Tensor
    upper: Tensor
    share: Tensor


def window_size(n: int, window: int, dilation: int = 1) -> int:
    """Keys of a window along an axis of `n` keys; traceable for symbolic `n`."""
    if dilation == 1:
        return cast(int, torch.sym_min(window, n))
    # Keys that are `dilation` apart form n // dilation or one more; every window has as many.
    return cast(int, torch.sym_max(torch.sym_min(window, n // dilation), 1))


def nearest_key(position: Tensor, queries: int, keys: int) -> Tensor:
    """The key nearest to each query position: floor((i + 0.5) * n / N), of the shape of `position`.

    Args:
        position: Query cells i, int64.
        queries: Cells N of the axis of queries.
        keys: Cells n of the axis of keys.
    """
    return (2 * position + 1) * keys // (2 * queries)


def window_start(position: Tensor, queries: int, keys: int, window: int, dilation: int) -> Tensor:
    """First key of the window of each query position, of the shape of `position`."""
    nearest = nearest_key(position, queries, keys)
    if dilation == 1:
        last = keys - window_size(keys, window)
        return (nearest - window // 2).clamp(min=0).clamp(max=last)
    # A window's keys are those of the nearest key's phase, and it shifts among them alone.
    phase = nearest % dilation
    size = (keys - phase + dilation - 1) // dilation  # keys of that phase
    first = (nearest // dilation - window // 2).clamp(min=0)
    return phase + dilation * first.minimum(size - window_size(keys, window, dilation))


def table_positions(
    position: Tensor,
    key: Tensor,
    queries: int,
    keys: int,
    window: int,
    dilation: int,
    dtype: torch.dtype = torch.float32,
) -> Positions:
    """Where the bias table is read: at `(y - c) / dilation + window - 1`, clamped to its ends.

    Args:
        position: Query cells i, int64.
        key: Keys y of their windows, int64; broadcasts with `position`.
        queries: Cells N of the axis of queries.
        keys: Cells n of the axis of keys.
        window: Keys per window, odd.
        dilation: Distance of a window's keys.
        dtype: Of the share.
    """
    nearest = nearest_key(position, queries, keys)
    # Twice N times the distance of the query from the lower edge of its nearest key: N is the
    # center, where it stands if the grids are equal. No remainder: that of a division by a free
    # size does not translate to ONNX.
    place = (2 * position + 1) * keys - 2 * queries * nearest
    # Beyond the center the keys are closer: the entry before is read too.
    is_beyond = place > queries
    lower = (key - nearest) // dilation + window - 1 - is_beyond.long()
    share = (queries - place).to(dtype) / (2 * queries * dilation) + is_beyond.to(dtype)
    last = 2 * window - 2
    return Positions(lower.clamp(0, last), (lower + 1).clamp(0, last), share)


def read_table(table: Tensor, entries: Positions) -> Tensor:
    """Read a bias table along its first axis, linearly between two entries.

    Args:
        table: (heads, 2 * window - 1, n).
        entries: `lower`, `upper` (..., keys), and a `share` that broadcasts with them.

    Returns:
        (heads, ..., keys, n).
    """
    share = entries.share.to(table.dtype)[..., None]
    lower = table[:, entries.lower]
    # An entry of share 0 is not read: it may be infinite.
    return torch.where(share == 0, lower, (1 - share) * lower + share * table[:, entries.upper])


def table_weights(entries: Positions, side: int) -> Tensor:
    """The weights of all entries of an axis where it is read: rows that sum to 1.

    Args:
        entries: `lower`, `upper` (..., keys), and a `share` that broadcasts with them.
        side: Entries of the axis.

    Returns:
        (..., keys, side), in the dtype of `share`.
    """
    entry = torch.arange(side, device=entries.lower.device)
    share = entries.share[..., None]
    none = torch.zeros((), dtype=share.dtype, device=share.device)
    lower = torch.where(entries.lower[..., None] == entry, 1 - share, none)
    return lower + torch.where(entries.upper[..., None] == entry, share, none)


class Tiles(NamedTuple):
    """One axis cut into tiles of t queries, with the e keys that each tile's windows can touch.

    Attributes:
        query: (tiles, t) positions of the queries; the last tile may repeat the last cell.
        valid: (tiles, t) False for those repetitions.
        key: (tiles, e) positions of the keys.
        entries: Entries of the bias table, `lower` and `upper` (tiles, t, e), `share`
            (tiles, t, 1). Keys outside of the query's window read `2 * window - 1`, one beyond it.
        inner: (tiles,) True where no window of the tile shifts at a border. Such tiles have the
            same `entries` if their queries stand alike in their nearest keys.
    """

    query: Tensor
    valid: Tensor
    key: Tensor
    entries: Positions
    inner: Tensor


def cut_axis(queries: int, keys: int, tile: int, window: int, dilation: int, like: Tensor) -> Tiles:
    """Cut an axis of queries into tiles; traceable for symbolic sizes.

    Args:
        queries: Cells N of the axis of queries.
        keys: Cells n of the axis of keys.
        tile: Queries per tile.
        window: Keys per window, odd.
        dilation: Distance of a window's keys.
        like: Any tensor of the device and dtype to compute in.
    """
    device = like.device
    first = torch.arange((queries + tile - 1) // tile, device=device) * tile
    unclamped = first[:, None] + torch.arange(tile, device=device)
    # The last tile repeats its last cell, so that all tiles have one shape.
    query = unclamped.clamp(max=queries - 1)

    # Windows reach half their size beyond the nearest keys, to both sides. Dilated windows that
    # shift at a border keep their phase, so together they begin at `dilation` keys. A bound and not
    # the exact count, which differs between tiles.
    spread = _spread(tile, queries, keys)
    bound = torch.sym_max(spread + 1, dilation) + (window - 1) * dilation
    # A graph for free sizes is traced many times faster where this is a number: keys beyond a small
    # map then repeat its last one, outside of all windows.
    extent = bound if torch.compiler.is_exporting() else torch.sym_min(keys, bound)
    key_start = nearest_key(first, queries, keys) - window // 2 * dilation
    inner = (key_start >= 0) & (key_start + bound <= keys) & (first + tile <= queries)
    key_start = key_start.clamp(max=keys - extent).clamp(min=0)
    key = key_start[:, None] + torch.arange(extent, device=device)

    start = window_start(query, queries, keys, window, dilation)
    distance = key[:, None] - start[:, :, None]
    inside = (distance >= 0) & (distance < window_size(keys, window, dilation) * dilation)
    if dilation > 1:
        inside &= distance % dilation == 0
    lower, upper, share = table_positions(
        query[:, :, None], key[:, None], queries, keys, window, dilation, like.dtype
    )
    beyond = torch.full((), 2 * window - 1, device=device)
    entries = Positions(
        torch.where(inside, lower, beyond), torch.where(inside, upper, beyond), share
    )
    return Tiles(query, unclamped < queries, key.clamp(max=keys - 1), entries, inner)


def _spread(tile: int, queries: int, keys: int) -> int:
    """Steps over which the nearest keys of a tile spread at most: a number even for free sizes.

    At other ratios than those of stages the result of a trace is an expression of its sizes.
    """
    if torch.compiler.is_exporting():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        for ratio in (1, 2):
            if statically_known_true(queries == ratio * keys):
                return -(-(tile - 1) // ratio)
    return ((tile - 1) * keys + queries - 1) // queries
