"""Outlines of a mask as polygons: trace, simplify, drop vertices, fill.

Vertices are corners of pixels, (row, column): the pixel in row r covers r to r + 1. Outer outlines
run clockwise on the screen and outlines of holes counterclockwise, so that the winding number tells
the inside, however the outlines are nested. (Pillow's `ImageDraw` cuts vertices to whole pixels and
fills the outline's own pixels too: each shape would grow by half a pixel.)
"""

import math

import numpy as np
import numpy.typing as npt

from pna.lab.masks.fields import BoolArray

Loop = npt.NDArray[np.float64]
"""A closed outline: (N, 2) vertices, the first not repeated at the end."""

# Right, down, left, up: steps of (row, column) along the sides of a pixel, its inside on the right.
_STEPS = np.array([(0, 1), (1, 0), (0, -1), (-1, 0)])


def trace(mask: BoolArray) -> list[Loop]:
    """Trace all outlines, holes included, along the sides of the pixels.

    Pixels that touch at a corner count as connected. Sides on the border of the image belong to the
    outline.

    Args:
        mask: (H, W) bool.

    Returns:
        Outlines with a vertex at each corner of a pixel.

    Example:
        >>> trace(np.array([[0, 0], [0, 1]], bool))[0].tolist()
        [[1.0, 1.0], [1.0, 2.0], [2.0, 2.0], [2.0, 1.0]]
    """
    corners, directions = _sides(mask)
    if not len(corners):
        return []
    # A side has the number corner * 4 + direction, which says where it begins and leads.
    columns = mask.shape[1] + 1
    numbers = (corners[:, 0] * columns + corners[:, 1]) * 4 + directions
    order = np.argsort(numbers)
    numbers, corners, directions = numbers[order], corners[order], directions[order]
    ends = (corners + _STEPS[directions]) @ (columns, 1)
    following = np.full(len(numbers), -1)
    # The side that follows turns left, goes on, or turns right. Where two pixels meet at a corner
    # there is a left and a right one: left leads around both pixels.
    for turn in (1, 0, -1):
        wanted = ends * 4 + (directions + turn) % 4
        places = np.searchsorted(numbers, wanted).clip(max=len(numbers) - 1)
        following = np.where(numbers[places] == wanted, places, following)
    return [corners[loop].astype(np.float64) for loop in _cycles(following)]


