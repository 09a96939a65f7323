"""The neighborhood of every cell: where windows start, and how a map is cut into tiles of queries.

The window of the query at position i on an axis of n cells has `min(window, n)` cells and starts at
`clamp(i - window // 2, 0, n - min(window, n))`: it never leaves the map, at the border it shifts.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor


def window_size(n: int, window: int) -> int:
    """Cells of a window along an axis of `n` cells; traceable for symbolic `n`."""
    return cast(int, torch.sym_min(window, n))


def window_start(position: Tensor, n: int, window: int) -> Tensor:
    """First cell of the window of each query position, same shape as `position`."""
    return (position - window // 2).clamp(min=0).clamp(max=n - window_size(n, window))


class Tiles(NamedTuple):
    """One axis cut into tiles of queries, with the keys that each tile's windows can touch.

    Attributes:
        query: (tiles, t) positions of the queries; the last tile may repeat the last cell.
        valid: (tiles, t) False for those repetitions.
        key: (tiles, e) positions of the keys, `e = min(t + window - 1, n)`.
        offset: (tiles, t, e) key minus query plus window - 1, clamped to the bias table.
        inside: (tiles, t, e) whether the key lies in the query's window.
        regular: (tiles,) True where `offset` and `inside` equal those of every other regular tile:
            no window of the tile shifts at a border.
    """

    query: Tensor
    valid: Tensor
    key: Tensor
    offset: Tensor
    inside: Tensor
    regular: Tensor


def cut_axis(n: int, tile: int, window: int, device: torch.device) -> Tiles:
    """Cut an axis of `n` cells into tiles of `tile` queries; traceable for symbolic `n`."""
    # A tile of t queries has windows that begin at t neighboring cells: t + window - 1 keys.
    extent = window_size(n, tile + window - 1)
    first = torch.arange((n + tile - 1) // tile, device=device) * tile
    within = torch.arange(tile, device=device)
    unclamped = first[:, None] + within
    # The last tile repeats its last cell, so that all tiles have one shape.
    query = unclamped.clamp(max=n - 1)
    key_start = window_start(first, n, window).clamp(max=n - extent)
    key = key_start[:, None] + torch.arange(extent, device=device)
    start = window_start(query, n, window)
    inside = (key[:, None] >= start[:, :, None]) & (
        key[:, None] < start[:, :, None] + window_size(n, window)
    )
    # Clamped offsets belong to keys outside of the window; `inside` masks them.
    offset = (key[:, None] - query[:, :, None] + window - 1).clamp(0, 2 * window - 2)
    reach = window // 2
    regular = (first >= reach) & (first + tile + reach <= n)
    return Tiles(query, unclamped < n, key, offset, inside, regular)
