"""NAM, the neighborhood aggregation module: gather the prediction from cells with similar features.

Paper, section "Neighborhood Aggregation Module", equations 2 to 4. Queries and keys come from the
encoder's features, values from the previous prediction. Maps are channels-last: (B, H, W, D).
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pna.model.pna.layers import CellLinear, merge_heads, split_heads
from pna.model.resize import average
from pna.ops import neighborhood_attention
from pna.ops.windows import (
    Positions,
    nearest_key,
    read_table,
    table_positions,
    window_size,
    window_start,
)

_SHARPNESS = 34.0
"""Colors in [0, 1] that differ by 0.17 start with a share of 1 / e."""
_FALL = 3.0
"""By which the bias starts to fall from one cell of the logits to the next."""


class Similarity(NamedTuple):
    """Attention weights of one query (paper, figure 1), in cells of the keys.

    Attributes:
        row, col: The key under the query's center.
        rows, cols: (first, end) of its window.
        weights: (heads, window height, window width), each head sums to 1.
        size: (h, w) of the map of keys.
    """

    row: int
    col: int
    rows: tuple[int, int]
    cols: tuple[int, int]
    weights: Tensor
    size: tuple[int, int]


class Neighborhood(NamedTuple):
    """Everything of an attention but its values.

    Attributes:
        query: (B, heads, H, W, d).
        key: (B, heads, h, w, d), on the grid of the values.
        bias: (heads, 2 * window - 1, 2 * window - 1).
        scale: Factor on the products; None is `d ** -0.5`.
    """

    query: Tensor
    key: Tensor
    bias: Tensor
    scale: float | None = None

    @property
    def window(self) -> int:
        """Keys per side."""
        return (self.bias.shape[-1] + 1) // 2

    def gather(self, values: Tensor) -> Tensor:
        """Gather a map (B, h, w, heads * dv), each head its share of channels: (B, H, W, same)."""
        query, key, bias, scale = self
        out = neighborhood_attention(
            query,
            key,
            split_heads(values, query.shape[1]),
            bias,
            window=self.window,
            scale=scale,
        )
        return merge_heads(out)

    def similarity(self, row: int, col: int) -> Similarity:
        """Compute the weights of the query (row, col) of the first map."""
        query, key, bias, scale = self
        cell = torch.tensor((row, col), device=query.device)
        sizes = zip(cell, query.shape[2:4], key.shape[2:4], strict=True)
        (down, rows, row_entries), (right, cols, col_entries) = (
            _window_of(*axis, self.window) for axis in sizes
        )
        keys = key[0, :, slice(*rows), slice(*cols)]  # (heads, window height, window width, d)
        # The operator's softmax for one query, written out: it returns sums, not weights.
        scores = (keys * query[0, :, row, col, None, None]).sum(-1)
        scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
        table = read_table(bias, row_entries)  # (heads, window height, 2 * window - 1)
        scores = scores + read_table(table.mT, col_entries).mT
        # Over the whole window of each head, in float32 for models in half precision too.
        weights = scores.float().flatten(1).softmax(-1).view_as(scores)
        h, w = key.shape[2:4]
        return Similarity(down, right, rows, cols, weights, (h, w))


def _window_of(
    position: Tensor, queries: int, keys: int, window: int
) -> tuple[int, tuple[int, int], Positions]:
    """A query's nearest key along one axis, its window (first, end), and where the bias is read."""
    nearest = int(nearest_key(position, queries, keys))
    start = int(window_start(position, queries, keys, window, 1))
    end = start + window_size(keys, window)
    key = torch.arange(start, end, device=position.device)
    return nearest, (start, end), table_positions(position, key, queries, keys, window, 1)


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
        out = self.neighborhood(feature).gather(self.value(self.norm_value(value)))
        return cast(Tensor, self.project(out))

    def neighborhood(self, feature: Tensor) -> Neighborhood:
        """Compute what the values are gathered with from features (B, H, W, D)."""
        # One matrix for both, as in the released checkpoints: (B, H, W, 2 D) -> 2 x (B, H, W, D).
        query, key = self.query_key(self.norm_feature(feature)).chunk(2, -1)
        return Neighborhood(
            split_heads(query, self.heads), split_heads(key, self.heads), self.bias_table
        )


