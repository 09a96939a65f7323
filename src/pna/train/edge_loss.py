"""EBLNet's own losses: edges against the labels' boundary, bodies against the labels beside it.

Source: He et al., "Enhanced Boundary Learning for Glass-like Object Segmentation" (ICCV 2021),
section 3.4. The dice loss, its weight of 3 and a boundary 8 pixels wide are the authors' released
code's (hehao13/EBLNet). That draws the outlines of all that isn't class 0; here a boundary is
wherever two classes meet.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pna.labels import IGNORE_INDEX
from pna.model.resize import resize

RADIUS = 4  # pixels on each side of a boundary
EDGE_WEIGHT = 3.0


def edge_losses(aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Losses of all stages, summed; 0 (with a graph) where nothing is valid.

    Args:
        aux: "edges" (B, n, h, w), a logit for each of n stages, and "bodies" (B, n, K, h, w).
        labels: (B, H, W) int64 of the padded pictures, 255 ignored.

    Returns:
        "edges", weighted by 3 against "bodies".
    """
    edge = is_boundary(labels)
    valid = labels != IGNORE_INDEX
    beside = labels.masked_fill(edge, IGNORE_INDEX)
    probability = resize(aux["edges"], labels.shape[-2:]).sigmoid()
    edges = [dice(stage, edge, valid) for stage in probability.unbind(1)]
    bodies = [_cross_entropy(body, beside) for body in aux["bodies"].unbind(1)]
    return {"edges": EDGE_WEIGHT * torch.stack(edges).sum(), "bodies": torch.stack(bodies).sum()}


def is_boundary(labels: Tensor, *, radius: int = RADIUS) -> Tensor:
    """Which pixels have another class nearby: a band of twice the radius along each boundary.

    Args:
        labels: (B, H, W) int64, 255 ignored: such a pixel is no boundary and makes none.
        radius: How near, in pixels along either axis.

    Returns:
        (B, H, W) bool.
    """
    ignored = labels == IGNORE_INDEX
    classes = labels.float()  # pooling knows no integers
    highest = _highest(classes.masked_fill(ignored, -1.0), radius)
    lowest = -_highest(-classes, radius)  # 255, ignored, is above all classes
    return (highest != lowest) & ~ignored


def _highest(x: Tensor, radius: int) -> Tensor:
    """The largest of a square of pixels around each one, as far as it lies in the map."""
    side = 2 * radius + 1
    rows = F.max_pool2d(x, (1, side), stride=1, padding=(0, radius))
    return F.max_pool2d(rows, (side, 1), stride=1, padding=(radius, 0))


def dice(probability: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Dice loss with squares in the denominator, smoothed by 1; the mean over pictures.

    Args:
        probability: (B, H, W).
        target: (B, H, W) bool.
        valid: (B, H, W) bool: which pixels count.
    """
    p, t = (probability * valid).flatten(1), (target & valid).float().flatten(1)
    overlap = 2 * (p * t).sum(1) + 1
    return (1 - overlap / (p.square().sum(1) + t.sum(1) + 1)).mean()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    full = resize(logits, labels.shape[-2:])
    total = F.cross_entropy(full, labels, ignore_index=IGNORE_INDEX, reduction="sum")
    return total / (labels != IGNORE_INDEX).sum().clamp(min=1)
