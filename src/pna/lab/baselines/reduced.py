"""For baselines of large images: an encoder of the reduced image, and patches of the image."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pna.errors import PnaError
from pna.lab.baselines.sampling import sample
from pna.model.config import ModelConfig
from pna.model.encoder import Encoder, EncoderWeights
from pna.model.presets import build_encoder
from pna.model.resize import average

NO_GRAPH = "the number of patches depends on the size of the image, so no graph holds for all sizes"
"""Why such a refiner is no part of a compiled graph, and cannot be exported."""


class ReducedEncoder(Encoder):
    """An encoder that sees the image at a fraction of its size.

    Args:
        encoder: For the reduced image.
        ratio: Sides of the image over those of the reduced one.
    """

    def __init__(self, encoder: Encoder, ratio: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.ratio = ratio
        self.name = encoder.name
        self.channels = encoder.channels
        self.strides = tuple(ratio * stride for stride in encoder.strides)
        self.mean, self.std = encoder.mean, encoder.std
        self.divisor = ratio * encoder.divisor

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of images (B, C, H, W), whose sides are multiples of `divisor`."""
        H, W = images.shape[-2:]
        features: list[Tensor] = self.encoder(average(images, (H // self.ratio, W // self.ratio)))
        return features


def build_reduced(
    config: ModelConfig, weights: EncoderWeights | None, ratio: int
) -> ReducedEncoder:
    """Build the encoder of a configuration for images reduced by a ratio.

    Raises:
        PnaError: Images are not padded, so that their sides are no multiples of the ratio's cells.
    """
    if config.options.padding == "none":
        raise PnaError(
            f"preset {config.preset!r} cuts images into equal parts, so it pads them, got "
            'padding="none": take "replicate" or "mean"'
        )
    return ReducedEncoder(build_encoder(config, weights), ratio)


class Normalize(nn.Module):
    """Bring images in [0, 1] to the mean and the deviation that an encoder's weights expect.

    Args:
        mean: Per channel, for values in [0, 1].
        std: Standard deviation per channel, likewise.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        # Settings of the encoder, not weights.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalize images (B, C, H, W)."""
        return (images - self.mean) / self.std


class Box(NamedTuple):
    """A part of an image, in shares of its sides."""

    top: float
    left: float
    bottom: float
    right: float

    def of(self, size: Sequence[int]) -> tuple[slice, slice]:
        """Return rows and columns of the part, on a map of a size (H, W) of the whole image."""
        H, W = size
        rows = slice(round(self.top * H), max(round(self.bottom * H), round(self.top * H) + 1))
        columns = slice(round(self.left * W), max(round(self.right * W), round(self.left * W) + 1))
        return rows, columns

    def centers(self, size: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
        """Return the centers (h,) and (w,) of cells that cut the part, in shares of the image."""
        h, w = size
        rows = (torch.arange(h, device=device) + 0.5) / h * (self.bottom - self.top) + self.top
        columns = (torch.arange(w, device=device) + 0.5) / w * (self.right - self.left) + self.left
        return rows, columns


def plan_patches(
    size: Sequence[int], patch: Sequence[int], *, overlap: float = 0.0, align: int = 1
) -> list[Box]:
    """Cover an image by patches on a regular grid.

    Args:
        size: (H, W) of the image.
        patch: (h, w) of a patch, at most those of the image.
        overlap: Least share of a patch's side that its neighbor covers too, in [0, 1); where
            patches are aligned, less by a part of `align`.
        align: They begin at multiples of so many pixels, of which the image's sides are multiples.

    Returns:
        The patches, row by row; whole pixels of the image.

    Example:
        >>> [tuple(box) for box in plan_patches((2, 4), (2, 2))]
        [(0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)]
    """
    starts = [
        _starts(length, side, overlap, align) for length, side in zip(size, patch, strict=True)
    ]
    (H, W), (h, w) = size, patch
    return [
        Box(row / H, column / W, (row + h) / H, (column + w) / W)
        for row in starts[0]
        for column in starts[1]
    ]


def _starts(length: int, side: int, overlap: float, align: int) -> list[int]:
    number = 1 + math.ceil((length - side) / ((1 - overlap) * side) - 1e-9)
    if number == 1:
        return [0]
    return [align * round(i * (length - side) / (number - 1) / align) for i in range(number)]


def crop(x: Tensor, box: Box, size: Sequence[int]) -> Tensor:
    """Cut a part out of a map and resize it bilinearly, to the fraction of a cell.

    Args:
        x: (B, C, H, W) of the whole image.
        box: The part.
        size: (h, w) of the result.

    Returns:
        (B, C, h, w).
    """
    rows, columns = box.centers(size, x.device)
    y, x_ = torch.meshgrid(rows, columns, indexing="ij")
    points = torch.stack([x_, y], -1).flatten(0, 1).expand(len(x), -1, -1)  # (B, h * w, 2)
    return sample(x, points).view(*x.shape[:2], *size).to(x.dtype)


class Canvas:
    """A map of the whole image that parts are put on; where they overlap they are averaged.

    Args:
        size: (H, W) of the map.
    """

    def __init__(self, size: Sequence[int]) -> None:
        self.size = size
        self._total: Tensor | None = None
        self._counts = torch.zeros(())

    def add(self, box: Box, part: Tensor) -> None:
        """Put a map (B, C, h, w) of a part, of any size, in its place."""
        if self._total is None:
            self._total = part.new_zeros(*part.shape[:2], *self.size)
            self._counts = part.new_zeros(1, 1, *self.size)
        rows, columns = box.of(self.size)
        shape = rows.stop - rows.start, columns.stop - columns.start
        self._total[..., rows, columns] += average(part, shape)
        self._counts[..., rows, columns] += 1

    def result(self) -> Tensor:
        """Return the map (B, C, H, W); 0 where no part is."""
        assert self._total is not None
        return self._total / self._counts.clamp(min=1)


def paste(parts: Iterable[tuple[Box, Tensor]], size: Sequence[int]) -> Tensor:
    """Put parts of an image together; where they overlap they are averaged.

    Args:
        parts: Each with its map (B, C, h, w), of any size.
        size: (H, W) of the result.

    Returns:
        (B, C, H, W); 0 where no part is.
    """
    canvas = Canvas(size)
    for box, part in parts:
        canvas.add(box, part)
    return canvas.result()
