"""The oracle: neighborhood attention by gathering every window. Slow, hungry, obviously right.

Needs `heads * H * W * window**2 * d` numbers; any dtype, computed in it; differentiable twice.
"""

import torch
from torch import Tensor

from pna.ops.windows import read_table, table_positions, window_size, window_start


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: int,
    dilation: int,
    scale: float,
) -> Tensor:
    """`pna.ops.neighborhood_attention` without its checks."""
    (H, W), (h, w) = query.shape[2:4], key.shape[2:4]
    rows = _window_keys(H, h, window, dilation, query.device)  # (H, wh)
    cols = _window_keys(W, w, window, dilation, query.device)  # (W, ww)
    # Every window is copied: window**2 times the memory of the map, and nothing to get wrong.
    keys = key[:, :, rows][:, :, :, :, cols]  # (B, heads, H, wh, W, ww, d)
    values = value[:, :, rows][:, :, :, :, cols]
    scores = scale * torch.einsum("bhijd,bhiyjxd->bhijyx", query, keys)
    if bias is not None:
        table = _read(bias, rows, h, window, dilation)  # (heads, H, wh, 2 * window - 1)
        table = _read(table.flatten(1, 2).mT, cols, w, window, dilation)
        table = table.reshape(*table.shape[:3], *rows.shape)  # (heads, W, ww, H, wh)
        scores = scores + table.permute(0, 3, 1, 4, 2).to(scores.dtype)
    exact = torch.float64 if scores.dtype == torch.float64 else torch.float32
    weights = scores.flatten(-2).softmax(-1, dtype=exact).view_as(scores).to(value.dtype)
    return torch.einsum("bhijyx,bhiyjxd->bhijd", weights, values)


def _window_keys(
    queries: int, keys: int, window: int, dilation: int, device: torch.device
) -> Tensor:
    """Keys of every window along one axis: (queries, keys of a window)."""
    position = torch.arange(queries, device=device)
    start = window_start(position, queries, keys, window, dilation)
    steps = torch.arange(window_size(keys, window, dilation), device=device)
    return start[:, None] + steps * dilation


def _read(table: Tensor, windows: Tensor, keys: int, window: int, dilation: int) -> Tensor:
    """Read a table (heads, 2 * window - 1, n) along its first axis: (heads, *windows.shape, n)."""
    queries = len(windows)
    position = torch.arange(queries, device=windows.device)[:, None]
    entries = table_positions(position, windows, queries, keys, window, dilation, table.dtype)
    return read_table(table, entries)
