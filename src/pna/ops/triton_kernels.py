"""Neighborhood attention in Triton: a program owns a tile of one map and walks the cells it meets.

Conventions of all kernels:
- Maps are (B, heads, rows, columns, channels) in any strides: (H, W) of queries and outputs, (h, w)
  of keys and values. Positions are carried from one grid to the other in integers of BITS, 32 or
  64; 0 says that the grids are equal, which drops all of it.
- A program's tile is TILE_H x TILE_W cells; the cells it meets are the box around all their
  windows, EXTENT columns wide, taken BLOCK_N at a time. Where windows are dilated, the cells
  between their keys are masked.
- A head wider than BLOCK_D (values: BLOCK_DV) is multiplied chunk by chunk. Programs along grid
  axis 1 each produce one chunk of the result and compute the scores anew.
- Scores are in units of log(2), because exp2 is one instruction, and -inf outside of a window.
- Cells past the map's edge load as zero; a query there has log-sum-exp +inf, so its weights are 0.
- Everything is accumulated in float32, and nothing in an order that depends on timing.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
# Not worth a compilation for 1 and for multiples of 16.
SIZES = ["batches", "heads", "H", "W", "h", "w", "first_tile", "end_tile", "count"]
LOWEST = tl.constexpr(-3.4028234663852886e38)  # of float32


@triton.jit
def _wide(x, BITS: tl.constexpr):
    return tl.cast(x, tl.int64 if BITS == 64 else tl.int32)


@triton.jit
def nearest_key(position, N, n, BITS: tl.constexpr):
    """Along an axis of N queries and n keys: the key nearest to each query position.

    Divisions of 64 bits would take up to 100 more registers a thread than those of 32.
    """
    if not BITS:
        return position
    return (_wide(2 * position + 1, BITS) * n // (2 * N)).to(tl.int32)


@triton.jit
def window_size(n, WINDOW: tl.constexpr, DILATION: tl.constexpr):
    """Keys of a window along an axis of n keys."""
    return tl.maximum(tl.minimum(WINDOW, n // DILATION), 1)


@triton.jit
def window_start(position, N, n, WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr):
    """First key of the windows of queries: of the nearest key's phase, as all of its keys."""
    nearest = nearest_key(position, N, n, BITS)
    phase = nearest % DILATION
    size = (n - phase + DILATION - 1) // DILATION  # keys of that phase
    first = tl.maximum(nearest // DILATION - WINDOW // 2, 0)
    return phase + DILATION * tl.minimum(first, size - window_size(n, WINDOW, DILATION))


@triton.jit
def _met_keys(first, last, N, n, WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr):
    """First and last key that windows of the queries from `first` to `last` may hold.

    Bounds that grow with the query: starts of dilated windows do not, where they shift at an edge.
    """
    REACH: tl.constexpr = DILATION * (WINDOW // 2)
    size = DILATION * window_size(n, WINDOW, DILATION)
    low = tl.minimum(nearest_key(first, N, n, BITS) - REACH, n - size)
    high = tl.maximum(nearest_key(last, N, n, BITS) - REACH, DILATION - 1) + size - DILATION
    return tl.maximum(low, 0), tl.minimum(high, n - 1)


@triton.jit
def _first_near(key, N, n, BITS: tl.constexpr):
    """First query whose nearest key is `key` or a later one."""
    if not BITS:
        return key
    return ((_wide(2 * key, BITS) * N + n - 1) // (2 * n)).to(tl.int32)


@triton.jit
def first_query(key, N, n, WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr):
    """First query whose window may hold the key or a later one."""
    size = DILATION * window_size(n, WINDOW, DILATION)
    first = _first_near(tl.maximum(key - DILATION * (WINDOW // 2), 0), N, n, BITS)
    return tl.where(key < size, 0, first)  # windows that shift at the edge all hold its cells


@triton.jit
def last_query(key, N, n, WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr):
    """Last query whose window may hold the key or an earlier one."""
    size = DILATION * window_size(n, WINDOW, DILATION)
    last = _first_near(key + DILATION * (WINDOW // 2) + 1, N, n, BITS) - 1
    return tl.where(key >= n - size, N - 1, last)


@triton.jit
def _table_place(position, N, n, DILATION: tl.constexpr, BITS: tl.constexpr):
    """Nearest key; the step from it to the lower table entry that is read; the upper one's share.

    The step is -1 where the query stands beyond its nearest key's center: all keys are closer.
    """
    nearest = nearest_key(position, N, n, BITS)
    if not BITS:
        return nearest, 0 * position, (0 * position).to(tl.float32)
    # 2 * N times the distance from the lower edge of the nearest key, whose center is at N.
    place = (_wide(2 * position + 1, BITS) * n - _wide(2 * nearest, BITS) * N).to(tl.int32)
    step = tl.where(place > N, -1, 0)
    share = (N - place).to(tl.float32) / (2 * DILATION * N).to(tl.float32) - step
    return nearest, step, share


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
def _mix(table, lower, upper, share, mask):
    """Between two entries of the bias table."""
    low = tl.load(table + lower, mask=mask, other=0.0).to(tl.float32)
    high = tl.load(table + upper, mask=mask, other=0.0).to(tl.float32)
    return (1 - share) * low + share * high


@triton.jit
def _bias(
    bias, strides, head, H, W, h, w,
    WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr,
    key_row, key_col, query_row, query_col,
):  # fmt: skip
    """Bias in units of log(2), -inf outside of the window; positions broadcast to the result."""
    query_row = tl.minimum(query_row, H - 1)  # past the edge: else a read outside of the table
    query_col = tl.minimum(query_col, W - 1)
    down = key_row - window_start(query_row, H, h, WINDOW, DILATION, BITS)
    right = key_col - window_start(query_col, W, w, WINDOW, DILATION, BITS)
    # Negative numbers are large ones as unsigned: one comparison instead of two.
    rows = DILATION * window_size(h, WINDOW, DILATION)
    cols = DILATION * window_size(w, WINDOW, DILATION)
    inside = down.to(tl.uint32) < rows.to(tl.uint32)
    inside = inside & (right.to(tl.uint32) < cols.to(tl.uint32))
    if DILATION > 1:
        inside = inside & (down % DILATION == 0) & (right % DILATION == 0)
    if bias is None:
        return tl.where(inside, 0.0, float("-inf"))
    # Inside of a window two keys have the same remainder, so that steps may be counted from 0.
    row, row_step, row_share = _table_place(query_row, H, h, DILATION, BITS)
    col, col_step, col_share = _table_place(query_col, W, w, DILATION, BITS)
    key_row, key_col = key_row // DILATION + WINDOW - 1, key_col // DILATION + WINDOW - 1
    row, col = row // DILATION - row_step, col // DILATION - col_step
    bias += head * strides[0]
    if not BITS:
        key_offset = key_row * strides[1] + key_col * strides[2]
        offset = key_offset - (row * strides[1] + col * strides[2])
        table = tl.load(bias + offset, mask=inside, other=float("-inf"))
        return table.to(tl.float32) * LOG2_E
    LAST: tl.constexpr = 2 * WINDOW - 2
    low_row, low_col = key_row - row, key_col - col
    above = tl.maximum(low_row, 0) * strides[1]
    below = tl.minimum(low_row + 1, LAST) * strides[1]
    before = tl.maximum(low_col, 0) * strides[2]
    after = tl.minimum(low_col + 1, LAST) * strides[2]
    above = _mix(bias, above + before, above + after, col_share, inside)
    below = _mix(bias, below + before, below + after, col_share, inside)
    table = (1 - row_share) * above + row_share * below
    return tl.where(inside, table * LOG2_E, float("-inf"))


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    query, key, value, bias, output, lse,
    query_strides, key_strides, value_strides, bias_strides, output_strides,
    scale, heads, H, W, h, w,
    WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, BLOCK_N: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    PRECISION: tl.constexpr, EXTENT: tl.constexpr,
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
    bottom, right = tl.minimum(top + TILE_H, H) - 1, tl.minimum(left + TILE_W, W) - 1
    key_top, key_bottom = _met_keys(top, bottom, H, h, WINDOW, DILATION, BITS)
    key_left, _ = _met_keys(left, right, W, w, WINDOW, DILATION, BITS)
    for start in range(0, (key_bottom + 1 - key_top) * EXTENT, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        key_row, key_col = key_top + n // EXTENT, key_left + n % EXTENT
        is_key = (key_row < h) & (key_col < w)
        keys = _cells(key, key_strides, batch, head, key_row, key_col, is_key)
        k = _load(keys, 0, D, BLOCK_D)
        scores = _products(q, k, queries, keys, D, BLOCK_D, PRECISION) * (scale * LOG2_E)
        scores += _bias(
            bias, bias_strides, head, H, W, h, w, WINDOW, DILATION, BITS,
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
    scale, heads, H, W, h, w,
    WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, BLOCK_N: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    PRECISION: tl.constexpr, EXTENT: tl.constexpr,
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
    bottom, right = tl.minimum(top + TILE_H, H) - 1, tl.minimum(left + TILE_W, W) - 1
    key_top, key_bottom = _met_keys(top, bottom, H, h, WINDOW, DILATION, BITS)
    key_left, _ = _met_keys(left, right, W, w, WINDOW, DILATION, BITS)
    for start in range(0, (key_bottom + 1 - key_top) * EXTENT, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)
        key_row, key_col = key_top + n // EXTENT, key_left + n % EXTENT
        is_key = (key_row < h) & (key_col < w)
        keys = _cells(key, key_strides, batch, head, key_row, key_col, is_key)
        values = _cells(value, value_strides, batch, head, key_row, key_col, is_key)
        k = _load(keys, 0, D, BLOCK_D)
        v = _load(values, 0, DV, BLOCK_DV)
        scores = _products(q, k, queries, keys, D, BLOCK_D, PRECISION) * (scale * LOG2_E)
        scores += _bias(
            bias, bias_strides, head, H, W, h, w, WINDOW, DILATION, BITS,
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
    scale, heads, H, W, h, w,
    WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, BLOCK_N: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    PRECISION: tl.constexpr, EXTENT: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and values, from all queries whose windows hold one of them."""
    batch, head, top, left = _place(heads, h, w, TILE_H, TILE_W)
    chunk = tl.program_id(1)
    m = tl.arange(0, TILE_H * TILE_W)
    key_row, key_col = top + m // TILE_W, left + m % TILE_W
    is_key = (key_row < h) & (key_col < w)
    keys = _cells(key, key_strides, batch, head, key_row, key_col, is_key)
    values = _cells(value, value_strides, batch, head, key_row, key_col, is_key)
    k = _load(keys, 0, D, BLOCK_D)
    v = _load(values, 0, DV, BLOCK_DV)

    key_result = tl.zeros([TILE_H * TILE_W, BLOCK_D], tl.float32)
    value_result = tl.zeros([TILE_H * TILE_W, BLOCK_DV], tl.float32)
    bottom, right = tl.minimum(top + TILE_H, h) - 1, tl.minimum(left + TILE_W, w) - 1
    query_top = first_query(top, H, h, WINDOW, DILATION, BITS)
    query_bottom = last_query(bottom, H, h, WINDOW, DILATION, BITS)
    query_left = first_query(left, W, w, WINDOW, DILATION, BITS)
    query_right = last_query(right, W, w, WINDOW, DILATION, BITS)
    # Away from the map's left and right edge EXTENT columns are all; there it may take a second go.
    for first_col in range(query_left, query_right + 1, EXTENT):
        for start in range(0, (query_bottom + 1 - query_top) * EXTENT, BLOCK_N):
            n = start + tl.arange(0, BLOCK_N)
            row, col = query_top + n // EXTENT, first_col + n % EXTENT
            is_query = (row <= query_bottom) & (col <= query_right)
            queries = _cells(query, query_strides, batch, head, row, col, is_query)
            grads = _cells(grad, grad_strides, batch, head, row, col, is_query)
            cell = _number(batch, head, heads, row, col, H, W)
            normalizer = tl.load(lse + cell, mask=is_query, other=float("inf"))
            own = tl.load(delta + cell, mask=is_query, other=0.0)
            q = _load(queries, 0, D, BLOCK_D)
            g = _load(grads, 0, DV, BLOCK_DV)
            scores = _products(k, q, keys, queries, D, BLOCK_D, PRECISION) * (scale * LOG2_E)
            scores += _bias(
                bias, bias_strides, head, H, W, h, w, WINDOW, DILATION, BITS,
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


@triton.jit
def _tile_inside(tile, H, W, TILE_H: tl.constexpr, TILE_W: tl.constexpr):
    """First row and column of a tile that is moved into the map, and those it had before."""
    tiles_w = tl.cdiv(W, TILE_W)
    row, col = tile // tiles_w * TILE_H, tile % tiles_w * TILE_W
    top, left = tl.minimum(row, H - TILE_H), tl.minimum(col, W - TILE_W)
    return tl.maximum(top, 0), tl.maximum(left, 0), row, col


@triton.jit
def _own_place(first, N, n, BITS: tl.constexpr):
    """The key at the lower edge of a tile's first query."""
    if not BITS:
        return first
    return (_wide(first, BITS) * n // N).to(tl.int32)


@triton.jit(do_not_specialize=SIZES)
def backward_bias_kernel(
    grad, query, key, value, bias, lse, delta, partial,
    grad_strides, query_strides, key_strides, value_strides, bias_strides,
    scale, first_tile, end_tile, batches, H, W, h, w,
    WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_DV: tl.constexpr, BLOCK_N: tl.constexpr, TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    PRECISION: tl.constexpr,
    LOW_H: tl.constexpr, LOW_W: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr,
):  # fmt: skip
    """Gradients of scores, summed over batch and tiles: (splits, heads, tile cells, box cells).

    The box is BOX_H x BOX_W keys from LOW_H, LOW_W on, counted from the tile's own place among the
    keys. It holds all windows, because no tile leaves the map: the last one is moved inside, its
    doubled queries do not count. Tiles that share a sum have to lie alike: a (tile cell, box cell)
    has the same offset in each. So the sum stays in registers, and nothing is scattered.
    """
    chunk, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    m = tl.arange(0, TILE_H * TILE_W)
    n = chunk * BLOCK_N + tl.arange(0, BLOCK_N)
    total = tl.zeros([TILE_H * TILE_W, BLOCK_N], tl.float32)
    for tile in range(first_tile + split, end_tile, tl.num_programs(2)):
        top, left, first_row, first_col = _tile_inside(tile, H, W, TILE_H, TILE_W)
        row, col = top + m // TILE_W, left + m % TILE_W
        is_query = (row >= first_row) & (row < H) & (col >= first_col) & (col < W)
        key_row = _own_place(top, H, h, BITS) + LOW_H + n // BOX_W
        key_col = _own_place(left, W, w, BITS) + LOW_W + n % BOX_W
        is_key = (key_row >= 0) & (key_row < h) & (key_col >= 0) & (key_col < w)
        table = _bias(
            bias, bias_strides, head, H, W, h, w, WINDOW, DILATION, BITS,
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
def _reader(
    entry, UPPER: tl.constexpr, position, N, n,
    WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    """The key for which a query reads a table entry, as its lower or UPPER one; and its share."""
    nearest, step, share = _table_place(position, N, n, DILATION, BITS)
    steps = entry - step - UPPER
    # Past the table's ends both entries are the last one: it gets both shares, here.
    END: tl.constexpr = 0 if UPPER else 2 * WINDOW - 2
    share = share if UPPER else 1 - share
    share = tl.where((entry == END) & (steps == END), 1.0, share)
    return nearest + DILATION * (steps - WINDOW + 1), share


@triton.jit(do_not_specialize=SIZES)
def collect_bias_kernel(
    partial, grad_bias, first_tile, count, H, W, h, w, width,
    WINDOW: tl.constexpr, DILATION: tl.constexpr, BITS: tl.constexpr, SIDE: tl.constexpr,
    TILE_H: tl.constexpr, TILE_W: tl.constexpr,
    LOW_H: tl.constexpr, LOW_W: tl.constexpr, BOX_H: tl.constexpr, BOX_W: tl.constexpr,
):  # fmt: skip
    """One row of one head's bias gradient, from (count, heads, tile cells, box cells).

    Sums along offsets: each tile lies as the one of its number, from `first_tile` on.
    """
    entry_row, head = tl.program_id(0), tl.program_id(1)
    m = tl.arange(0, TILE_H * TILE_W)
    entry_col = tl.arange(0, SIDE)
    PARTS: tl.constexpr = 2 if BITS else 1
    total = tl.zeros([SIDE], tl.float32)
    for i in range(count):
        top, left, _, _ = _tile_inside(first_tile + i, H, W, TILE_H, TILE_W)
        cells = partial + ((i * tl.num_programs(1) + head) * (TILE_H * TILE_W) + m[:, None]) * width
        for down in tl.static_range(PARTS):
            row, row_share = _reader(
                entry_row, down, top + m // TILE_W, H, h, WINDOW, DILATION, BITS
            )
            row = (row - _own_place(top, H, h, BITS) - LOW_H)[:, None]
            for right in tl.static_range(PARTS):
                col, col_share = _reader(
                    entry_col[None, :], right, (left + m % TILE_W)[:, None], W, w,
                    WINDOW, DILATION, BITS,
                )  # fmt: skip
                col = col - _own_place(left, W, w, BITS) - LOW_W
                is_met = (row >= 0) & (row < BOX_H) & (col >= 0) & (col < BOX_W)
                part = tl.load(cells + row * BOX_W + col, mask=is_met, other=0.0)
                total += tl.sum(part * row_share[:, None] * col_share, 0)
    line = grad_bias + (head * (2 * WINDOW - 1) + entry_row) * (2 * WINDOW - 1)
    tl.store(line + entry_col, total, mask=entry_col < 2 * WINDOW - 1)
