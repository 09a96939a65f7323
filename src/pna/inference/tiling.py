"""Sliding window and test-time augmentation: the settings, and the geometry of tiles.

Every pixel gets the mean of the softmax of all its predictions: of overlapping tiles, of several
scales, of the mirrored image. Within tiles the weights fall off smoothly to the edges (a Hann
window), where a prediction has the least context. `pna.inference.segment` applies it.
"""

import operator
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pna.errors import PnaError


@dataclass(frozen=True)
class TilingConfig:
    """How an image is run through the network; by default once, whole and at its own size.

    Attributes:
        tile: Height and width in pixels of the sliding window, at every scale; None takes the image
            whole. An image that is smaller than a tile along an axis is one tile there.
        overlap: Least share of a tile that its neighbor covers too, along each axis, in [0, 1).
        scales: Factors on the image's size, in (0, 8], at least one.
        flip: Also run the mirrored image.

    Raises:
        PnaError: A value is out of range.

    Example:
        >>> print(TilingConfig(tile=(512, 1024), scales=(0.5, 1.0), flip=True))
        tiles of 512x1024 with 25 % overlap, at scales 0.5, 1, with flip
    """

    tile: tuple[int, int] | None = None
    overlap: float = 0.25
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.tile is not None:
            try:
                tile = tuple(operator.index(side) for side in self.tile)
            except TypeError:  # one number, or fractions
                tile = ()
            if len(tile) != 2 or min(tile) < 1:
                raise PnaError(
                    f"expected a tile's height and width, each at least 1, got {self.tile}"
                )
            object.__setattr__(self, "tile", tile)
        if not 0 <= self.overlap < 1:
            raise PnaError(
                f"expected an overlap in [0, 1), a share of the tile, got {self.overlap}"
            )
        # A number alone (0.5) is refused below, in words.
        scales = tuple(self.scales) if isinstance(self.scales, Iterable) else ()
        if not scales or not all(0 < scale <= 8 for scale in scales):
            raise PnaError(f"expected scales in (0, 8], at least one, got {self.scales}")
        object.__setattr__(self, "scales", scales)

    @property
    def is_whole(self) -> bool:
        """Whether the network runs once, on the image as it is."""
        return self.tile is None and self.scales == (1.0,) and not self.flip

    @property
    def is_banded(self) -> bool:
        """Whether an image can be finished from top to bottom, one row of tiles at a time."""
        return self.tile is not None and self.scales == (1.0,)

    def __str__(self) -> str:
        parts = ["whole images"]
        if self.tile is not None:
            height, width = self.tile
            parts = [f"tiles of {height}x{width} with {100 * self.overlap:g} % overlap"]
        if self.scales != (1.0,):
            named = ", ".join(f"{scale:g}" for scale in self.scales)
            parts.append(f"at scale{'s' * (len(self.scales) > 1)} {named}")
        if self.flip:
            parts.append("with flip")
        return ", ".join(parts)


WHOLE = TilingConfig()


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Place tiles along an axis. The last one ends at its end, so all have the same length.

    Args:
        length: Pixels along the axis.
        tile: Pixels along a tile, at most `length`.
        overlap: Least share of a tile that the next one covers too, in [0, 1).

    Returns:
        The first pixel of each tile, ascending.

    Example:
        >>> tile_starts(10, 4, overlap=0.5)
        [0, 2, 4, 6]
    """
    # Rounded down, so that the overlap is at least the one asked for.
    step = max(1, int(tile * (1 - overlap)))
    return [*range(0, length - tile, step), length - tile]


def tile_weights(height: int, width: int, device: torch.device) -> Tensor:
    """Return weights (height, width) of a tile's pixels: 1 in the middle, nearly 0 at the edges.

    They are positive everywhere, so a pixel that only one tile covers keeps its value.
    """

    def hann(length: int) -> Tensor:
        # At the pixels' centers; a window that ends in 0 would divide 0 by 0 at the border.
        centers = torch.arange(length, device=device, dtype=torch.float32) + 0.5
        return torch.sin(torch.pi * centers / length).square()

    return hann(height)[:, None] * hann(width)
