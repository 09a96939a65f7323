"""SegFix's losses: is this pixel at a boundary, and in which direction lies the inside?

Source: Yuan, Xie, Chen, Wang, "SegFix: Model-Agnostic Boundary Refinement for Segmentation" (ECCV
2020), section 3, and the authors' code for widths, kernel and weights. A region is what carries
one label; pixels without a label are a region too (VOC hides its boundaries under them), but are
not scored.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pna.labels import IGNORE_INDEX
from pna.model.resize import resize
from pna.model.rivals.segfix import DIRECTIONS

WIDTH = 5
"""A pixel is at a boundary if another region is no further away than this, in pixels."""
_REACH = 2  # of the kernel that takes the slope of the distances
_LIMIT = WIDTH + math.ceil(_REACH * math.sqrt(2))  # so far are distances needed


def segfix_losses(aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Binary cross-entropy of the boundary, cross-entropy of the direction at true boundaries.

    In both, a class weighs 1 minus its share of the pixels, as in the authors' code; there the
    direction is scored where a boundary is predicted.

    Args:
        aux: Logits "boundary" (B, 1, h, w) and "direction" (B, 8, h, w).
        labels: (B, H, W) int64, 255 ignored.

    Returns:
        "boundary" and "direction", each 0 (with a graph) where nothing is valid.
    """
    boundary, direction = (_full_size(aux[name], labels) for name in ("boundary", "direction"))
    distance = distance_to_boundary(labels)
    is_boundary, valid = distance <= WIDTH, labels != IGNORE_INDEX
    at_boundary = valid & is_boundary
    is_true, truth = is_boundary[valid], direction_inside(labels, distance)[at_boundary]
    score = boundary[:, 0][valid]
    missed = F.binary_cross_entropy_with_logits(score, is_true.to(score.dtype), reduction="none")
    wrong = F.cross_entropy(direction.permute(0, 2, 3, 1)[at_boundary], truth, reduction="none")
    return {
        "boundary": _weighted_mean(missed, is_true.long(), 2),
        "direction": _weighted_mean(wrong, truth, len(DIRECTIONS)),
    }


def distance_to_boundary(labels: Tensor, *, limit: int = _LIMIT) -> Tensor:
    """Euclidean distance of every pixel to the nearest pixel of another label.

    Exact below the limit. What lies outside of the picture belongs to no region.

    Args:
        labels: (B, H, W) integers from 0 to 255.
        limit: Largest distance of the result, in pixels.

    Returns:
        (B, H, W) float32, at least 1.
    """
    labels = labels.to(torch.uint8)
    across = torch.full(labels.shape, float(limit), device=labels.device)  # along the row alone
    for step in range(limit - 1, 0, -1):
        differs = labels[..., step:] != labels[..., :-step]
        across[..., step:].masked_fill_(differs, step)
        across[..., :-step].masked_fill_(differs, step)
    squared = across.square()
    nearest = squared.clone()
    # In another row, the nearest one lies right there or, where the label is the same, across it.
    for step in range(1, limit):
        same = labels[:, step:] == labels[:, :-step]
        below, above = slice(step, None), slice(None, -step)
        for here, there in ((below, above), (above, below)):
            found = squared[:, there] * same + step**2
            nearest[:, here] = torch.minimum(nearest[:, here], found)
    return nearest.sqrt()


def direction_inside(labels: Tensor, distance: Tensor) -> Tensor:
    """Which of `DIRECTIONS` is nearest to the slope of the distances, away from the boundary.

    The slope is taken by a 5x5 kernel within a pixel's own region, as in the authors' code.

    Args:
        labels: (B, H, W) integers.
        distance: (B, H, W), of each pixel to its boundary.

    Returns:
        (B, H, W) int64, places in `DIRECTIONS`.
    """
    H, W = labels.shape[-2:]
    both = torch.stack([distance, labels.to(distance.dtype)], 1)
    both = F.pad(both, (_REACH,) * 4, mode="replicate")  # the regions go on outside
    down, right = torch.zeros_like(distance), torch.zeros_like(distance)
    steps = range(-_REACH, _REACH + 1)
    for i, j in ((i, j) for i in steps for j in steps if (i, j) != (0, 0)):
        rows, columns = slice(_REACH + i, _REACH + i + H), slice(_REACH + j, _REACH + j + W)
        depth, other = both[:, :, rows, columns].unbind(1)
        depth = depth * (other == labels) / (i**2 + j**2)
        down += i * depth
        right += j * depth
    octants = torch.atan2(down, right) / (math.pi / 4)
    return octants.round().long() % len(DIRECTIONS)


def _full_size(logits: Tensor, labels: Tensor) -> Tensor:
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return resize(logits, labels.shape[-2:])


def _weighted_mean(losses: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Mean over pixels (N,) in which a class weighs 1 minus its share, or 1 where it is alone."""
    counts = classes.bincount(minlength=num_classes)
    weights = 1 - counts / counts.sum().clamp(min=1)
    weights = weights.masked_fill(counts == counts.sum(), 1.0).to(losses.dtype)[classes]
    return (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(losses.dtype).tiny)
