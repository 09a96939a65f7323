"""How a picture is looked at: whole or in overlapping tiles, at one scale or several, mirrored too.

More than one view of a pixel is blended: the softmax of every view, averaged; in tiles with a
weight that falls off smoothly to their edges (a Hann window), where the network knows least.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from pna.model.resize import resize
from pna.model.segmenter import BaseSegmenter


@dataclass(frozen=True)
class Views:
    """Which views of a picture are blended; by default one, the whole picture.

    Attributes:
        tile: Height and width of the tiles in pixels, at every scale; None takes it whole. A
            picture that is smaller than a tile, along an axis, is one tile there.
        overlap: Least share of a tile that its neighbour covers too, along each axis, in [0, 1).
        scales: Factors on the picture's size, at least one.
        flip: Whether the mirrored picture is looked at too.
    """

    tile: tuple[int, int] | None = None
    overlap: float = 0.25
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if self.tile is not None and (len(self.tile) != 2 or min(self.tile) < 1):
            raise ValueError(f"expected a tile's height and width, each at least 1: {self.tile}")
        if not 0 <= self.overlap < 1:
            raise ValueError(f"expected an overlap in [0, 1), a share of the tile: {self.overlap}")
        if not self.scales or not all(0 < scale <= 8 for scale in self.scales):
            raise ValueError(f"expected scales in (0, 8], at least one: {list(self.scales)}")

    @property
    def is_whole(self) -> bool:
        """Whether there is one view, the picture as it is."""
        return self.tile is None and self.scales == (1.0,) and not self.flip

    @property
    def is_banded(self) -> bool:
        """Whether a picture can be done from top to bottom, a row of tiles at a time."""
        return self.tile is not None and self.scales == (1.0,)

    def __str__(self) -> str:
        """For example "tiles of 512x1024 that share 25 %, at scales 0.5, 1, mirrored too"."""
        parts = ["whole pictures"]
        if self.tile is not None:
            height, width = self.tile
            parts = [f"tiles of {height}x{width} that share {100 * self.overlap:g} %"]
        if self.scales != (1.0,):
            named = ", ".join(f"{scale:g}" for scale in self.scales)
            parts.append(f"at scale{'s' * (len(self.scales) > 1)} {named}")
        if self.flip:
            parts.append("mirrored too")
        return ", ".join(parts)


WHOLE = Views()


def blend(model: BaseSegmenter, pictures: Tensor, views: Views, *, stages: bool) -> list[Tensor]:
    """Segment a batch by several views.

    The sums are held at the pictures' size: 4 bytes for every class and pixel, of the final stage
    or, with `stages`, of each. The network itself never sees more than a tile.

    Args:
        model: Any segmenter.
        pictures: (B, 3, H, W) float in [0, 1], on the model's device.
        views: How to look at them.
        stages: Whether P0 to Pn are wanted, or the final stage alone.

    Returns:
        (B, K, H, W) float32 probabilities of each stage, P0 to Pn; or of the final one alone.
    """
    H, W = pictures.shape[-2:]
    sums: list[Tensor] = []
    for scale in views.scales:
        size = (max(1, round(scale * H)), max(1, round(scale * W)))
        found = _in_tiles(model, _rescale(pictures, size), views, stages=stages)
        _add(sums, [resize(share, (H, W)) for share in found])
    return [total.div_(len(views.scales)) for total in sums]


def _rescale(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize as training does: antialiased where a picture shrinks."""
    if tuple(pictures.shape[-2:]) == size:
        return pictures
    return F.interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=True)


def _in_tiles(
    model: BaseSegmenter, pictures: Tensor, views: Views, *, stages: bool
) -> list[Tensor]:
    """Probabilities (B, K, H, W) of each stage at the size of `pictures`, blended over tiles."""
    whole: list[Tensor] = []
    for rows, shares in bands(model, pictures, views, stages=stages):
        for stage, share in enumerate(shares):
            if stage == len(whole):
                whole.append(share.new_empty(*share.shape[:2], *pictures.shape[-2:]))
            whole[stage][..., rows, :] = share
    return whole


