"""NAM, the neighborhood aggregation module: gather the prediction from cells with similar features.

Paper, section "Neighborhood Aggregation Module", equations 2 to 4. Queries and keys come from the
encoder's features, values from the previous prediction. Maps are channels-last: (B, H, W, D).
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pna.model.pna.layers import CellLinear, merge_heads, split_heads
from pna.ops import neighborhood_attention
from pna.ops.windows import Positions, read_table, table_positions, window_size, window_start


class Similarity(NamedTuple):
    """Attention weights of one cell (paper, figure 1).

    Attributes:
        row, col: The query's cell, on the grid of queries.
        rows, cols: (first, end) of its window, on the grid of keys.
        weights: (heads, window height, window width), each head sums to 1.
    """

    row: int
    col: int
    rows: tuple[int, int]
    cols: tuple[int, int]
    weights: Tensor


class NeighborhoodAggregation(nn.Module):
    """NAM as released: several heads, normalized inputs, an output projection.

    Args:
        width: Channels D of both inputs and of the result; a multiple of `head_width`.
        window: Cells per side, odd.
        head_width: Channels of one head.
    """

    def __init__(self, width: int, window: int, head_width: int = 32) -> None:
        super().__init__()
        self.heads = width // head_width
        self.window = window
        self.norm_feature = nn.LayerNorm(width)
        self.norm_value = nn.LayerNorm(width)
        self.query_key = CellLinear(width, 2 * width)
        self.value = CellLinear(width, width)
        # One bias per offset between two cells: -(w - 1) .. w - 1 along each axis.
        self.bias_table = nn.Parameter(torch.empty(self.heads, 2 * window - 1, 2 * window - 1))
        self.project = CellLinear(width, width)
        # As released, and as Swin initializes its table.
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, feature: Tensor, value: Tensor) -> Tensor:
        """Aggregate the values (B, H, W, D) by the similarity of the features (B, H, W, D)."""
        # Queries, keys and values have no name here: the projection runs when they are freed.
        out = neighborhood_attention(
            *self._query_key(feature),
            split_heads(self.value(self.norm_value(value)), self.heads),
            self.bias_table,
            window=self.window,
        )
        return cast(Tensor, self.project(merge_heads(out)))

    def similarity(self, feature: Tensor, row: int, col: int) -> Similarity:
        """Return the weights that the cell (row, col) of the first map gives to its window."""
        return window_similarity(*self._query_key(feature), self.bias_table, self.window, row, col)

    def _query_key(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        # One matrix for both, as in the released checkpoints: (B, H, W, 2 D) -> 2 x (B, H, W, D).
        query, key = self.query_key(self.norm_feature(feature)).chunk(2, -1)
        return split_heads(query, self.heads), split_heads(key, self.heads)


class PaperNeighborhoodAggregation(nn.Module):
    """NAM by the equations: one head, three matrices, the bias scaled with the products.

    Args:
        width: Channels D of both inputs and of the result.
        window: Cells per side, odd.
    """

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.scale = width**-0.5
        self.query = CellLinear(width, width, bias=False)
        self.key = CellLinear(width, width, bias=False)
        self.value = CellLinear(width, width, bias=False)
        self.bias_table = nn.Parameter(torch.empty(1, 2 * window - 1, 2 * window - 1))
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, feature: Tensor, value: Tensor) -> Tensor:
        """Aggregate the values (B, H, W, D) by the similarity of the features (B, H, W, D)."""
        query, key, bias = self._query_key_bias(feature)
        value = split_heads(self.value(value), 1)
        return merge_heads(neighborhood_attention(query, key, value, bias, window=self.window))

    def similarity(self, feature: Tensor, row: int, col: int) -> Similarity:
        """Return the weights that the cell (row, col) of the first map gives to its window."""
        return window_similarity(*self._query_key_bias(feature), self.window, row, col)

    def _query_key_bias(self, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key = (split_heads(f(feature), 1) for f in (self.query, self.key))
        # The equations scale Q K^T + B as a whole; the operator scales the products only.
        return query, key, self.bias_table * self.scale


class LogitAggregation(nn.Module):
    """One attention head whose values are the logits themselves: an edge-aware upsampling.

    It starts close to the identity: the bias of the cell itself is `self_bias`, all others are 0.
    There is no projection of values or results, so a class's logit only ever mixes with its own
    neighbors.

    Args:
        width: Channels D of the features.
        window: Cells per side, odd.
        self_bias: Bias of the cell itself when training starts. Of w x w cells it then has the
            share e^b / (e^b + w^2 - 1): of 9 x 9, 65 % at b = 5 and 97 % at b = 8.
        head_width: Width of queries and keys.
    """

    def __init__(self, width: int, window: int, *, self_bias: float, head_width: int = 32) -> None:
        super().__init__()
        self.window = window
        self.norm = nn.LayerNorm(width)
        self.query_key = CellLinear(width, 2 * head_width)
        # Zero but for the cell itself: training starts close to the identity.
        self.bias_table = nn.Parameter(torch.zeros(1, 2 * window - 1, 2 * window - 1))
        with torch.no_grad():
            self.bias_table[0, window - 1, window - 1] = self_bias

    def forward(self, feature: Tensor, logits: Tensor) -> Tensor:
        """Aggregate logits (B, H, W, K) by the similarity of the features (B, H, W, D)."""
        query, key = self._query_key(feature)
        value = split_heads(logits, 1)
        out = neighborhood_attention(query, key, value, self.bias_table, window=self.window)
        return merge_heads(out)

    def similarity(self, feature: Tensor, row: int, col: int) -> Similarity:
        """Return the weights that the cell (row, col) of the first map gives to its window."""
        return window_similarity(*self._query_key(feature), self.bias_table, self.window, row, col)

    def _query_key(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        query, key = self.query_key(self.norm(feature)).chunk(2, -1)
        return split_heads(query, 1), split_heads(key, 1)


def window_similarity(
    query: Tensor, key: Tensor, bias: Tensor, window: int, row: int, col: int
) -> Similarity:
    """Compute the softmax of one cell of the first map.

    Args:
        query: (B, heads, H, W, d).
        key: (B, heads, h, w, d), on the same or on another grid.
        bias: (heads, 2 * window - 1, 2 * window - 1).
        window: Keys per side, odd.
        row: Row of the query's cell.
        col: Its column.
    """
    cell = torch.tensor((row, col), device=query.device)
    (top, bottom), row_entries = _neighborhood(cell[0], query.shape[2], key.shape[2], window)
    (left, right), col_entries = _neighborhood(cell[1], query.shape[3], key.shape[3], window)
    keys = key[0, :, top:bottom, left:right]  # (heads, window height, window width, d)
    # The operator's softmax for one query, written out: it returns sums, not weights.
    scores = (keys * query[0, :, row, col, None, None]).sum(-1) * query.shape[-1] ** -0.5
    table = read_table(bias, row_entries)  # (heads, window height, 2 * window - 1)
    scores = scores + read_table(table.mT, col_entries).mT
    # Over the whole window of each head, in float32 for models in half precision too.
    weights = scores.float().flatten(1).softmax(-1).view_as(scores)
    return Similarity(row, col, (top, bottom), (left, right), weights)


def _neighborhood(
    position: Tensor, queries: int, keys: int, window: int
) -> tuple[tuple[int, int], Positions]:
    """(first, end) of a query's window along one axis, and where its keys read the bias table."""
    start = int(window_start(position, queries, keys, window, 1))
    end = start + window_size(keys, window)
    key = torch.arange(start, end, device=position.device)
    return (start, end), table_positions(position, key, queries, keys, window, 1)
