"""The permutohedral lattice's loops, compiled by numba: embed, connect, filter.

A point with d features lies in the plane of d + 1 coordinates whose sum is 0. Integer points of
that plane whose coordinates are all alike modulo d + 1 are the lattice's vertices; they cut it into
simplices of d + 1 corners, one of each remainder. The d first coordinates name a vertex. Vertices
are numbered from 1: number 0 is a vertex that holds nothing, which stands for every missing one.

Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Computer Graphics Forum 29(2), 2010, sections 3 and 4.
"""

import math

import numpy as np
from numba import njit, types

from pna.ops.compilation import compile_for

SCALE = math.sqrt(2.0 / 3.0)
"""Times d + 1: the length of one standard deviation in the plane.

The blur's variance is (d + 1)^2 / 2 along any direction, splatting and slicing add a twelfth each.
"""

_compile = njit(nogil=True, error_model="numpy", boundscheck=False)
_float, _int = np.float32, np.int32

_POINTS, _NUMBERS = types.float32[:, ::1], types.int32[:, ::1]
_LINKS, _TABLE = types.int32[:, :, ::1], types.int32[::1]


def _compile_for(result, *arguments):
    """Compile once, and keep the machine code on disk where a cache folder can be written."""
    return compile_for(result(*arguments))


@_compile
def _elevate(feature, elevated):
    """Turn d features into the d + 1 coordinates of a point of the plane; distances scale."""
    d = feature.shape[0]
    total = 0.0
    # From the last to the first, so that one running sum gives all coordinates: O(d), not O(d^2).
    for i in range(d, 0, -1):
        x = feature[i - 1] * SCALE * (d + 1) / math.sqrt(i * (i + 1.0))
        elevated[i] = total - i * x
        total += x
    elevated[0] = total


@_compile
def _enclose(elevated, corner, rank, weights):
    """Find the simplex around a point, and the point's barycentric weights in it.

    Args:
        elevated: (d + 1,) coordinates.
        corner: (d + 1,) is set to the simplex's corner of remainder 0.
        rank: (d + 1,) is set to the order of the coordinates by their height above the corner's,
            0 for the highest.
        weights: (d + 2,) its d + 1 first are set; the last is scratch.
    """
    side = elevated.shape[0]
    excess = 0
    for i in range(side):
        corner[i] = _int(np.rint(elevated[i] / side)) * side
        excess += corner[i] // side
        rank[i] = 0
    for i in range(side):
        for j in range(i + 1, side):
            is_below = elevated[i] - corner[i] < elevated[j] - corner[j]
            rank[i if is_below else j] += 1
    weights[:] = 0
    for i in range(side):
        # Rounding may have left the plane: the coordinates it moved most go one step back.
        rank[i] += excess
        if rank[i] < 0:
            rank[i] += side
            corner[i] += side
        elif rank[i] >= side:
            rank[i] -= side
            corner[i] -= side
        x = (elevated[i] - corner[i]) / side
        weights[side - 1 - rank[i]] += x
        weights[side - rank[i]] -= x
    weights[0] += 1 + weights[side]


@_compile
def _slot(table, keys, key):
    """Find the slot of a vertex in the hash table, or the empty one that it would take."""
    mask = table.shape[0] - 1
    mixed = 0
    for i in range(key.shape[0]):
        mixed = (mixed + key[i]) * -7046029254386353131  # 2^64 / golden ratio, as int64
    slot = (mixed >> 32) & mask
    while table[slot] != 0:
        is_same = True
        for i in range(key.shape[0]):
            is_same &= keys[table[slot], i] == key[i]
        if is_same:
            break
        slot = (slot + 1) & mask
    return slot


@_compile_for(types.int64, _POINTS, _NUMBERS, _POINTS, _NUMBERS, _TABLE)
def embed(features, vertices, weights, keys, table):
    """Put points into the lattice; return the number of vertices, number 0 included.

    Args:
        features: (N, d) in standard deviations of the Gaussian.
        vertices: (N, d + 1) is set to the corners of each point's simplex.
        weights: (N, d + 1) is set to their weights, whose sum is 1.
        keys: (at least N * (d + 1) + 1, d) is set to the vertices' coordinates.
        table: (power of two, more than there are keys) zeros; becomes the hash table.
    """
    N, d = features.shape
    elevated, shares = np.empty(d + 1), np.empty(d + 2)
    corner, rank, key = np.empty(d + 1, _int), np.empty(d + 1, _int), np.empty(d, _int)
    count = 1
    for n in range(N):
        _elevate(features[n], elevated)
        _enclose(elevated, corner, rank, shares)
        for r in range(d + 1):
            # The corner of remainder r: all coordinates r up, those of the last r ranks d + 1 down.
            for i in range(d):
                key[i] = corner[i] + r - (d + 1 if rank[i] > d - r else 0)
            slot = _slot(table, keys, key)
            if table[slot] == 0:
                table[slot] = count
                keys[count] = key
                count += 1
            vertices[n, r] = table[slot]
            weights[n, r] = shares[r]
    return count


@_compile_for(types.void, _NUMBERS, _TABLE, _LINKS)
def connect(keys, table, neighbors):
    """Set neighbors (d + 1, M, 2): the vertices before and after each one along each direction."""
    directions, count = neighbors.shape[:2]
    d = directions - 1
    key = np.empty(d, _int)
    for axis in range(directions):
        for v in range(1, count):
            for side in range(2):
                step = 2 * side - 1
                for i in range(d):
                    key[i] = keys[v, i] + step * (1 - (directions if i == axis else 0))
                neighbors[axis, v, side] = table[_slot(table, keys, key)]


@_compile_for(types.void, _NUMBERS, _POINTS, _LINKS, _POINTS, types.float32, _POINTS)
def splat_blur_slice(vertices, weights, neighbors, values, factor, output):
    """Filter values (N, K) into the output (N, K), times a factor.

    Each direction is blurred with 1/2, 1, 1/2, on the vertices that points have touched alone.
    """
    (N, corners), K = vertices.shape, values.shape[1]
    directions, count = neighbors.shape[:2]
    before = np.zeros((count, K), _float)
    after = np.zeros((count, K), _float)
    for n in range(N):
        for r in range(corners):
            v, weight = vertices[n, r], weights[n, r]
            for k in range(K):
                before[v, k] += weight * values[n, k]
    # One direction after the other, in place of one blur in d dimensions.
    for axis in range(directions):
        for v in range(1, count):
            left, right = neighbors[axis, v, 0], neighbors[axis, v, 1]
            for k in range(K):
                after[v, k] = before[v, k] + _float(0.5) * (before[left, k] + before[right, k])
        before, after = after, before
    # Slicing is the transpose of splatting: the same weights read the vertices back.
    for n in range(N):
        for k in range(K):
            output[n, k] = 0
        for r in range(corners):
            v, weight = vertices[n, r], weights[n, r] * factor
            for k in range(K):
                output[n, k] += weight * before[v, k]