def _sides(mask: BoolArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the sides between foreground and background: first corners (N, 2), directions (N,)."""
    padded = np.pad(mask, 1)
    center = padded[1:-1, 1:-1]
    # For each direction: the neighbor that must be background, and where the side begins.
    neighbors = (padded[:-2, 1:-1], padded[1:-1, 2:], padded[2:, 1:-1], padded[1:-1, :-2])
    begins = ((0, 0), (0, 1), (1, 1), (1, 0))
    found = [np.argwhere(center & ~neighbor) for neighbor in neighbors]
    corners = np.concatenate([at + begin for at, begin in zip(found, begins, strict=True)])
    return corners, np.repeat(np.arange(4), [len(at) for at in found])


def _cycles(following: npt.NDArray[np.int64]) -> list[list[int]]:
    """Split a permutation into its cycles."""
    successors = following.tolist()  # a walk over a list is faster than over an array
    is_done = bytearray(len(successors))
    cycles = []
    for first in range(len(successors)):
        cycle = []
        at = first
        while not is_done[at]:
            is_done[at] = 1
            cycle.append(at)
            at = successors[at]
        if cycle:
            cycles.append(cycle)
    return cycles


def simplify(loops: list[Loop], tolerance: float) -> list[Loop]:
    """Keep the vertices that matter: the algorithm of Douglas and Peucker (1973).

    Each dropped vertex lies within `tolerance` of the line between the kept ones around it. All
    outlines are worked on at once, one level of the recursion after the other.

    Args:
        loops: Outlines.
        tolerance: Distance in pixels.

    Returns:
        Outlines of at least 3 vertices. Those that shrink to a line are dropped.

    Example:
        >>> square = trace(np.ones((9, 9), bool))
        >>> len(square[0]), simplify(square, 0.5)[0].tolist()
        (36, [[0.0, 0.0], [0.0, 9.0], [9.0, 9.0], [9.0, 0.0]])
    """
    if not loops:
        return []
    # Each loop is closed by its first vertex, and split there and at the vertex farthest from it.
    points = np.concatenate([np.append(loop, loop[:1], axis=0) for loop in loops])
    ends = np.cumsum([len(loop) + 1 for loop in loops])
    starts = np.append(0, ends[:-1])
    is_kept = np.zeros(len(points), dtype=bool)
    is_kept[starts] = is_kept[ends - 1] = True
    for start, loop in zip(starts, loops, strict=True):
        is_kept[start + np.square(loop - loop[0]).sum(1).argmax()] = True
    while True:
        kept = np.flatnonzero(is_kept)
        segment = np.cumsum(is_kept)[:-1] - 1  # of each point, from its first to before its last
        distances = _distances(points[:-1], points[kept[segment]], points[kept[segment + 1]])
        farthest = np.maximum.reduceat(distances, kept[:-1])
        is_new = (distances > tolerance) & (distances == farthest[segment])
        if not is_new.any():
            break
        is_kept[:-1] |= is_new
    parts = (
        points[start : end - 1][is_kept[start : end - 1]]
        for start, end in zip(starts, ends, strict=True)
    )
    return [part for part in parts if len(part) >= 3]


def _distances(
    points: npt.NDArray[np.float64], begins: npt.NDArray[np.float64], ends: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the distance of each point to the line through two others, which may be one point."""
    along, to_point = ends - begins, points - begins
    length = np.hypot(*along.T)
    across = np.abs(along[:, 0] * to_point[:, 1] - along[:, 1] * to_point[:, 0])
    distances: npt.NDArray[np.float64] = np.where(
        length > 0, across / np.maximum(length, 1e-9), np.hypot(*to_point.T)
    )
    return distances


def jitter(loops: list[Loop], sigma: float, rng: np.random.Generator) -> list[Loop]:
    """Move each vertex by normal noise of `sigma` pixels along both axes.

    Example:
        >>> square = simplify(trace(np.ones((9, 9), bool)), 1)
        >>> moved = jitter(square, 0.1, np.random.default_rng(0))
        >>> bool(0 < np.abs(moved[0] - square[0]).max() < 0.4)
        True
    """
    return [loop + rng.normal(0, sigma, loop.shape) for loop in loops]


def drop_vertices(loops: list[Loop], keep: float, rng: np.random.Generator) -> list[Loop]:
    """Drop vertices at random.

    Args:
        loops: Outlines.
        keep: Share of the vertices to keep, in [0, 1]; at least 8 of each outline stay.
        rng: Source of the choice.

    Example:
        >>> square = trace(np.ones((10, 10), bool))
        >>> [len(loop) for loop in drop_vertices(square, 0.25, np.random.default_rng(0))]
        [10]
    """
    dropped = []
    for loop in loops:
        number = min(len(loop), max(8, round(keep * len(loop))))
        dropped.append(loop[np.sort(rng.choice(len(loop), number, replace=False))])
    return dropped


def fill(loops: list[Loop], shape: tuple[int, ...]) -> BoolArray:
    """Fill outlines: a pixel is inside where the winding number of its center isn't 0.

    Args:
        loops: Outlines; they may leave the image.
        shape: (H, W) of the mask.

    Returns:
        (H, W) bool. `fill(trace(mask), mask.shape)` is the mask.

    Example:
        >>> fill([np.array([(0.0, 0.0), (0.0, 3.0), (3.0, 0.0)])], (3, 4)).astype(int).tolist()
        [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    """
    H, W = shape
    mask = np.zeros((H, W), dtype=bool)
    if not loops:
        return mask
    begins = np.concatenate(loops)
    ends = np.concatenate([np.roll(loop, -1, axis=0) for loop in loops])
    # An edge crosses the rows whose centers lie between its ends.
    rows = np.ceil(np.stack([begins[:, 0], ends[:, 0]]) - 0.5).clip(0, H).astype(np.int64)
    first, last = rows.min(axis=0), rows.max(axis=0)
    counts = last - first
    edge = np.repeat(np.arange(len(begins)), counts)  # of each crossing
    if not len(edge):
        return mask
    row = np.arange(len(edge)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edge]
    slope = (ends - begins)[edge]
    x = begins[edge, 1] + (row + 0.5 - begins[edge, 0]) * slope[:, 1] / slope[:, 0]
    column = np.ceil(x - 0.5).clip(0, W).astype(np.int64)
    # To the right of an upward edge the winding number is 1 higher, of a downward one 1 lower.
    top, bottom, left, right = row.min(), row.max() + 1, column.min(), column.max() + 1
    winding = np.zeros((bottom - top, right - left), dtype=np.int32)
    np.add.at(winding, (row - top, column - left), -np.sign(slope[:, 0]).astype(np.int32))
    # The last column may be W, beyond the image; the winding number is 0 from there on.
    inside = np.cumsum(winding, axis=1)[:, :-1] != 0
    mask[top:bottom, left : right - 1] = inside
    return mask


def blob(rng: np.random.Generator) -> Loop:
    """Draw a smooth closed outline around the origin, of radius about 1.

    Example:
        >>> mask = fill([20 * blob(np.random.default_rng(0)) + 50], (100, 100))
        >>> bool(mask[50, 50]), bool(800 < mask.sum() < 1800)
        (True, True)
    """
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    radii = np.ones_like(angles)
    for waves in (2, 3, 4, 5):
        radii += rng.normal(0, 0.3 / waves) * np.cos(waves * angles + rng.uniform(0, 2 * math.pi))
    radii = np.maximum(radii, 0.2)
    aspect = math.exp(rng.normal(0, 0.2))
    turn = rng.uniform(0, 2 * math.pi)
    y, x = radii * np.sin(angles) * aspect, radii * np.cos(angles) / aspect
    sine, cosine = math.sin(turn), math.cos(turn)
    return np.stack([cosine * y + sine * x, cosine * x - sine * y], axis=1)
