"""Neighborhood attention on the CPU in vector registers, compiled by numba.

A band of rows of one head is worked off in tiles of columns. A tile's keys and values are packed
into panels whose last axis is the column, so eight queries are one vector: the key `y` rows and `o`
columns away adds

    scores[y, o, j : j + 8] += query[c, j : j + 8] * key[y, c, j + p : j + p + 8]

where `p` is `o` on equal grids, `distance * o` in general (`pna.ops.numba_plan` has the layouts and
all positions). No shuffles, and no key is met that no window holds, but at the border: there
windows shift, a vector takes the offsets that any of its queries needs, and -inf shuts the others.
The attention map lives for eight queries at a time.
"""

import numpy as np
from numba import njit, types

from pna.ops.compilation import compile_for
from pna.ops.numba_plan import LANES, Columns, Rows
from pna.ops.simd import (
    add,
    add_transposed,
    copy_transposed,
    divide,
    fma,
    load,
    maximum,
    multiply,
    nearest,
    power_of_two,
    replace,
    splat,
    store,
    subtract,
)

GROUP = 5
"""Keys whose sums are in registers together, to load the query once for all of them."""
CHANNELS = 4
"""Channels whose sums are in registers together, to load the weight once for all of them."""

_compile = njit(nogil=True, error_model="numpy", boundscheck=False)
_float, _one = np.float32, np.float32(1.0)

_MAP, _BANDS = types.float32[:, :, :, :, :], types.int64[:, :]
_TABLE = types.float32[:, :, :, :, ::1]
_ints, _table, _masks = types.int64[::1], types.int64[:, ::1], types.float32[:, :, ::1]
_ROWS = types.NamedTuple((types.int64, _ints, _ints, _ints, types.float32[::1], _ints), Rows)
_COLUMNS = types.NamedTuple(
    (types.int64, types.int64, _ints, _table, _ints, _ints, _table, _ints, *[_table] * 3, _masks),
    Columns,
)


def _compile_for(*arguments):
    """Compile once for any strides, and keep the machine code on disk.

    The kept code is compiled anew when this file changes, not when `simd.py` does.
    """
    return compile_for(types.void(*arguments))


@_compile
def _exp(x):
    """Exponential of x <= 0: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]; 0 below -87.7."""
    # x = n ln 2 + f; ln 2 is subtracted in two parts, so that f keeps all its bits.
    n = nearest(multiply(x, splat(_float(1.4426950408889634))))
    n = maximum(n, splat(_float(-127.0)))
    f = fma(n, splat(_float(-0.693145751953125)), maximum(x, splat(_float(-88.1))))
    f = fma(n, splat(_float(-1.428606820309417e-6)), f)
    p = splat(_float(1.0 / 5040.0))
    p = fma(p, f, splat(_float(1.0 / 720.0)))
    p = fma(p, f, splat(_float(1.0 / 120.0)))
    p = fma(p, f, splat(_float(1.0 / 24.0)))
    p = fma(p, f, splat(_float(1.0 / 6.0)))
    p = fma(p, f, splat(_float(0.5)))
    p = fma(p, f, splat(_float(1.0)))
    p = fma(p, f, splat(_float(1.0)))
    return multiply(p, power_of_two(n))


@_compile
def _pack(panel, cells, rows, columns, first):
    """Fill panel[y, c, first + x] with cells[rows[y], columns[x], c], and 0 beside them."""
    for y in range(len(rows)):
        panel[y, : cells.shape[2]] = 0
        _pack_row(panel[y, :, first:], cells[rows[y]], columns)


