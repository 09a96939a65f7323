"""SegFix: at boundaries, use the prediction of a pixel further inside.

Source: Yuan, Xie, Chen, Wang, "SegFix: Model-Agnostic Boundary Refinement for Segmentation" (ECCV
2020), section 3. Sizes, weights of the losses and the kernel for directions as in the authors'
code. Two branches predict which pixels lie at a boundary, and in which of eight directions the
inside of their region lies. The paper trains them in a separate network; here they share the
encoder of the segmentation.

For the losses, a region is a set of pixels with one label. Pixels without a label are a region too
(VOC labels boundaries that way), but do not count.
"""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pna.labels import IGNORE_INDEX, LabelSpace
from pna.model.coarse.fcn import FCNHead
from pna.model.coarse.layers import BatchNorm
from pna.model.config import ModelConfig
from pna.model.encoder import EncoderWeights
from pna.model.presets import allow_head_options, assemble, build_encoder, coarse_width
from pna.model.refiner import Refiner, RefinerOutput
from pna.model.resize import resize
from pna.model.segmenter import Segmenter

# (rows, columns) to the neighbor in direction k: k times 45 degrees, clockwise from the right.
DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))

BOUNDARY_WIDTH = 5
"""A pixel is at a boundary if another region is at most this far away, in pixels."""
_RADIUS = 2  # of the kernel that estimates the slope of the distances
_MAX_DISTANCE = BOUNDARY_WIDTH + math.ceil(_RADIUS * math.sqrt(2))  # no larger one is needed


