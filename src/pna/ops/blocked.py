"""Neighborhood attention in blocks of tiles: portable PyTorch, memory bounded by the block.

The queries are cut into tiles: 8x8 of them, fewer where the keys are finer. The windows of a tile
touch little more than the keys of one of them, so a tile is one small dense attention;
a block of tiles is one batched matrix product. Keys and values are gathered for one block at a
time. No attention map is kept for the backward pass: each block computes its weights again.

Tiles whose windows do not shift at a border are all alike where their queries stand alike between
the keys, as on equal grids and at small whole ratios: they share one reading of the bias table. The
others read their own. A key outside of a query's window reads an entry that hides it.

Dilated windows of a tile lie between each other. A tile computes all keys from the first to the
last and hides those of other phases, so its time and memory grow with the square of the dilation.

Eager and compiled calls go through the custom operator `pna::blocked_attention`; an exported graph
(`torch.export`, ONNX) gets the same mathematics inlined as a single block.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pna.ops.registration import register
from pna.ops.windows import Positions, Tiles, cut_axis, table_weights

TILE = 8
BLOCK_SCORES = 2**21
"""Scores (batch x heads x queries x keys) that one block may hold: 8 MiB in float32."""
_HIDDEN, _OUTSIDE = -1e30, -2e30
"""What entries of -infinity, and keys outside of the window, add to a score. Finite, because zero
times infinity is no number; two values, so that the keys of a wholly hidden window stay in it."""


class Block(NamedTuple):
    """Some tiles of one map, with everything that depends on positions only.

    Attributes:
        tiles: (c,) row-major numbers of the tiles.
        query, key: (c, tq) and (c, tk) flat cell indices.
        valid: (c, tq, 1) False where a query repeats a cell of its tile.
        rows, cols: Where the bias table is read along either axis; c or 1 tiles.
    """

    tiles: Tensor
    query: Tensor
    key: Tensor
    valid: Tensor
    rows: Positions
    cols: Positions


class Plan(NamedTuple):
    """A map of queries cut into tiles along both axes.

    Attributes:
        rows, cols: The tiles of either axis.
        width, key_width: Columns of the maps of queries and keys.
        side: Rows and columns of the bias table.
        is_periodic: Whether inner tiles are all alike.
    """

    rows: Tiles
    cols: Tiles
    width: int
    key_width: int
    side: int
    is_periodic: bool

    def block(self, tiles: Tensor, *, is_regular: bool) -> Block:
        """Lay out the given tiles; regular ones share the positions of the first."""
        tile_cols = self.cols.query.shape[0]
        i = tiles // tile_cols
        j = tiles - i * tile_cols  # a remainder by a free size does not translate to ONNX
        query = self.rows.query[i][:, :, None] * self.width + self.cols.query[j][:, None]
        key = self.rows.key[i][:, :, None] * self.key_width + self.cols.key[j][:, None]
        valid = self.rows.valid[i][:, :, None] & self.cols.valid[j][:, None]
        if is_regular:
            i, j = i[:1], j[:1]
        return Block(
            tiles,
            query.flatten(1),
            key.flatten(1),
            valid.flatten(1)[:, :, None],
            Positions(*(x[i] for x in self.rows.entries)),
            Positions(*(x[j] for x in self.cols.entries)),
        )

    def read(self, bias: Tensor | None, block: Block) -> Tensor:
        """What is added to the scores: (heads, c or 1, tq, tk), without a bias no axis of heads.

        Args:
            bias: (heads, side, side) in the dtype of the scores, or none.
            block: The tiles.
        """
        if bias is None:
            rows, cols = (_OUTSIDE * (x.lower == self.side) for x in (block.rows, block.cols))
            both = rows[:, :, None, :, None] + cols[:, None, :, None]
        else:
            # Products, for in an exported graph a look-up of each pair takes longer than the rest.
            rows, cols = (table_weights(x, self.side + 1) for x in (block.rows, block.cols))
            # Zero times an infinite entry would be no number.
            table = F.pad(bias.clamp(min=_HIDDEN), (0, 1, 0, 1), value=_OUTSIDE)
            by_rows = rows @ table[:, None, None]  # (heads, c, y, key_y, side + 1)
            both = by_rows[:, :, :, None] @ cols[:, None].mT  # (heads, c, y, x, key_y, key_x)
        return both.flatten(-2).flatten(-3, -2)

    def read_backward(self, grad: Tensor, block: Block) -> Tensor:
        """The gradient of the table from that of what was read."""
        rows, cols = (table_weights(x, self.side + 1) for x in (block.rows, block.cols))
        (y, key_y), (x, key_x) = rows.shape[1:3], cols.shape[1:3]
        grad = grad.view(*grad.shape[:2], y, x, key_y, key_x)
        by_rows = torch.einsum("hcyxvu,cxus->hcyvs", grad, cols)
        return torch.einsum("cyvr,hcyvs->hrs", rows, by_rows)[:, :-1, :-1]

    def blocks(self, maps: int) -> Iterator[Block]:
        """Cut all tiles into blocks; `maps` is batch x heads."""
        # Scores of one tile: its queries times the keys that their windows can touch. A small tile
        # counts as a full one: its gathered keys are more than its scores.
        per_tile = TILE**2 * self.rows.key.shape[1] * self.cols.key.shape[1]
        block_size = max(1, BLOCK_SCORES // (maps * per_tile))
        is_regular = (self.rows.inner[:, None] & self.cols.inner).flatten() & self.is_periodic
        # Regular tiles first: they are most of a large map, and read the bias table once.
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
        height, width = self.rows.query.shape[1], self.cols.query.shape[1]
        tile = row // height * self.cols.query.shape[0] + col // width
        cell = tile * (height * width) + row % height * width + col % width
        return tiles.flatten(2, 3).index_select(2, cell.flatten()).reshape(shape)


def tile_size(queries: int, keys: int) -> int:
    """Queries per tile along an axis."""
    # Where keys are finer, 8 queries would touch many keys that belong to one window each.
    size = max(1, min(TILE, TILE * queries // keys))
    # Queries stand between the keys with this period; tiles of whole periods are alike.
    period = queries // math.gcd(queries, keys)
    return size // period * period or size


def make_plan(query: Tensor, key: Tensor, window: int, dilation: int) -> Plan:
    """Cut the map of `query` (B, heads, H, W, d), with keys (B, heads, h, w, d), into tiles."""
    grids = list(zip(query.shape[2:4], key.shape[2:4], strict=True))
    if torch.compiler.is_exporting():
        # Sizes may be symbols: each comparison of two would bind the graph to its outcome.
        tiles, is_periodic = [TILE, TILE], False
    else:
        tiles = [tile_size(*grid) for grid in grids]
        is_periodic = all(t * n % N == 0 for t, (N, n) in zip(tiles, grids, strict=True))
    rows, cols = (
        cut_axis(*grid, tile, window, dilation, _exact(query.new_empty(0)))
        for grid, tile in zip(grids, tiles, strict=True)
    )
    (_, width), (_, key_width) = query.shape[2:4], key.shape[2:4]
    return Plan(rows, cols, width, key_width, 2 * window - 1, is_periodic)


def _exact(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _gather(x: Tensor, cells: Tensor) -> Tensor:
    """(B, heads, cells, d) and (c, t) -> (B, heads, c, t, d) in the dtype that is computed in."""
    # Not x[:, :, cells], which an exported graph turns into two transposes of everything gathered.
    rows = x.index_select(2, cells.flatten())
    return _exact(rows.reshape(*x.shape[:2], *cells.shape, x.shape[-1]))


def _weights(
    query: Tensor, key: Tensor, bias: Tensor | None, plan: Plan, block: Block, scale: float
) -> Tensor:
    """Softmax over the window: (B, heads, c, tq, tk), exactly zero outside of it."""
    scores = (query * scale) @ key.transpose(-1, -2)
    return (scores + plan.read(None if bias is None else bias.to(scores.dtype), block)).softmax(-1)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: int,
    dilation: int,
    scale: float,
) -> Tensor:
    """The whole map as one block: traceable, differentiable, for exported graphs."""
    plan = make_plan(query, key, window, dilation)
    block = plan.everything()
    shape = torch.Size((*query.shape[:-1], value.shape[-1]))
    query, key, value = (x.flatten(2, 3) for x in (query, key, value))
    q, k, v = _gather(query, block.query), _gather(key, block.key), _gather(value, block.key)
    weights = _weights(q, k, bias, plan, block, scale)
    return plan.to_map((weights @ v).to(value.dtype), shape)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: int,
    dilation: int,
    scale: float,
) -> Tensor:
    """Forward pass, a block of tiles at a time."""
    plan = make_plan(query, key, window, dilation)
    shape = torch.Size((*query.shape[:-1], value.shape[-1]))
    query, key, value = (x.flatten(2, 3) for x in (query, key, value))
    output = _tile_buffer(plan, query, value)
    for block in plan.blocks(query.shape[0] * query.shape[1]):
        q, k = _gather(query, block.query), _gather(key, block.key)
        weights = _weights(q, k, bias, plan, block, scale)
        output[:, :, block.tiles] = (weights @ _gather(value, block.key)).to(output.dtype)
    return plan.to_map(output, shape)


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: int,
    dilation: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and bias (empty without one)."""
    plan = make_plan(query, key, window, dilation)
    shapes = [x.shape for x in (query, key, value)]
    grad, query, key, value = (x.flatten(2, 3) for x in (grad, query, key, value))
    grad_query = _tile_buffer(plan, query, query)
    # Not zeros_like, which would copy strides: compiled code relies on contiguous results.
    grad_key, grad_value = (_exact(x).new_zeros(x.shape) for x in (key, value))
    grad_table = grad_key.new_zeros(() if bias is None else bias.shape)
    for block in plan.blocks(query.shape[0] * query.shape[1]):
        q, k, v = (
            _gather(x, cells)
            for x, cells in ((query, block.query), (key, block.key), (value, block.key))
        )
        g = _gather(grad, block.query) * block.valid
        weights = _weights(q, k, bias, plan, block, scale)
        # Gradient of the weights: d(out)/d(weights) is the value of each key.
        output_part = g @ v.transpose(-1, -2)
        _scatter(grad_value, block.key, weights.transpose(-1, -2) @ g)
        # Gradient of a softmax: weights * (gradient - its mean under the weights).
        grad_scores = weights * (output_part - (weights * output_part).sum(-1, keepdim=True))
        grad_query[:, :, block.tiles] = (grad_scores @ k * scale).to(query.dtype)
        _scatter(grad_key, block.key, grad_scores.transpose(-1, -2) @ q * scale)
        if bias is not None:
            total = grad_scores.sum(0)
            if len(block.rows.lower) == 1:  # all tiles read the same
                total = total.sum(1, keepdim=True)
            grad_table += plan.read_backward(total, block)
    return (
        plan.to_map(grad_query, shapes[0]),
        grad_key.to(key.dtype).reshape(shapes[1]),
        grad_value.to(value.dtype).reshape(shapes[2]),
        grad_table.new_empty(0) if bias is None else grad_table.to(bias.dtype),
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


attention, attention_backward = register(
    "blocked_attention", _forward, _backward, lambda x, shape: x.new_empty(shape)
)


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
    # A custom operator would tie the exported graph to pna; plain operators run anywhere.
    if torch.compiler.is_exporting():
        return attend(query, key, value, bias, window, dilation, scale)
    output: Tensor = attention(query, key, value, bias, window, dilation, scale)
    return output
