"""The oracle: neighborhood attention by gathering every window. Slow, hungry, obviously right.

Needs `heads * H * W * window**2 * d` numbers; any dtype, computed in it; differentiable twice.
"""

import torch
from torch import Tensor

from pna.ops.windows import window_size, window_start


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, window: int, scale: float
) -> Tensor:
    """`pna.ops.neighborhood_attention` without its checks."""
    H, W = query.shape[2:4]
    rows = _window_cells(H, window, query.device)  # (H, wh)
    cols = _window_cells(W, window, query.device)  # (W, ww)
    # Every window is copied: window**2 times the memory of the map, and nothing to get wrong.
    keys = key[:, :, rows][:, :, :, :, cols]  # (B, heads, H, wh, W, ww, d)
    values = value[:, :, rows][:, :, :, :, cols]
    scores = scale * torch.einsum("bhijd,bhiyjxd->bhijyx", query, keys)
    if bias is not None:
        row_offset = rows - torch.arange(H, device=rows.device)[:, None] + window - 1
        col_offset = cols - torch.arange(W, device=cols.device)[:, None] + window - 1
        table = bias[:, row_offset][:, :, :, col_offset]  # (heads, H, wh, W, ww)
        scores = scores + table.permute(0, 1, 3, 2, 4).to(scores.dtype)
    exact = torch.float64 if scores.dtype == torch.float64 else torch.float32
    weights = scores.flatten(-2).softmax(-1, dtype=exact).view_as(scores).to(value.dtype)
    return torch.einsum("bhijyx,bhiyjxd->bhijd", weights, values)


def _window_cells(n: int, window: int, device: torch.device) -> Tensor:
    start = window_start(torch.arange(n, device=device), n, window)
    return start[:, None] + torch.arange(window_size(n, window), device=device)
