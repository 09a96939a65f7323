"""Coarse heads: encoder features in, the logits P0 that PNA refines out.

Every head is made as ``Head(in_channels, num_classes, ...)`` from the channels of all encoder
levels, fine to coarse, and maps the list of features to (B, K, h, w) logits at its own stride.

Where a refiner looks at what a head makes on its way to the logits, that is a neck, which both look
at: a feature pyramid before semantic FPN, atrous pooling before the classifier of DeepLabV3.
"""

from pna.model.coarse.deeplab import (
    AtrousNeck,
    DeepLabV3Head,
    DeepLabV3PlusHead,
    LastLevelHead,
)
from pna.model.coarse.fapn import FaPNHead
from pna.model.coarse.fcn import FCNHead
from pna.model.coarse.fpn import FeaturePyramid, SemanticFPNHead
from pna.model.coarse.psp import PSPHead
from pna.model.coarse.upernet import UPerHead

__all__ = [
    "AtrousNeck",
    "DeepLabV3Head",
    "DeepLabV3PlusHead",
    "FCNHead",
    "FaPNHead",
    "FeaturePyramid",
    "LastLevelHead",
    "PSPHead",
    "SemanticFPNHead",
    "UPerHead",
]
