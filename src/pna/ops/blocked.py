"""Neighborhood attention in blocks of tiles: portable PyTorch, memory bounded by the block.

The map is cut into tiles of 8x8 queries. A tile's windows touch at most (8 + window - 1)^2 keys, so
a tile is one small dense attention with a mask; a block of tiles is one batched matrix product. No
attention map is kept for the backward pass: each block computes its weights again.

Tiles whose windows do not shift at a border are all alike: they share one mask and one slice of
the bias table. The others look theirs up.

Eager and compiled calls go through the custom operator `pna::blocked_attention`; an exported graph
(`torch.export`, ONNX) gets the same mathematics inlined as a single block.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pna.ops.registration import register
from pna.ops.windows import Tiles, cut_axis

TILE = 8
BLOCK_SCORES = 2**21
"""Scores (batch x heads x queries x keys) that one block may hold: 8 MiB in float32."""


class Block(NamedTuple):
    """Some tiles of one map, with everything that depends on positions only.

    Attributes:
        tiles: (c,) row-major numbers of the tiles.
        query, key: (c, tq) and (c, tk) flat cell indices.
        valid: (c, tq, 1) False where a query repeats a cell of its tile.
        offset: (c or 1, tq, tk) flat index into the bias table.
        inside: (c or 1, tq, tk) whether the key is in the query's window.
    """

    tiles: Tensor
    query: Tensor
    key: Tensor
    valid: Tensor
    offset: Tensor
    inside: Tensor


class Plan(NamedTuple):
    """A map cut into tiles along both axes."""

    rows: Tiles
    cols: Tiles
    width: int
    window: int

    def block(self, tiles: Tensor, *, is_regular: bool) -> Block:
        """Lay out the given tiles; regular ones share the positions of the first."""
        tile_cols = self.cols.query.shape[0]
        i = tiles // tile_cols
        j = tiles - i * tile_cols  # a remainder by a free size does not translate to ONNX
        query = self.rows.query[i][:, :, None] * self.width + self.cols.query[j][:, None]
        key = self.rows.key[i][:, :, None] * self.width + self.cols.key[j][:, None]
        valid = self.rows.valid[i][:, :, None] & self.cols.valid[j][:, None]
        if is_regular:
            i, j = i[:1], j[:1]
        rows, cols = self.rows.offset[i], self.cols.offset[j]
        offset = rows[:, :, None, :, None] * (2 * self.window - 1) + cols[:, None, :, None]
        rows, cols = self.rows.inside[i], self.cols.inside[j]
        inside = rows[:, :, None, :, None] & cols[:, None, :, None]
        return Block(
            tiles,
            query.flatten(1),
            key.flatten(1),
            valid.flatten(1)[:, :, None],
            offset.flatten(3).flatten(1, 2),
            inside.flatten(3).flatten(1, 2),
        )

    def blocks(self, maps: int) -> Iterator[Block]:
        """Cut all tiles into blocks; `maps` is batch x heads."""
        # Scores of one tile: its queries times the keys that their windows can touch.
        per_tile = self.rows.query.shape[1] * self.cols.query.shape[1]
        per_tile *= self.rows.key.shape[1] * self.cols.key.shape[1]
        block_size = max(1, BLOCK_SCORES // (maps * per_tile))
        is_regular = (self.rows.regular[:, None] & self.cols.regular).flatten()
        # Regular tiles first: they are most of a large map, and share one mask and one table slice.
        for kind in (True, False):
            for tiles in torch.split((is_regular == kind).nonzero()[:, 0], block_size):
                if len(tiles):
                    yield self.block(tiles, is_regular=kind)

    def everything(self) -> Block:
        """All tiles as one block."""
        number = self.rows.query.shape[0] * self.cols.query.shape[0]
        return self.block(torch.arange(number, device=self.rows.query.device), is_regular=False)

    def to_map(self, tiles: Tensor, shape: torch.Size) -> Tensor:
        """(B, heads, tiles, tq, d), all tiles in order -> `shape` (B, heads, H, W, d).

        A gather and no slice: a slice would bind an exported graph to multiples of the tile.
        """
        row = torch.arange(shape[2], device=tiles.device)[:, None]
        col = torch.arange(shape[3], device=tiles.device)
        tile = row // TILE * self.cols.query.shape[0] + col // TILE
        cell = tile * TILE**2 + row % TILE * TILE + col % TILE
        return tiles.flatten(2, 3)[:, :, cell.flatten()].reshape(shape)


def make_plan(query: Tensor, window: int) -> Plan:
    """Cut the map of `query` (B, heads, H, W, d) into tiles."""
    H, W = query.shape[2:4]
    rows = cut_axis(H, TILE, window, query.device)
    return Plan(rows, cut_axis(W, TILE, window, query.device), W, window)


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _gather(x: Tensor, cells: Tensor) -> Tensor:
    """(B, heads, cells, d) and (c, t) -> (B, heads, c, t, d) in the dtype that is computed in."""
    return _exact(x[:, :, cells])


def _weights(query: Tensor, key: Tensor, bias: Tensor | None, block: Block, scale: float) -> Tensor:
    """Softmax over the window: (B, heads, c, tq, tk), zero outside of it."""
    scores = (query * scale) @ key.transpose(-1, -2)
    # -inf and not a large negative number: the softmax is then exactly 0 outside the window.
    outside = torch.full((), float("-inf"), dtype=scores.dtype, device=scores.device)
    if bias is None:
        scores = torch.where(block.inside, scores, outside)
    else:
        table = bias.to(scores.dtype).flatten(1)[:, block.offset]
        scores += torch.where(block.inside, table, outside)
    return scores.softmax(-1)


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, window: int, scale: float
) -> Tensor:
    """The whole map as one block: traceable, differentiable, for exported graphs."""
    plan = make_plan(query, window)
    block = plan.everything()
    shape = value.shape
    query, key, value = (x.flatten(2, 3) for x in (query, key, value))
    weights = _weights(_gather(query, block.query), _gather(key, block.key), bias, block, scale)
    return plan.to_map((weights @ _gather(value, block.key)).to(value.dtype), shape)


def _forward(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, window: int, scale: float
) -> Tensor:
    """Forward pass, a block of tiles at a time."""
    plan = make_plan(query, window)
    shape = value.shape
    query, key, value = (x.flatten(2, 3) for x in (query, key, value))
    output = _tile_buffer(plan, query, value)
    for block in plan.blocks(query.shape[0] * query.shape[1]):
        weights = _weights(_gather(query, block.query), _gather(key, block.key), bias, block, scale)
        output[:, :, block.tiles] = (weights @ _gather(value, block.key)).to(output.dtype)
    return plan.to_map(output, shape)


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and bias (empty without one)."""
    plan = make_plan(query, window)
    shapes = [x.shape for x in (query, key, value)]
    grad, query, key, value = (x.flatten(2, 3) for x in (grad, query, key, value))
    grad_query = _tile_buffer(plan, query, query)
    # Not zeros_like, which would copy strides: compiled code relies on contiguous results.
    grad_key, grad_value = (_exact(x).new_zeros(x.shape) for x in (key, value))
    grad_table = grad_key.new_zeros(() if bias is None else bias.flatten(1).shape)
    for block in plan.blocks(query.shape[0] * query.shape[1]):
        q, k, v = (
            _gather(x, cells)
            for x, cells in ((query, block.query), (key, block.key), (value, block.key))
        )
        g = _gather(grad, block.query) * block.valid
        weights = _weights(q, k, bias, block, scale)
        # Gradient of the weights: d(out)/d(weights) is the value of each key.
        output_part = g @ v.transpose(-1, -2)
        _scatter(grad_value, block.key, weights.transpose(-1, -2) @ g)
        # Gradient of a softmax: weights * (gradient - its mean under the weights).
        grad_scores = weights * (output_part - (weights * output_part).sum(-1, keepdim=True))
        grad_query[:, :, block.tiles] = (grad_scores @ k * scale).to(query.dtype)
        _scatter(grad_key, block.key, grad_scores.transpose(-1, -2) @ q * scale)
        if bias is not None:
            _collect_bias(grad_table, block.offset, grad_scores)
    return (
        plan.to_map(grad_query, shapes[0]),
        grad_key.to(key.dtype).reshape(shapes[1]),
        grad_value.to(value.dtype).reshape(shapes[2]),
        grad_table.new_empty(0) if bias is None else grad_table.to(bias.dtype).reshape(bias.shape),
    )