class PaperNeighborhoodAggregation(nn.Module):
    """NAM by the equations: one head, three matrices, the bias scaled with the products.

    Args:
        width: Channels D of both inputs and of the result.
        window: Cells per side, odd.
    """

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.scale = width**-0.5
        self.query = CellLinear(width, width, bias=False)
        self.key = CellLinear(width, width, bias=False)
        self.value = CellLinear(width, width, bias=False)
        self.bias_table = nn.Parameter(torch.empty(1, 2 * window - 1, 2 * window - 1))
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, feature: Tensor, value: Tensor) -> Tensor:
        """Aggregate the values (B, H, W, D) by the similarity of the features (B, H, W, D)."""
        return self.neighborhood(feature).gather(self.value(value))

    def neighborhood(self, feature: Tensor) -> Neighborhood:
        """Compute what the values are gathered with from features (B, H, W, D)."""
        query, key = (split_heads(f(feature), 1) for f in (self.query, self.key))
        # The equations scale Q K^T + B as a whole; the operator scales the products only.
        return Neighborhood(query, key, self.bias_table * self.scale)


class LogitGathering(nn.Module):
    """One attention head that gathers logits from the coarser grid that they lie on.

    Queries come from the features of the stage, keys from the same features averaged to the grid of
    the logits, values are the logits themselves. To the scores of these, learned, a joint bilateral
    filter is added (Kopf et al. 2007, "Joint bilateral upsampling"): `-sharpness * |c_q - c_k|^2`,
    with the colors c of the image averaged to either grid, and a bias that falls by 3 a cell. So it
    starts as an edge-aware upsampling, and learns which differences are edges.

    Args:
        width: Channels D of the features.
        window: Side of the neighborhood in cells of the logits, odd.
        head_width: Width of queries and keys, without the colors.
    """

    def __init__(self, width: int, window: int, head_width: int = 16) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.query = CellLinear(width, head_width)
        self.key = CellLinear(width, head_width)
        distance = (torch.arange(2 * window - 1) - (window - 1)).abs()
        table = -_FALL * (distance[:, None] + distance).float()
        self.bias_table = nn.Parameter(table[None])
        # As a logarithm it stays positive, and its steps do not depend on its size.
        self.log_sharpness = nn.Parameter(torch.tensor(_SHARPNESS).log())

    def forward(
        self, feature: Tensor, logits: Tensor, image: Tensor
    ) -> tuple[Tensor, Neighborhood]:
        """Gather logits.

        Args:
            feature: (B, H, W, D).
            logits: (B, h, w, K), any grid.
            image: (B, H, W, C) in [0, 1], averaged to the grid of the features.

        Returns:
            The logits (B, H, W, K), and what they were gathered with.
        """
        neighborhood = self.neighborhood(feature, logits.shape[1:3], image)
        return neighborhood.gather(logits), neighborhood

    def neighborhood(self, feature: Tensor, size: Sequence[int], image: Tensor) -> Neighborhood:
        """Compute what logits on the grid `size` (h, w) are gathered with."""
        x = self.norm(feature)
        query, key = self.query(x), self.key(_average(x, size))
        # Around 0, so that the products below, which cancel, stay small.
        fine = image - 0.5
        coarse = _average(fine, size)
        # -s |c_q - c_k|^2 = <2 s c_q, c_k> - s |c_k|^2 - s |c_q|^2, and the last is the same for
        # all keys, so it drops out of the softmax: the distance is C + 1 more channels.
        sharpness = self.log_sharpness.exp()
        one = torch.ones_like(fine[..., :1])
        square = coarse.square().sum(-1, keepdim=True)
        query = torch.cat([query, 2 * sharpness * fine, one], -1)
        # The scale of the learned products goes to the keys, which are fewer.
        key = torch.cat([key * key.shape[-1] ** -0.5, coarse, -sharpness * square], -1)
        return Neighborhood(split_heads(query, 1), split_heads(key, 1), self.bias_table, scale=1.0)


def _average(x: Tensor, size: Sequence[int]) -> Tensor:
    """Average a map (B, H, W, D) over the cells of another grid."""
    return average(x.permute(0, 3, 1, 2), size).permute(0, 2, 3, 1)
