"""Geometry: a raster is cut into blocks, each computed from the tiles that touch it.

The tiles are those of the whole raster (`tile_starts`), so a block holds the same values whatever
the other blocks are, and no seam shows where two of them meet.
"""

from dataclasses import dataclass
from itertools import pairwise

from pna.data.raster import Window
from pna.inference.tiling import tile_starts


@dataclass(frozen=True)
class Block:
    """A part of a raster that is computed on its own.

    Attributes:
        index: Its place in reading order, from 0.
        rows: The rows of the raster that it holds.
        cols: The columns.
        source: The rows and columns that its tiles cover.
    """

    index: int
    rows: slice
    cols: slice
    source: Window

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rows.stop - self.rows.start, self.cols.stop - self.cols.start


def plan_blocks(
    size: tuple[int, int], tile: tuple[int, int], overlap: float, block: tuple[int, int]
) -> list[Block]:
    """Cut a raster into blocks, row by row.

    Args:
        size: Height and width of the raster in pixels.
        tile: Height and width of a tile.
        overlap: Least share of a tile that its neighbor covers too, in [0, 1).
        block: Height and width of a block, at most, where the tiles allow it.

    Example:
        >>> [(b.rows, b.source[0]) for b in plan_blocks((10, 4), (4, 4), 0.5, (4, 4))]
        [(slice(0, 4, None), slice(0, 6, None)), (slice(4, 10, None), slice(2, 10, None))]
    """
    rows, cols = (
        _cut(length, min(side, length), overlap, most)
        for length, side, most in zip(size, tile, block, strict=True)
    )
    return [
        Block(i * len(cols) + j, row, col, (source_rows, source_cols))
        for i, (row, source_rows) in enumerate(rows)
        for j, (col, source_cols) in enumerate(cols)
    ]


def _cut(length: int, tile: int, overlap: float, most: int) -> list[tuple[slice, slice]]:
    """Cut an axis where tiles begin; return each part, and what the tiles that touch it cover."""
    starts = tile_starts(length, tile, overlap)
    step = starts[1] if len(starts) > 2 else length
    # The last tile begins wherever it has to: cuts are at regular ones, so that blocks are equal.
    every = max(1, most // step)
    cuts = [0, *starts[:-1][every::every], length]
    parts = []
    for start, stop in pairwise(cuts):
        touching = [s for s in starts if s < stop and s + tile > start]
        parts.append((slice(start, stop), slice(touching[0], touching[-1] + tile)))
    return parts
