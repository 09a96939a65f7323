"""Losses of refiners that need more than a cross-entropy on their predictions."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from pna.labels import IGNORE_INDEX
from pna.model.refiner import OwnLoss
from pna.model.segmenter import BaseSegmenter
from pna.train.edge_loss import edge_losses
from pna.train.point_loss import point_losses
from pna.train.segfix_loss import segfix_losses

# From what the refiner has put into `aux`, in float32 at least, and the labels (B, H, W) of the
# padded pictures, ignored in the padding, to means over this batch by name, 0 (with a graph) where
# nothing is valid.
OwnLosses = Callable[[Mapping[str, Tensor], Tensor], dict[str, Tensor]]

_LOSSES: dict[OwnLoss, OwnLosses] = {
    "edges": edge_losses,
    "points": point_losses,
    "segfix": segfix_losses,
}


def find_own_losses(model: BaseSegmenter) -> OwnLosses | None:
    """The losses that a model's refiner names, for labels at the pictures' size; None without."""
    if model.refiner is None or model.refiner.own_loss is None:
        return None
    losses = _LOSSES[model.refiner.own_loss]

    def on_pictures(aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        H, W = labels.shape[-2:]
        height, width = model.padded_size((H, W))
        padded = F.pad(labels, (0, width - W, 0, height - H), value=IGNORE_INDEX)
        precise = {k: x.to(torch.promote_types(x.dtype, torch.float32)) for k, x in aux.items()}
        return losses(precise, padded)

    return on_pictures
