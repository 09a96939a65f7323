"""PointRend's own loss: the cross-entropy at the points it has drawn (its paper, section 3.2)."""

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from pna.labels import IGNORE_INDEX
from pna.model.rivals.points import sample_labels


def point_losses(aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """Mean cross-entropy over the points whose pixel isn't ignored; 0 (with a graph) without any.

    Args:
        aux: "points" (B, P, 2), and "point_logits" (B, K, P) there.
        labels: (B, H, W) int64 of the padded pictures, 255 ignored.
    """
    logits, found = aux["point_logits"], sample_labels(labels, aux["points"])
    total = F.cross_entropy(logits, found, ignore_index=IGNORE_INDEX, reduction="sum")
    return {"points": total / (found != IGNORE_INDEX).sum().clamp(min=1)}