def _tile_buffer(plan: Plan, query: Tensor, like: Tensor) -> Tensor:
    (rows, tile_rows), (cols, tile_cols) = plan.rows.query.shape, plan.cols.query.shape
    shape = (*query.shape[:2], rows * cols, tile_rows * tile_cols, like.shape[-1])
    return like.new_empty(shape)


def _scatter(total: Tensor, cells: Tensor, part: Tensor) -> None:
    """Add (B, heads, c, t, d) to (B, heads, cells, d); a cell may be met by several tiles."""
    index = cells.flatten()[:, None].expand(*part.shape[:2], -1, part.shape[-1])
    # Neighboring tiles share keys, so plain indexing would lose all but one of the sums.
    total.scatter_add_(2, index, part.flatten(2, 3))


def _collect_bias(table: Tensor, offset: Tensor, grad_scores: Tensor) -> None:
    """Add (B, heads, c, tq, tk) to the flat table (heads, cells) at (c or 1, tq, tk)."""
    total = grad_scores.sum(0)
    # All tiles of a regular block have the same offsets: summing them first scatters once.
    if offset.shape[0] == 1:
        total = total.sum(1, keepdim=True)
    table.scatter_add_(1, offset.flatten().expand(len(table), -1), total.flatten(1))


attention, attention_backward = register(
    "blocked_attention", _forward, _backward, lambda x: x.new_empty(x.shape)
)


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, window: int, scale: float
) -> Tensor:
    """`pna.ops.neighborhood_attention` without its checks."""
    # A custom operator would tie the exported graph to pna; plain operators run anywhere.
    if torch.compiler.is_exporting():
        return attend(query, key, value, bias, window, scale)
    output: Tensor = attention(query, key, value, bias, window, scale)
    return output
