"""Losses of refiners that need more than a cross-entropy on their predictions."""

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

from pna.labels import IGNORE_INDEX
from pna.model.refiner import OwnLoss
from pna.model.segmenter import Segmenter

# From what the refiner has put into `aux` and the labels (B, H, W) of the padded pictures, ignored
# in the padding, to means over this batch by name, 0 (with a graph) where nothing is valid.
OwnLosses = Callable[[Mapping[str, Tensor], Tensor], dict[str, Tensor]]

_LOSSES: dict[OwnLoss, OwnLosses] = {}


def find_own_losses(model: Segmenter) -> OwnLosses | None:
    """The losses that a model's refiner names, for labels at the pictures' size; None without."""
    if model.refiner is None or model.refiner.own_loss is None:
        return None
    losses = _LOSSES[model.refiner.own_loss]

    def on_pictures(aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        H, W = labels.shape[-2:]
        height, width = model.padded_size((H, W))
        return losses(aux, F.pad(labels, (0, width - W, 0, height - H), value=IGNORE_INDEX))

    return on_pictures
