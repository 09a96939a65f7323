"""Coarse heads: encoder features in, the logits P0 that PNA refines out.

Every head is made as ``Head(in_channels, num_classes, ...)`` from the channels of all encoder
levels, fine to coarse, and maps the list of features to (B, K, h, w) logits at its own stride.
"""

from pna.model.coarse.deeplab import DeepLabV3Head, DeepLabV3PlusHead
from pna.model.coarse.fapn import FaPNHead
from pna.model.coarse.fcn import FCNHead
from pna.model.coarse.fpn import SemanticFPNHead
from pna.model.coarse.psp import PSPHead
from pna.model.coarse.upernet import UPerHead

__all__ = [
    "DeepLabV3Head",
    "DeepLabV3PlusHead",
    "FCNHead",
    "FaPNHead",
    "PSPHead",
    "SemanticFPNHead",
    "UPerHead",
]
