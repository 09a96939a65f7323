"""Neighborhood attention in Triton: a program owns a tile of one map and walks the cells it meets.

Conventions of all kernels:
- Maps are (B, heads, H, W, channels) in any strides. A program's tile is TILE_H x TILE_W cells; the
  cells it meets are the box around all their windows, taken BLOCK_N at a time.
- A head wider than BLOCK_D (values: BLOCK_DV) is multiplied chunk by chunk. Programs along grid
  axis 1 each produce one chunk of the result and compute the scores anew.
- Scores are in units of log(2), because exp2 is one instruction, and -inf outside of a window.
- Cells past the map's edge load as zero; a query there has log-sum-exp +inf, so its weights are 0.
- Everything is accumulated in float32, and nothing in an order that depends on timing.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
SIZES = ["batches", "heads", "H", "W"]  # not worth a compilation for 1 and for multiples of 16
LOWEST = tl.constexpr(-3.4028234663852886e38)  # of float32


@triton.jit
def window_start(position, n, WINDOW: tl.constexpr):
    """First cell of the windows of queries."""
    return tl.maximum(tl.minimum(position - WINDOW // 2, n - WINDOW), 0)


@triton.jit
def first_query(key, WINDOW: tl.constexpr):
    """First query whose window holds the key: windows that shift at the edge all hold its cells."""
    return tl.where(key < WINDOW, 0, key - WINDOW // 2)


@triton.jit
def last_query(key, n, WINDOW: tl.constexpr):
    """Last query whose window holds the key."""
    return tl.where(key >= n - WINDOW, n - 1, key + WINDOW // 2)


@triton.jit
def _place(heads, H, W, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """This program's batch entry, head, and the first row and column of its tile."""
    tiles_w = tl.cdiv(W, TILE_W)
    tiles = tl.cdiv(H, TILE_H) * tiles_w
    image = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    return image // heads, image % heads, tile // tiles_w * TILE_H, tile % tiles_w * TILE_W


@triton.jit
def _cells(x, strides, batch, head, row, col, is_cell):
    """Cells of one map, ready for `_load`. In 64 bits: a batch may hold more than 2**31 numbers."""
    image = x + tl.cast(batch, tl.int64) * strides[0] + tl.cast(head, tl.int64) * strides[1]
    offset = row.to(tl.int64) * strides[2] + col.to(tl.int64) * strides[3]
    return image, offset, is_cell, strides[4]


@triton.jit
def _number(batch, head, heads, row, col, H, W):
    """Flat index of cells into (B, heads, H, W)."""
    return (tl.cast(batch * heads + head, tl.int64) * H + row) * W + col