class SegFix(Refiner):
    """Boundary and direction branches on all levels, and one stage at the image's own size.

    Levels are reduced to `channels` each, resized to the finest one and summed. This equals the
    paper's 1x1 convolution of their concatenation, for far fewer multiply-accumulates.

    Args:
        in_channels: Channels of each level of features, fine to coarse.
        channels: Width of each branch.
        step: Pixels from a pixel at a boundary to the one whose prediction it takes, along each
            axis.
    """

    def __init__(self, in_channels: Sequence[int], *, channels: int = 256, step: int = 2) -> None:
        super().__init__()
        self.step = step
        self.reduce = nn.ModuleList(
            nn.Conv2d(width, 2 * channels, 1, bias=False) for width in in_channels
        )
        self.norm = BatchNorm(2 * channels)
        self.boundary = nn.Conv2d(channels, 1, 1, bias=False)
        self.direction = nn.Conv2d(channels, len(DIRECTIONS), 1, bias=False)

    def forward(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> list[Tensor]:
        """Move the coarse logits at boundaries: P1 (B, K, H, W) at the size of the images."""
        assert images is not None
        boundary, direction = self.branches(features)
        size = images.shape[-2:]
        is_boundary = resize(boundary, size)[:, 0] > 0  # a probability above 1/2
        chosen = resize(direction, size).argmax(1)
        return [take_from_inside(resize(coarse, size), is_boundary, chosen, step=self.step)]

    def forward_training(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> RefinerOutput:
        """Return the branches' logits, "boundary" and "direction", in `aux`, and no stage."""
        boundary, direction = self.branches(features)
        return RefinerOutput([], {"boundary": boundary, "direction": direction})

    def losses(self, aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Compute cross-entropies: of the boundary, and of the direction at true boundaries.

        In both, a class weighs 1 minus its share of the pixels, as in the authors' code; there the
        direction counts where a boundary is predicted.
        """
        boundary, direction = (
            resize(aux[name], labels.shape[-2:]) for name in ("boundary", "direction")
        )
        distance = distance_to_boundary(labels)
        is_boundary, valid = distance <= BOUNDARY_WIDTH, labels != IGNORE_INDEX
        at_boundary = valid & is_boundary
        # (number of valid pixels,) and (number of those at a boundary,)
        classes, octants = is_boundary[valid], direction_inside(labels, distance)[at_boundary]
        logits = boundary[:, 0][valid]
        by_pixel = F.binary_cross_entropy_with_logits(
            logits, classes.to(logits.dtype), reduction="none"
        )
        by_direction = F.cross_entropy(
            direction.permute(0, 2, 3, 1)[at_boundary], octants, reduction="none"
        )
        return {
            "boundary": _balanced_mean(by_pixel, classes.long(), 2),
            "direction": _balanced_mean(by_direction, octants, len(DIRECTIONS)),
        }

    def branches(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return logits of boundary (B, 1, h, w) and direction (B, 8, h, w) at the finest size."""
        size = features[0].shape[-2:]
        reduced = [resize(reduce(x), size) for reduce, x in zip(self.reduce, features, strict=True)]
        summed: Tensor = sum(reduced[1:], start=reduced[0])
        for_boundary, for_direction = self.norm(summed).relu().chunk(2, 1)
        return self.boundary(for_boundary), self.direction(for_direction)


def take_from_inside(
    logits: Tensor, is_boundary: Tensor, direction: Tensor, *, step: int
) -> Tensor:
    """Replace the logits of each pixel at a boundary by those of a pixel in its direction.

    Args:
        logits: (B, K, H, W).
        is_boundary: (B, H, W) bool.
        direction: (B, H, W) int64, indices into `DIRECTIONS`.
        step: Distance of that pixel along each axis; it is clamped to the image.

    Returns:
        (B, K, H, W).
    """
    K, H, W = logits.shape[1:]
    offset = step * torch.tensor(DIRECTIONS, device=logits.device)[direction]  # (B, H, W, 2)
    offset = offset * is_boundary[..., None]  # pixels off the boundary take their own logits
    rows = (torch.arange(H, device=logits.device)[:, None] + offset[..., 0]).clamp(0, H - 1)
    columns = (torch.arange(W, device=logits.device) + offset[..., 1]).clamp(0, W - 1)
    source = (rows * W + columns).flatten(1)[:, None].expand(-1, K, -1)  # (B, K, H * W)
    return logits.flatten(2).gather(2, source).view_as(logits)


def distance_to_boundary(labels: Tensor, *, limit: int = _MAX_DISTANCE) -> Tensor:
    """Compute the Euclidean distance of every pixel to the nearest pixel of another label.

    Exact below the limit. Pixels outside of the image belong to no region.

    Args:
        labels: (B, H, W) integers from 0 to 255.
        limit: Largest distance of the result, in pixels.

    Returns:
        (B, H, W) float32, at least 1.
    """
    labels = labels.to(torch.uint8)
    # Separable, as the exact distance transform: first along the rows, ...
    in_row = torch.full(labels.shape, float(limit), device=labels.device)
    # From far to near, so that the nearest other pixel is written last.
    for step in range(limit - 1, 0, -1):
        differs = labels[..., step:] != labels[..., :-step]
        in_row[..., step:].masked_fill_(differs, step)
        in_row[..., :-step].masked_fill_(differs, step)
    squared = in_row.square()
    nearest = squared.clone()
    # ... then along the columns. The nearest other pixel of another row is the one straight above
    # or below; where that one has the same label, it is as far along that row as its own distance.
    for step in range(1, limit):
        same = labels[:, step:] == labels[:, :-step]
        below, above = slice(step, None), slice(None, -step)
        for here, there in ((below, above), (above, below)):
            candidate = squared[:, there] * same + step**2
            nearest[:, here] = torch.minimum(nearest[:, here], candidate)
    return nearest.sqrt()


def direction_inside(labels: Tensor, distance: Tensor) -> Tensor:
    """Return the direction in which the distance to the boundary grows fastest.

    The slope is estimated by a 5x5 kernel within a pixel's own region, as in the authors' code.

    Args:
        labels: (B, H, W) integers.
        distance: (B, H, W), of each pixel to its boundary.

    Returns:
        (B, H, W) int64, indices into `DIRECTIONS`.
    """
    H, W = labels.shape[-2:]
    both = torch.stack([distance, labels.to(distance.dtype)], 1)  # (B, 2, H, W)
    both = F.pad(both, (_RADIUS,) * 4, mode="replicate")  # regions continue outside of the image
    down, right = torch.zeros_like(distance), torch.zeros_like(distance)
    steps = range(-_RADIUS, _RADIUS + 1)
    for i, j in ((i, j) for i in steps for j in steps if (i, j) != (0, 0)):
        rows, columns = slice(_RADIUS + i, _RADIUS + i + H), slice(_RADIUS + j, _RADIUS + j + W)
        depth, other = both[:, :, rows, columns].unbind(1)
        depth = depth * (other == labels) / (i**2 + j**2)
        down += i * depth
        right += j * depth
    # Angle from the right, clockwise, since rows grow downward: in units of 45 degrees.
    octants = torch.atan2(down, right) / (math.pi / 4)
    return octants.round().long() % len(DIRECTIONS)


def _balanced_mean(losses: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Average over pixels (N,); a class weighs 1 minus its share, or 1 if it is the only one."""
    counts = classes.bincount(minlength=num_classes)
    weights = 1 - counts / counts.sum().clamp(min=1)
    weights = weights.masked_fill(counts == counts.sum(), 1.0).to(losses.dtype)[classes]
    return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(losses.dtype).tiny)


def build_fcn_segfix(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build an FCN refined by SegFix."""
    allow_head_options(config)
    encoder = build_encoder(config, weights)
    coarse = FCNHead(encoder.channels, labels.num_classes, **coarse_width(config))
    return assemble(config, labels, encoder, coarse, refiner=SegFix(encoder.channels))