@_compile
def _pack_row(row, cells, columns):
    """Fill row[c, x] with cells[columns[x], c]."""
    count, channels = len(columns), cells.shape[1]
    blocks = channels if channels >= LANES else 0
    for x in range(0, count - LANES + 1, LANES):
        # 8 x 8 blocks are transposed in registers: reads and writes are whole vectors. The last
        # block of the channels overlaps the one before.
        for c in range(0, blocks, LANES):
            c = min(c, channels - LANES)
            copy_transposed(row, (c, x), cells, (0, c), columns[x:])
        for c in range(blocks, channels):
            for k in range(x, x + LANES):
                row[c, k] = cells[columns[k], c]
    for x in range(count // LANES * LANES, count):
        for c in range(channels):
            row[c, x] = cells[columns[x], c]


@_compile
def _unpack_row(cells, row, columns, factor):
    """Add factor * row[c, x] to cells[columns[x], c]."""
    count, channels = len(columns), cells.shape[1]
    blocks = channels if channels >= LANES else 0
    factors = splat(factor)
    # The last block of the channels overlaps the one before, and adds what that has not.
    last = splat(_float(0.0))
    for c in range(LANES - 1 - (channels - 1) % LANES, LANES):
        last = replace(last, c, factor)
    for x in range(0, count - LANES + 1, LANES):
        for c in range(0, blocks - LANES, LANES):
            add_transposed(row, (c, x), cells, (0, c), columns[x:], factors)
        if blocks:
            c = channels - LANES
            add_transposed(row, (c, x), cells, (0, c), columns[x:], last)
        for c in range(blocks, channels):
            for k in range(x, x + LANES):
                cells[columns[k], c] += factor * row[c, k]
    for x in range(count // LANES * LANES, count):
        for c in range(channels):
            cells[columns[x], c] += factor * row[c, x]


@_compile
def _unpack(cells, panel, rows, columns, first, factor):
    """Add factor * panel[y, c, first + x] to cells[rows[y], columns[x], c]; clear the panel."""
    for y in range(len(rows)):
        _unpack_row(cells[rows[y]], panel[y, :, first:], columns, factor)
        panel[y, : cells.shape[2]] = 0


@_compile
def _place(places, panel, height, j, low, high, distance):
    """List where the keys of a vector lie in a panel, from its start; return their number.

    The list goes on with the last one for `_products`.
    """
    count = 0
    for y in range(height):
        row = y * panel.shape[1] * panel.shape[2] + j
        for o in range(low, high):
            places[count] = row + o * distance
            count += 1
    places[count : count + GROUP] = places[count - 1]
    return count


@_compile
def _products(scores, row, panel, places, count, j):
    """scores[k] = sum over c of row[c, j] * panel[0, c, places[k]], for eight queries from j on."""
    zero = splat(_float(0.0))
    for k in range(0, count, GROUP):
        # Five sums at once: the query is loaded once for five keys, and the sums hide the latency
        # of the multiply-adds.
        p, q, r, s, t = places[k], places[k + 1], places[k + 2], places[k + 3], places[k + 4]
        a, b, d, e, f = zero, zero, zero, zero, zero
        for c in range(row.shape[0]):
            x = load(row, (c, j))
            a = fma(x, load(panel, (0, c, p)), a)
            b = fma(x, load(panel, (0, c, q)), b)
            d = fma(x, load(panel, (0, c, r)), d)
            e = fma(x, load(panel, (0, c, s)), e)
            f = fma(x, load(panel, (0, c, t)), f)
        store(scores, (k, 0), a)
        store(scores, (k + 1, 0), b)
        store(scores, (k + 2, 0), d)
        store(scores, (k + 3, 0), e)
        store(scores, (k + 4, 0), f)


@_compile
def _mix(mixed, table, share):
    """mixed[y, o] = (1 - share) * table[y, o] + share * table[y + 1, o]."""
    lower, upper = splat(_one - share), splat(share)
    for y in range(mixed.shape[0]):
        for o in range(mixed.shape[1]):
            x = multiply(lower, load(table, (y, o, 0)))
            store(mixed, (y, o, 0), fma(upper, load(table, (y + 1, o, 0)), x))


@_compile
def _softmax(scores, scale, bias, mask, height, j, low, high):
    """Turn products into weights, scaled, bias and mask added; return the inverse of their sum."""
    top = splat(_float(-np.inf))
    count = 0
    for y in range(height):
        for o in range(low, high):
            x = add(load(mask, (o, j)), load(bias, (y, o, 0)))
            x = fma(load(scores, (count, 0)), scale, x)
            store(scores, (count, 0), x)
            top = maximum(x, top)
            count += 1
    total = splat(_float(0.0))
    for k in range(count):
        # The largest score is subtracted, as in every softmax: exp cannot overflow.
        x = _exp(subtract(load(scores, (k, 0)), top))
        store(scores, (k, 0), x)
        total = add(total, x)
    return divide(splat(_float(1.0)), total)


@_compile
def _gather(row, scores, panel, places, count, channels, j, factor):
    """row[c, j] = factor * sum over k of scores[k] * panel[0, c, places[k]]."""
    zero = splat(_float(0.0))
    for c in range(0, channels, CHANNELS):
        a, b, d, e = zero, zero, zero, zero
        for k in range(count):
            x, p = load(scores, (k, 0)), places[k]
            a = fma(x, load(panel, (0, c, p)), a)
            b = fma(x, load(panel, (0, c + 1, p)), b)
            d = fma(x, load(panel, (0, c + 2, p)), d)
            e = fma(x, load(panel, (0, c + 3, p)), e)
        store(row, (c, j), multiply(a, factor))
        store(row, (c + 1, j), multiply(b, factor))
        store(row, (c + 2, j), multiply(d, factor))
        store(row, (c + 3, j), multiply(e, factor))


@_compile
def _scatter(panel, scores, row, places, count, channels, j):
    """panel[0, c, places[k]] += scores[k] * row[c, j].

    Channels run innermost: a vector must not be read again before its last change is stored.
    """
    for k in range(count):
        x, p = load(scores, (k, 0)), places[k]
        for c in range(channels):
            store(panel, (0, c, p), fma(x, load(row, (c, j)), load(panel, (0, c, p))))


@_compile
def _softmax_gradient(weights, gradient, count, inverse):
    """Normalize the weights; turn their gradient into that of the scores."""
    mean = splat(_float(0.0))
    for k in range(count):
        x = multiply(load(weights, (k, 0)), inverse)
        store(weights, (k, 0), x)
        mean = fma(x, load(gradient, (k, 0)), mean)
    for k in range(count):
        x = subtract(load(gradient, (k, 0)), mean)
        store(gradient, (k, 0), multiply(x, load(weights, (k, 0))))


@_compile
def _collect_bias(table, gradient, factor, height, low, high):
    """table[y, o] += factor * gradient[k], lane by lane."""
    factor = splat(factor)
    k = 0
    for y in range(height):
        for o in range(low, high):
            x = fma(factor, load(gradient, (k, 0)), load(table, (y, o, 0)))
            store(table, (y, o, 0), x)
            k += 1


@_compile
def _padded(channels):
    return (channels + CHANNELS - 1) // CHANNELS * CHANNELS


@_compile
def _key_rows(rows, first, end):
    """The key rows that the windows of a band touch, as places in `rows.key`."""
    return rows.start[first], rows.start[end - 1] + rows.size


@_compile
def _most_key_rows(rows, bands):
    most = 0
    for t in range(bands.shape[0]):
        top, bottom = _key_rows(rows, bands[t, 2], bands[t, 3])
        most = max(most, bottom - top)
    return most


@_compile_for(_MAP, _MAP, _MAP, _TABLE, types.float32, _MAP, _ROWS, _COLUMNS, _BANDS)
def forward(query, key, value, bias, scale, output, rows, columns, bands):
    """Attend for some bands of rows.

    Args:
        query: (B, heads, H, W, d), float32, the last axis contiguous.
        key: (B, heads, h, w, d), likewise.
        value: (B, heads, h, w, dv), likewise.
        bias: (heads, slots, 2 * window + 1, offsets, 8): the bias table as vectors read it, its
            first and last row repeated.
        scale: Factor on the products.
        output: (B, heads, H, W, dv); added to.
        rows, columns: The plan of either axis.
        bands: (n, 4 or more) int64: batch, head, first and end place in `rows.query`.
    """
    d, dv = query.shape[4], value.shape[4]
    offsets, width = columns.mask.shape[1:]
    # Scratch memory is taken once for all bands of the thread.
    shape = _most_key_rows(rows, bands), _padded(max(d, dv)), columns.length
    key_panel, value_panel = np.zeros(shape, _float), np.zeros(shape, _float)
    query_row = np.zeros((d, width), _float)
    output_row = np.zeros((_padded(dv), width), _float)
    places = np.zeros(rows.size * offsets + GROUP, np.int64)
    scores = np.zeros((rows.size * offsets + GROUP, LANES), _float)
    mixed = np.zeros((rows.size, offsets, LANES), _float)
    factor = splat(scale)
    for t in range(bands.shape[0]):
        b, h = bands[t, 0], bands[t, 1]
        y0, y1 = _key_rows(rows, bands[t, 2], bands[t, 3])
        key_rows = rows.key[y0:y1]
        for tile in range(len(columns.query_count)):
            panel, count = columns.panel[tile], columns.query_count[tile]
            if tile == 0 or panel != columns.panel[tile - 1]:
                key_columns = columns.key[panel, : columns.key_count[panel]]
                first = columns.first[panel]
                _pack(key_panel, key[b, h], key_rows, key_columns, first)
                _pack(value_panel, value[b, h], key_rows, key_columns, first)
            query_columns, mask = columns.query[tile, :count], columns.mask[tile]
            query_row[:, count:] = 0
            for place in range(bands[t, 2], bands[t, 3]):
                i, y, share = rows.query[place], rows.start[place] - y0, rows.share[place]
                keys, values = key_panel[y:], value_panel[y:]
                _pack_row(query_row, query[b, h, i], query_columns)
                for v in range((count + LANES - 1) // LANES):
                    j, slot = v * LANES, columns.slot[tile, v]
                    if v == 0 or slot != columns.slot[tile, v - 1]:
                        table = bias[h, slot, rows.table[place] :]
                        if share != 0:
                            _mix(mixed, table, share)
                            table = mixed
                    low, high = columns.low[tile, v], columns.high[tile, v]
                    n = _place(places, keys, rows.size, j, low, high, columns.distance)
                    _products(scores, query_row, keys, places, n, j)
                    inverse = _softmax(scores, factor, table, mask, rows.size, j, low, high)
                    _gather(output_row, scores, values, places, n, dv, j, inverse)
                _unpack_row(output[b, h, i], output_row, query_columns, _one)


@_compile_for(*[_MAP] * 4, _TABLE, types.float32, *[_MAP] * 3, _TABLE, _ROWS, _COLUMNS, _BANDS)
def backward(
    grad,
    query,
    key,
    value,
    bias,
    scale,
    grad_query,
    grad_key,
    grad_value,
    grad_bias,
    rows,
    columns,
    bands,
):
    """Gradients for some bands of rows; at the same time, no one may work on bands beside them.

    Args:
        grad: Gradient of the output, (B, heads, H, W, dv).
        query, key, value, bias, scale, rows, columns, bands: As in `forward`.
        grad_query, grad_key, grad_value, grad_bias: Like `query`, `key`, `value` and `bias`; added
            to.
    """
    d, dv = query.shape[4], value.shape[4]
    offsets, width = columns.mask.shape[1:]
    tiles = len(columns.query_count)
    shape = _most_key_rows(rows, bands), _padded(max(d, dv)), columns.length
    key_panel, value_panel = np.zeros(shape, _float), np.zeros(shape, _float)
    grad_key_panel, grad_value_panel = np.zeros(shape, _float), np.zeros(shape, _float)
    query_row = np.zeros((d, width), _float)
    grad_row = np.zeros((dv, width), _float)
    grad_query_row = np.zeros((_padded(d), width), _float)
    places = np.zeros(rows.size * offsets + GROUP, np.int64)
    weights = np.zeros((rows.size * offsets + GROUP, LANES), _float)
    gradient = np.zeros((rows.size * offsets + GROUP, LANES), _float)
    mixed = np.zeros((rows.size, offsets, LANES), _float)
    factor = splat(scale)
    for t in range(bands.shape[0]):
        b, h = bands[t, 0], bands[t, 1]
        y0, y1 = _key_rows(rows, bands[t, 2], bands[t, 3])
        key_rows = rows.key[y0:y1]
        for tile in range(tiles):
            panel, count = columns.panel[tile], columns.query_count[tile]
            key_columns = columns.key[panel, : columns.key_count[panel]]
            first = columns.first[panel]
            if tile == 0 or panel != columns.panel[tile - 1]:
                _pack(key_panel, key[b, h], key_rows, key_columns, first)
                _pack(value_panel, value[b, h], key_rows, key_columns, first)
            query_columns, mask = columns.query[tile, :count], columns.mask[tile]
            query_row[:, count:] = 0
            grad_row[:, count:] = 0
            for place in range(bands[t, 2], bands[t, 3]):
                i, y, share = rows.query[place], rows.start[place] - y0, rows.share[place]
                keys, values = key_panel[y:], value_panel[y:]
                grad_keys, grad_values = grad_key_panel[y:], grad_value_panel[y:]
                _pack_row(query_row, query[b, h, i], query_columns)
                _pack_row(grad_row, grad[b, h, i], query_columns)
                for v in range((count + LANES - 1) // LANES):
                    j, slot = v * LANES, columns.slot[tile, v]
                    if v == 0 or slot != columns.slot[tile, v - 1]:
                        table = bias[h, slot, rows.table[place] :]
                        grad_table = grad_bias[h, slot, rows.table[place] :]
                        if share != 0:
                            _mix(mixed, table, share)
                            table = mixed
                    low, high = columns.low[tile, v], columns.high[tile, v]
                    n = _place(places, keys, rows.size, j, low, high, columns.distance)
                    _products(weights, query_row, keys, places, n, j)
                    inverse = _softmax(weights, factor, table, mask, rows.size, j, low, high)
                    # Nothing of the forward pass is kept: the weights are computed again.
                    _products(gradient, grad_row, values, places, n, j)
                    _softmax_gradient(weights, gradient, n, inverse)
                    _collect_bias(grad_table, gradient, _one - share, rows.size, low, high)
                    if share != 0:
                        _collect_bias(grad_table[1:], gradient, share, rows.size, low, high)
                    _scatter(grad_values, weights, grad_row, places, n, dv, j)
                    _scatter(grad_keys, gradient, query_row, places, n, d, j)
                    _gather(grad_query_row, gradient, keys, places, n, d, j, splat(_one))
                _unpack_row(grad_query[b, h, i], grad_query_row, query_columns, scale)
            if tile == tiles - 1 or panel != columns.panel[tile + 1]:
                _unpack(grad_key[b, h], grad_key_panel, key_rows, key_columns, first, scale)
                _unpack(grad_value[b, h], grad_value_panel, key_rows, key_columns, first, _one)