@triton.jit
def _at(cells, first, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Pointers to channels first ... first + BLOCK - 1 of the cells, and which of them exist."""
    image, offset, is_cell, stride = cells
    channel = first + tl.arange(0, BLOCK)
    pointers = image + offset[:, None] + channel[None, :] * stride
    return pointers, is_cell[:, None] & (channel < WIDTH)[None, :]


@triton.jit
def _load(cells, first, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """(cells, BLOCK), zero where there is nothing."""
    pointers, exists = _at(cells, first, WIDTH, BLOCK)
    return tl.load(pointers, mask=exists, other=0.0)


@triton.jit
def _store(cells, x, first, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    pointers, exists = _at(cells, first, WIDTH, BLOCK)
    tl.store(pointers, x.to(pointers.dtype.element_ty), mask=exists)


@triton.jit
def _products(
    a, b, a_cells, b_cells, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr
):
    """<a, b> over all channels: (a's cells, b's cells); `a`, `b` hold the first BLOCK of them."""
    total = tl.dot(a, tl.trans(b), input_precision=PRECISION)
    for first in range(BLOCK, WIDTH, BLOCK):
        a_chunk = _load(a_cells, first, WIDTH, BLOCK)
        b_chunk = _load(b_cells, first, WIDTH, BLOCK)
        total = tl.dot(a_chunk, tl.trans(b_chunk), total, input_precision=PRECISION)
    return total


@triton.jit
def _bias(bias, strides, head, H, W, WINDOW: tl.constexpr, key_row, key_col, query_row, query_col):
    """Bias in units of log(2), -inf outside of the window; positions broadcast to the result."""
    query_row = tl.minimum(query_row, H - 1)  # past the edge: else a read outside of the table
    query_col = tl.minimum(query_col, W - 1)
    down = key_row - window_start(query_row, H, WINDOW)
    right = key_col - window_start(query_col, W, WINDOW)
    # Negative numbers are large ones as unsigned: one comparison instead of two.
    inside = down.to(tl.uint32) < tl.minimum(WINDOW, H).to(tl.uint32)
    inside = inside & (right.to(tl.uint32) < tl.minimum(WINDOW, W).to(tl.uint32))
    if bias is None:
        return tl.where(inside, 0.0, float("-inf"))
    key_offset = (key_row + WINDOW - 1) * strides[1] + (key_col + WINDOW - 1) * strides[2]
    offset = key_offset - (query_row * strides[1] + query_col * strides[2])
    table = tl.load(bias + head * strides[0] + offset, mask=inside, other=float("-inf"))
    return table.to(tl.float32) * LOG2_E


@triton.jit
def _key_box(top, left, H, W, WINDOW: tl.constexpr, TILE_H: tl.constexpr):
    """First row and column, and number of rows, of the keys that a tile's windows touch."""
    first = window_start(top, H, WINDOW)
    end = window_start(tl.minimum(top + TILE_H, H) - 1, H, WINDOW) + tl.minimum(WINDOW, H)
    return first, window_start(left, W, WINDOW), end - first


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    query, key, value, bias, output, lse,
    query_strides, key_strides, value_strides, bias_strides, output_strides,
    scale, heads, H, W,
    WINDOW: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, BLOCK_N: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Output and log-sum-exp (in units of log(2)) of a tile of queries."""
    batch, head, top, left = _place(heads, H, W, TILE_H, TILE_W)
    channel = tl.program_id(1) * BLOCK_DV
    m = tl.arange(0, TILE_H * TILE_W)
    row, col = top + m // TILE_W, left + m % TILE_W
    is_query = (row < H) & (col < W)
    queries = _cells(query, query_strides, batch, head, row, col, is_query)
    q = _load(queries, 0, D, BLOCK_D)

    # Finite: a query may meet a whole block before its window begins, and inf - inf is no number.
    best = tl.full([TILE_H * TILE_W], LOWEST, tl.float32)
    total = tl.zeros([TILE_H * TILE_W], tl.float32)
    result = tl.zeros([TILE_H * TILE_W, BLOCK_DV], tl.float32)
    EXTENT: tl.constexpr = TILE_W + WINDOW - 1
    key_top, key_left, key_rows = _key_box(top, left, H, W, WINDOW, TILE_H)
    for start in range(0, key_rows * EXTENT, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        key_row, key_col = key_top + n // EXTENT, key_left + n % EXTENT
        is_key = (key_row < H) & (key_col < W)
        keys = _cells(key, key_strides, batch, head, key_row, key_col, is_key)
        k = _load(keys, 0, D, BLOCK_D)
        scores = _products(q, k, queries, keys, D, BLOCK_D, PRECISION) * (scale * LOG2_E)
        scores += _bias(
            bias, bias_strides, head, H, W, WINDOW,
            key_row[None, :], key_col[None, :], row[:, None], col[:, None],
        )  # fmt: skip
        new_best = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp2(scores - new_best[:, None])
        shrink = tl.exp2(best - new_best)
        total = total * shrink + tl.sum(weights, 1)
        values = _cells(value, value_strides, batch, head, key_row, key_col, is_key)
        v = _load(values, channel, DV, BLOCK_DV)
        result *= shrink[:, None]
        result = tl.dot(weights.to(v.dtype), v, result, input_precision=PRECISION)
        best = new_best

    outputs = _cells(output, output_strides, batch, head, row, col, is_query)
    _store(outputs, result / total[:, None], channel, DV, BLOCK_DV)
    if channel == 0:
        cell = _number(batch, head, heads, row, col, H, W)
        tl.store(lse + cell, best + tl.log2(total), mask=is_query)


@triton.jit(do_not_specialize=SIZES)
def backward_query_kernel(
    grad, query, key, value, bias, output, lse, delta, grad_query,
    grad_strides, query_strides, key_strides, value_strides, bias_strides, output_strides,
    grad_query_strides,
    scale, heads, H, W,
    WINDOW: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, BLOCK_N: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradient of a tile of queries; and `delta`, the product of output and its gradient."""
    batch, head, top, left = _place(heads, H, W, TILE_H, TILE_W)
    channel = tl.program_id(1) * BLOCK_D
    m = tl.arange(0, TILE_H * TILE_W)
    row, col = top + m // TILE_W, left + m % TILE_W
    is_query = (row < H) & (col < W)
    queries = _cells(query, query_strides, batch, head, row, col, is_query)
    grads = _cells(grad, grad_strides, batch, head, row, col, is_query)
    outputs = _cells(output, output_strides, batch, head, row, col, is_query)
    q = _load(queries, 0, D, BLOCK_D)
    g = _load(grads, 0, DV, BLOCK_DV)
    own = tl.sum(g.to(tl.float32) * _load(outputs, 0, DV, BLOCK_DV).to(tl.float32), 1)
    for first in range(BLOCK_DV, DV, BLOCK_DV):
        more = _load(grads, first, DV, BLOCK_DV).to(tl.float32)
        own += tl.sum(more * _load(outputs, first, DV, BLOCK_DV).to(tl.float32), 1)
    cell = _number(batch, head, heads, row, col, H, W)
    normalizer = tl.load(lse + cell, mask=is_query, other=float("inf"))
    if channel == 0:
        tl.store(delta + cell, own, mask=is_query)

    result = tl.zeros([TILE_H * TILE_W, BLOCK_D], tl.float32)
    EXTENT: tl.constexpr = TILE_W + WINDOW - 1
    key_top, key_left, key_rows = _key_box(top, left, H, W, WINDOW, TILE_H)
    for start in range(0, key_rows * EXTENT, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        key_row, key_col = key_top + n // EXTENT, key_left + n % EXTENT
        is_key = (key_row < H) & (key_col < W)
        keys = _cells(key, key_strides, batch, head, key_row, key_col, is_key)
        values = _cells(value, value_strides, batch, head, key_row, key_col, is_key)
        k = _load(keys, 0, D, BLOCK_D)
        v = _load(values, 0, DV, BLOCK_DV)
        scores = _products(q, k, queries, keys, D, BLOCK_D, PRECISION) * (scale * LOG2_E)
        scores += _bias(
            bias, bias_strides, head, H, W, WINDOW,
            key_row[None, :], key_col[None, :], row[:, None], col[:, None],
        )  # fmt: skip
        weights = tl.exp2(scores - normalizer[:, None])
        grad_weights = _products(g, v, grads, values, DV, BLOCK_DV, PRECISION)
        grad_scores = weights * (grad_weights - own[:, None])
        if D > BLOCK_D:
            k = _load(keys, channel, D, BLOCK_D)
        result = tl.dot(grad_scores.to(k.dtype), k, result, input_precision=PRECISION)

    results = _cells(grad_query, grad_query_strides, batch, head, row, col, is_query)
    _store(results, result * scale, channel, D, BLOCK_D)


@triton.jit(do_not_specialize=SIZES)
def backward_key_value_kernel(
    grad, query, key, value, bias, lse, delta, grad_key, grad_value,
    grad_strides, query_strides, key_strides, value_strides, bias_strides, grad_key_strides,
    grad_value_strides,
    scale, heads, H, W,
    WINDOW: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, BLOCK_N: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and values, from all queries whose windows hold one of them."""
    batch, head, top, left = _place(heads, H, W, TILE_H, TILE_W)
    chunk = tl.program_id(1)
    m = tl.arange(0, TILE_H * TILE_W)
    key_row, key_col = top + m // TILE_W, left + m % TILE_W
    is_key = (key_row < H) & (key_col < W)
    keys = _cells(key, key_strides, batch, head, key_row, key_col, is_key)
    values = _cells(value, value_strides, batch, head, key_row, key_col, is_key)
    k = _load(keys, 0, D, BLOCK_D)
    v = _load(values, 0, DV, BLOCK_DV)

    key_result = tl.zeros([TILE_H * TILE_W, BLOCK_D], tl.float32)
    value_result = tl.zeros([TILE_H * TILE_W, BLOCK_DV], tl.float32)
    EXTENT: tl.constexpr = TILE_W + WINDOW - 1
    query_top = first_query(top, WINDOW)
    query_left = first_query(left, WINDOW)
    bottom = last_query(tl.minimum(top + TILE_H, H) - 1, H, WINDOW)
    query_right = last_query(tl.minimum(left + TILE_W, W) - 1, W, WINDOW)
    # Away from the map's left and right edge EXTENT columns are all; there it may take a second go.
    for first_col in range(query_left, query_right + 1, EXTENT):
        for start in range(0, (bottom + 1 - query_top) * EXTENT, BLOCK_N):
            n = start + tl.arange(0, BLOCK_N)
            row, col = query_top + n // EXTENT, first_col + n % EXTENT
            is_query = (row <= bottom) & (col <= query_right)
            queries = _cells(query, query_strides, batch, head, row, col, is_query)
            grads = _cells(grad, grad_strides, batch, head, row, col, is_query)
            cell = _number(batch, head, heads, row, col, H, W)
            normalizer = tl.load(lse + cell, mask=is_query, other=float("inf"))
            own = tl.load(delta + cell, mask=is_query, other=0.0)
            q = _load(queries, 0, D, BLOCK_D)
            g = _load(grads, 0, DV, BLOCK_DV)
            scores = _products(k, q, keys, queries, D, BLOCK_D, PRECISION) * (scale * LOG2_E)
            scores += _bias(
                bias, bias_strides, head, H, W, WINDOW,
                key_row[:, None], key_col[:, None], row[None, :], col[None, :],
            )  # fmt: skip
            weights = tl.exp2(scores - normalizer[None, :])
            grad_weights = _products(v, g, values, grads, DV, BLOCK_DV, PRECISION)
            grad_scores = weights * (grad_weights - own[None, :])
            if D > BLOCK_D:
                q = _load(queries, chunk * BLOCK_D, D, BLOCK_D)
            if DV > BLOCK_DV:
                g = _load(grads, chunk * BLOCK_DV, DV, BLOCK_DV)
            value_result = tl.dot(weights.to(g.dtype), g, value_result, input_precision=PRECISION)
            key_result = tl.dot(grad_scores.to(q.dtype), q, key_result, input_precision=PRECISION)

    results = _cells(grad_key, grad_key_strides, batch, head, key_row, key_col, is_key)
    _store(results, key_result * scale, chunk * BLOCK_D, D, BLOCK_D)
    results = _cells(grad_value, grad_value_strides, batch, head, key_row, key_col, is_key)
    _store(results, value_result, chunk * BLOCK_DV, DV, BLOCK_DV)


@triton.jit(do_not_specialize=SIZES)
def backward_bias_kernel(
    grad, query, key, value, bias, lse, delta, partial,
    grad_strides, query_strides, key_strides, value_strides, bias_strides,
    scale, batches, H, W,
    WINDOW: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, BLOCK_N: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    PRECISION: tl.constexpr, REACH_H: tl.constexpr, REACH_W: tl.constexpr,
):  # fmt: skip
    """Gradients of scores, summed over batch and tiles: (splits, heads, tile cells, box cells).

    The box is REACH cells around the tile on every side and no tile leaves the map (the last one
    is moved inside, its doubled queries do not count): so in every tile a (tile cell, box cell) has
    the same offset in the bias table, the sum stays in registers, and nothing is scattered.
    """
    chunk, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    EXTENT: tl.constexpr = TILE_W + 2 * REACH_W
    m = tl.arange(0, TILE_H * TILE_W)
    n = chunk * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros([TILE_H * TILE_W, BLOCK_N], tl.float32)
    tiles_w = tl.cdiv(W, TILE_W)
    for tile in range(split, tl.cdiv(H, TILE_H) * tiles_w, tl.num_programs(2)):
        first_row, first_col = tile // tiles_w * TILE_H, tile % tiles_w * TILE_W
        top = tl.maximum(tl.minimum(first_row, H - TILE_H), 0)
        left = tl.maximum(tl.minimum(first_col, W - TILE_W), 0)
        row, col = top + m // TILE_W, left + m % TILE_W
        is_query = (row >= first_row) & (row < H) & (col >= first_col) & (col < W)
        key_row, key_col = top - REACH_H + n // EXTENT, left - REACH_W + n % EXTENT
        is_key = (key_row >= 0) & (key_row < H) & (key_col >= 0) & (key_col < W)
        table = _bias(
            bias, bias_strides, head, H, W, WINDOW,
            key_row[None, :], key_col[None, :], row[:, None], col[:, None],
        )  # fmt: skip
        for batch in range(batches):
            queries = _cells(query, query_strides, batch, head, row, col, is_query)
            grads = _cells(grad, grad_strides, batch, head, row, col, is_query)
            keys = _cells(key, key_strides, batch, head, key_row, key_col, is_key)
            values = _cells(value, value_strides, batch, head, key_row, key_col, is_key)
            cell = _number(batch, head, tl.num_programs(1), row, col, H, W)
            normalizer = tl.load(lse + cell, mask=is_query, other=float("inf"))
            own = tl.load(delta + cell, mask=is_query, other=0.0)
            q, k = _load(queries, 0, D, BLOCK_D), _load(keys, 0, D, BLOCK_D)
            g, v = _load(grads, 0, DV, BLOCK_DV), _load(values, 0, DV, BLOCK_DV)
            scores = _products(q, k, queries, keys, D, BLOCK_D, PRECISION) * (scale * LOG2_E)
            weights = tl.exp2(scores + table - normalizer[:, None])
            grad_weights = _products(g, v, grads, values, DV, BLOCK_DV, PRECISION)
            total += weights * (grad_weights - own[:, None])

    line = (split * tl.num_programs(1) + head) * (TILE_H * TILE_W) + m
    width = tl.num_programs(0) * BLOCK_N
    tl.store(partial + line[:, None] * width + n[None, :], total)


@triton.jit
def collect_bias_kernel(
    partial, grad_bias, width,
    WINDOW: tl.constexpr, SIDE: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    REACH_H: tl.constexpr, REACH_W: tl.constexpr,
):  # fmt: skip
    """One row of one head's bias gradient: sum (heads, tile cells, box cells) along offsets."""
    offset_row, head = tl.program_id(0) - WINDOW + 1, tl.program_id(1)
    m = tl.arange(0, TILE_H * TILE_W)
    place = tl.arange(0, SIDE)
    row = (m // TILE_W + REACH_H + offset_row)[:, None]
    col = (m % TILE_W + REACH_W)[:, None] + (place - WINDOW + 1)[None, :]
    EXTENT: tl.constexpr = TILE_W + 2 * REACH_W
    is_met = (row >= 0) & (row < TILE_H + 2 * REACH_H) & (col >= 0) & (col < EXTENT)
    pointers = partial + (head * (TILE_H * TILE_W) + m[:, None]) * width + row * EXTENT + col
    total = tl.sum(tl.load(pointers, mask=is_met, other=0.0), 0)
    line = grad_bias + (head * (2 * WINDOW - 1) + tl.program_id(0)) * (2 * WINDOW - 1)
    tl.store(line + place, total.to(grad_bias.dtype.element_ty), mask=place < 2 * WINDOW - 1)
