"""Neighborhood attention on the CPU in vector registers, compiled by numba.

A band of rows of one head is worked off in tiles of columns. A tile's keys and values are packed
into panels whose last axis is the column, so eight neighboring queries are one vector: the key `y`
rows and `o` columns away adds

    scores[y, o, j : j + 8] += query[c, j : j + 8] * key[y, c, j + o : j + o + 8]

No shuffles, and no key is met that no window holds, but at the border: there windows shift, a
vector takes the offsets that any of its queries needs, and -inf shuts the others. The attention map
lives for eight queries at a time.

Offsets count from 0: `o = key column - query column + window - 1`, as in the bias table.
"""

import numpy as np
from numba import njit, types

from pna.ops.compilation import compile_for
from pna.ops.simd import (
    LANES,
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
    splat,
    store,
    subtract,
)

COLUMNS = 64
"""Columns of a tile: its panels stay in the second cache."""
GROUP = 3
"""Offsets, or channels, whose sums are in registers together, to load the other factor once."""

_compile = njit(nogil=True, error_model="numpy", boundscheck=False)
_float, _one = np.float32, np.float32(1.0)

_MAP, _TABLE = types.float32[:, :, :, :, :], types.float32[:, :, ::1]
_LANE_TABLE, _BANDS = types.float32[:, :, :, ::1], types.int64[:, :]
_OPTIONS = (types.int64, types.float32)


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
def _start(position, n, window):
    """First cell of the window of a position on an axis of n cells."""
    return min(max(position - window // 2, 0), n - min(window, n))


@_compile
def _set_masks(mask, low, high, first, columns, W, window):
    """Set which offsets each vector of the tile takes, and -inf where a query must not.

    Args:
        mask: (2 * window - 1 + GROUP, COLUMNS), 0 or -inf. Lanes beyond the map take everything:
            their queries are 0, so they stay finite.
        low, high: (COLUMNS // 8,) first and end offset, a multiple of GROUP apart.
    """
    size = min(window, W)
    mask[:] = 0
    for j in range(columns):
        start = _start(first + j, W, window) - first - j + window - 1
        for o in range(mask.shape[0]):
            if o < start or o >= start + size:
                mask[o, j] = -np.inf
    for v in range((columns + LANES - 1) // LANES):
        begin = first + v * LANES
        end = min(begin + LANES, first + columns) - 1
        low[v] = _start(end, W, window) - end + window - 1
        high[v] = _start(begin, W, window) + size - begin + window - 1
        # Rounded up to whole groups; the mask shuts the offsets beyond the window.
        high[v] = low[v] + (high[v] - low[v] + GROUP - 1) // GROUP * GROUP


@_compile
def _pack(panel, cells, top, bottom, left, right, shift):
    """Fill panel[y - top, c, x - shift] with cells[y, x, c], and 0 beside them."""
    for y in range(top, bottom):
        panel[y - top] = 0
        _pack_row(panel[y - top, :, left - shift :], cells[y, left:right])


@_compile
def _pack_row(row, cells):
    """Fill row[c, x] with cells[x, c]."""
    columns, channels = cells.shape
    for x in range(0, columns - LANES + 1, LANES):
        # 8 x 8 blocks are transposed in registers: reads and writes are whole vectors.
        for c in range(0, channels - LANES + 1, LANES):
            copy_transposed(row, (c, x), cells, (x, c))
        for c in range(channels // LANES * LANES, channels):
            for k in range(x, x + LANES):
                row[c, k] = cells[k, c]
    for x in range(columns // LANES * LANES, columns):
        for c in range(channels):
            row[c, x] = cells[x, c]


@_compile
def _unpack_row(cells, row, factor):
    """Add factor * row[c, x] to cells[x, c]."""
    columns, channels = cells.shape
    row[:channels, :columns] *= factor
    for x in range(0, columns - LANES + 1, LANES):
        for c in range(0, channels - LANES + 1, LANES):
            add_transposed(cells, (x, c), row, (c, x))
        for c in range(channels // LANES * LANES, channels):
            for k in range(x, x + LANES):
                cells[k, c] += row[c, k]
    for x in range(columns // LANES * LANES, columns):
        for c in range(channels):
            cells[x, c] += row[c, x]


@_compile
def _unpack(cells, panel, top, bottom, left, right, shift, factor):
    """Add factor * panel[y - top, c, x - shift] to cells[y, x, c]; clear the panel."""
    for y in range(top, bottom):
        _unpack_row(cells[y, left:right], panel[y - top, :, left - shift :], factor)
        panel[y - top] = 0


@_compile
def _products(scores, row, panel, j, low, high):
    """scores[y, o] = sum over c of row[c, j] * panel[y, c, j + o], for eight queries from j on."""
    zero = splat(_float(0.0))
    for y in range(scores.shape[0]):
        for o in range(low, high, GROUP):
            # Three sums at once: the query is loaded once for three keys, and the sums hide the
            # latency of the multiply-adds.
            a, b, d = zero, zero, zero
            for c in range(row.shape[0]):
                x = load(row, (c, j))
                a = fma(x, load(panel, (y, c, j + o)), a)
                b = fma(x, load(panel, (y, c, j + o + 1)), b)
                d = fma(x, load(panel, (y, c, j + o + 2)), d)
            store(scores, (y, o - low, 0), a)
            store(scores, (y, o - low + 1, 0), b)
            store(scores, (y, o - low + 2, 0), d)


@_compile
def _softmax(scores, scale, bias, mask, j, low, high):
    """Turn products into weights, scaled, bias and mask added; return the inverse of their sum."""
    top = splat(_float(-np.inf))
    for y in range(scores.shape[0]):
        for o in range(low, high):
            # Offsets that only the group's rounding adds have no bias; their mask is -inf.
            x = add(load(mask, (o, j)), splat(bias[y, min(o, bias.shape[1] - 1)]))
            x = fma(load(scores, (y, o - low, 0)), scale, x)
            store(scores, (y, o - low, 0), x)
            top = maximum(x, top)
    total = splat(_float(0.0))
    for y in range(scores.shape[0]):
        for o in range(high - low):
            # The largest score is subtracted, as in every softmax: exp cannot overflow.
            x = _exp(subtract(load(scores, (y, o, 0)), top))
            store(scores, (y, o, 0), x)
            total = add(total, x)
    return divide(splat(_float(1.0)), total)


@_compile
def _gather(row, scores, panel, channels, j, low, high, factor):
    """row[c, j] = factor * sum over y, o of scores[y, o] * panel[y, c, j + o]."""
    zero = splat(_float(0.0))
    for c in range(0, channels, GROUP):
        a, b, d = zero, zero, zero
        for y in range(scores.shape[0]):
            for o in range(low, high):
                x = load(scores, (y, o - low, 0))
                a = fma(x, load(panel, (y, c, j + o)), a)
                b = fma(x, load(panel, (y, c + 1, j + o)), b)
                d = fma(x, load(panel, (y, c + 2, j + o)), d)
        store(row, (c, j), multiply(a, factor))
        store(row, (c + 1, j), multiply(b, factor))
        store(row, (c + 2, j), multiply(d, factor))


@_compile
def _scatter(panel, scores, row, channels, j, low, high):
    """panel[y, c, j + o] += scores[y, o] * row[c, j].

    Channels run innermost: a vector must not be read again before its last change is stored.
    """
    for y in range(scores.shape[0]):
        for o in range(low, high):
            x = load(scores, (y, o - low, 0))
            for c in range(channels):
                cell = (y, c, j + o)
                store(panel, cell, fma(x, load(row, (c, j)), load(panel, cell)))


@_compile
def _softmax_gradient(weights, gradient, count, inverse):
    """Normalize the weights; turn their gradient into that of the scores."""
    mean = splat(_float(0.0))
    for y in range(weights.shape[0]):
        for o in range(count):
            x = multiply(load(weights, (y, o, 0)), inverse)
            store(weights, (y, o, 0), x)
            mean = fma(x, load(gradient, (y, o, 0)), mean)
    for y in range(weights.shape[0]):
        for o in range(count):
            x = subtract(load(gradient, (y, o, 0)), mean)
            store(gradient, (y, o, 0), multiply(x, load(weights, (y, o, 0))))


@_compile
def _collect_bias(table, gradient, low, high):
    """table[y, o] += gradient[y, o], lane by lane."""
    for y in range(gradient.shape[0]):
        for o in range(low, min(high, table.shape[1])):
            store(
                table,
                (y, o, 0),
                add(load(table, (y, o, 0)), load(gradient, (y, o - low, 0))),
            )


@_compile
def _grouped(channels):
    return (channels + GROUP - 1) // GROUP * GROUP


@_compile
def _tile(bands, t, first, H, W, window):
    """Columns of a tile, and the rows and columns of the keys that its windows touch."""
    columns = min(COLUMNS, W - first)
    top = _start(bands[t, 2], H, window)
    bottom = _start(bands[t, 3] - 1, H, window) + min(window, H)
    left = _start(first, W, window)
    right = _start(first + columns - 1, W, window) + min(window, W)
    return columns, top, bottom, left, right


@_compile_for(_MAP, _MAP, _MAP, _TABLE, *_OPTIONS, _MAP, _BANDS)
def forward(query, key, value, bias, window, scale, output, bands):
    """Attend for some bands of rows.

    Args:
        query, key, value: (B, heads, H, W, d), float32, the last axis contiguous; `value` has its
            own width.
        bias: (heads, 2 * window - 1, 2 * window - 1).
        window: Cells per side.
        scale: Factor on the products.
        output: Like `value`; added to.
        bands: (n, 4) int64: batch, head, first row, end row.
    """
    H, W = query.shape[2:4]
    d, dv = query.shape[4], value.shape[4]
    side, height, length = 2 * window - 1, min(window, H), COLUMNS + 2 * window - 2 + GROUP
    # Scratch memory is taken once for all bands of the thread.
    rows = min(np.max(bands[:, 3] - bands[:, 2]) + window - 1, H)
    key_panel = np.zeros((rows, d, length), _float)
    value_panel = np.zeros((rows, _grouped(dv), length), _float)
    query_row = np.zeros((d, COLUMNS), _float)
    output_row = np.zeros((_grouped(dv), COLUMNS), _float)
    scores = np.zeros((height, side + GROUP, LANES), _float)
    mask = np.zeros((side + GROUP, COLUMNS), _float)
    low, high = np.zeros(COLUMNS // LANES, np.int64), np.zeros(COLUMNS // LANES, np.int64)
    factor = splat(scale)
    for t in range(bands.shape[0]):
        b, h = bands[t, 0], bands[t, 1]
        for first in range(0, W, COLUMNS):
            columns, y0, y1, x0, x1 = _tile(bands, t, first, H, W, window)
            _set_masks(mask, low, high, first, columns, W, window)
            _pack(key_panel, key[b, h], y0, y1, x0, x1, first - window + 1)
            _pack(value_panel, value[b, h], y0, y1, x0, x1, first - window + 1)
            query_row[:, columns:] = 0
            for i in range(bands[t, 2], bands[t, 3]):
                y = _start(i, H, window)
                # Row of the bias table for the first row of the window.
                table = y - i + window - 1
                keys, values = key_panel[y - y0 :], value_panel[y - y0 :]
                _pack_row(query_row, query[b, h, i, first : first + columns])
                for v in range((columns + LANES - 1) // LANES):
                    j = v * LANES
                    _products(scores, query_row, keys, j, low[v], high[v])
                    inverse = _softmax(scores, factor, bias[h, table:], mask, j, low[v], high[v])
                    _gather(output_row, scores, values, dv, j, low[v], high[v], inverse)
                _unpack_row(output[b, h, i, first : first + columns], output_row, _one)


@_compile_for(*[_MAP] * 4, _TABLE, *_OPTIONS, *[_MAP] * 3, _LANE_TABLE, _BANDS)
def backward(
    grad,
    query,
    key,
    value,
    bias,
    window,
    scale,
    grad_query,
    grad_key,
    grad_value,
    grad_bias,
    bands,
):
    """Gradients for some bands of rows; at the same time, no one may work on bands beside them.

    Args:
        grad: Gradient of the output, like `value`.
        query, key, value, bias, window, scale, bands: As in `forward`.
        grad_query, grad_key, grad_value: Like `query`, `key` and `value`; added to.
        grad_bias: (heads, 2 * window - 1, 2 * window - 1, 8), lanes yet to be summed; added to.
    """
    H, W = query.shape[2:4]
    d, dv = query.shape[4], value.shape[4]
    side, height, length = 2 * window - 1, min(window, H), COLUMNS + 2 * window - 2 + GROUP
    rows = min(np.max(bands[:, 3] - bands[:, 2]) + window - 1, H)
    key_panel = np.zeros((rows, _grouped(d), length), _float)
    value_panel = np.zeros((rows, dv, length), _float)
    grad_key_panel = np.zeros((rows, d, length), _float)
    grad_value_panel = np.zeros((rows, dv, length), _float)
    query_row = np.zeros((d, COLUMNS), _float)
    grad_row = np.zeros((dv, COLUMNS), _float)
    grad_query_row = np.zeros((_grouped(d), COLUMNS), _float)
    weights = np.zeros((height, side + GROUP, LANES), _float)
    gradient = np.zeros((height, side + GROUP, LANES), _float)
    mask = np.zeros((side + GROUP, COLUMNS), _float)
    low, high = np.zeros(COLUMNS // LANES, np.int64), np.zeros(COLUMNS // LANES, np.int64)
    factor = splat(scale)
    for t in range(bands.shape[0]):
        b, h = bands[t, 0], bands[t, 1]
        for first in range(0, W, COLUMNS):
            columns, y0, y1, x0, x1 = _tile(bands, t, first, H, W, window)
            shift = first - window + 1
            _set_masks(mask, low, high, first, columns, W, window)
            _pack(key_panel, key[b, h], y0, y1, x0, x1, shift)
            _pack(value_panel, value[b, h], y0, y1, x0, x1, shift)
            query_row[:, columns:] = 0
            grad_row[:, columns:] = 0
            for i in range(bands[t, 2], bands[t, 3]):
                y = _start(i, H, window)
                table = y - i + window - 1
                keys, values = key_panel[y - y0 :], value_panel[y - y0 :]
                grad_keys, grad_values = grad_key_panel[y - y0 :], grad_value_panel[y - y0 :]
                _pack_row(query_row, query[b, h, i, first : first + columns])
                _pack_row(grad_row, grad[b, h, i, first : first + columns])
                for v in range((columns + LANES - 1) // LANES):
                    j, o, end = v * LANES, low[v], high[v]
                    _products(weights, query_row, keys, j, o, end)
                    inverse = _softmax(weights, factor, bias[h, table:], mask, j, o, end)
                    # Nothing of the forward pass is kept: the weights are computed again.
                    _products(gradient, grad_row, values, j, o, end)
                    _softmax_gradient(weights, gradient, end - o, inverse)
                    _collect_bias(grad_bias[h, table:], gradient, o, end)
                    _scatter(grad_values, weights, grad_row, dv, j, o, end)
                    _scatter(grad_keys, gradient, query_row, d, j, o, end)
                    _gather(grad_query_row, gradient, keys, d, j, o, end, splat(_one))
                _unpack_row(grad_query[b, h, i, first : first + columns], grad_query_row, scale)
            _unpack(grad_key[b, h], grad_key_panel, y0, y1, x0, x1, shift, scale)
            _unpack(grad_value[b, h], grad_value_panel, y0, y1, x0, x1, shift, _one)