def bands(
    model: BaseSegmenter, pictures: Tensor, views: Views, *, stages: bool
) -> Iterator[tuple[slice, list[Tensor]]]:
    """Segment a batch in tiles from top to bottom, at its own size.

    The sums are held for one row of tiles, however high the picture is.

    Args:
        model: Any segmenter.
        pictures: (B, 3, H, W) float in [0, 1] or uint8, on the model's device.
        views: How to look at them; the scales are not looked at here.
        stages: Whether P0 to Pn are wanted, or the final stage alone.

    Yields:
        The rows that no later tile covers, and (B, K, rows, W) float32 probabilities of each stage
        there. They are views of the sums: done with before the next ones are asked for.
    """
    H, W = pictures.shape[-2:]
    height, width = (H, W) if views.tile is None else (min(views.tile[0], H), min(views.tile[1], W))
    weight = _hann(height, pictures.device)[:, None] * _hann(width, pictures.device)
    weights = weight.new_zeros(height, W)
    sums: list[Tensor] = []
    tops = tile_starts(H, height, views.overlap)
    for top, end in zip(tops, [*tops[1:], H], strict=True):
        for left in tile_starts(W, width, views.overlap):
            cols = slice(left, left + width)
            weights[:, cols] += weight
            tile = _unit(pictures[..., top : top + height, cols])
            for stage, share in enumerate(_look(model, tile, views, stages)):
                if stage == len(sums):
                    sums.append(share.new_zeros(*share.shape[:2], height, W))
                sums[stage][..., cols] += share.mul_(weight)
        done = end - top
        yield slice(top, end), [total[..., :done, :].div_(weights[:done]) for total in sums]
        for total in (weights, *sums):
            _move_up(total, done)


def _move_up(total: Tensor, rows: int) -> None:
    """Drop the first rows of sums (..., height, W), and begin as many at the end."""
    height = total.shape[-2]
    for row in range(height - rows):  # one at a time: source and target may overlap
        total[..., row, :] = total[..., row + rows, :]
    total[..., height - rows :, :] = 0


def _unit(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1]."""
    return pictures if pictures.is_floating_point() else pictures.float() / 255


def _look(model: BaseSegmenter, pictures: Tensor, views: Views, stages: bool) -> Iterator[Tensor]:
    """Probabilities of each stage, from one run of the network; with `flip`, two, averaged."""
    size = pictures.shape[-2:]
    seen = _logits(model, pictures, stages)
    mirrored = _logits(model, pictures.flip(-1), stages) if views.flip else []
    for stage, logits in enumerate(seen):  # one stage at full size at a time
        share = model.upsample(logits, size).float().softmax(dim=1)
        if mirrored:
            other = model.upsample(mirrored[stage], size).float().softmax(dim=1)
            share = share.add_(other.flip(-1)).div_(2)
        yield share


def _logits(model: BaseSegmenter, pictures: Tensor, stages: bool) -> list[Tensor]:
    """(B, K, h, w) logits of P0 to Pn, each at its own stride; or of the final one alone."""
    output = model(pictures, stages=True)
    found = [output.coarse, *output.stages]
    return found if stages else found[-1:]


def _add(sums: list[Tensor], parts: list[Tensor]) -> None:
    if not sums:
        sums += parts
        return
    for total, part in zip(sums, parts, strict=True):
        total.add_(part)


def tile_starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where tiles start along an axis: the last one ends at its end, so all are of one length.

    Args:
        length: Pixels along the axis.
        tile: Pixels along a tile, at most `length`.
        overlap: Least share of a tile that the next one covers too, in [0, 1).
    """
    step = max(1, int(tile * (1 - overlap)))
    return [*range(0, length - tile, step), length - tile]


def _hann(length: int, device: torch.device) -> Tensor:
    """(length,) weights: 1 in the middle, falling to nearly 0, but never to it, at both ends."""
    centres = torch.arange(length, device=device, dtype=torch.float32) + 0.5
    return torch.sin(torch.pi * centres / length).square()
