"""Label spaces: what the classes of a data set are called, drawn as, and which ones are scored.

`space` holds the type, `known` the label spaces of the known data sets. This box loads nothing but
the standard library: the model imports it.
"""

from pna.labels.known import (
    CAMVID,
    CITYSCAPES,
    COCO_STUFF,
    DAMAGE,
    DEEPGLOBE,
    LABEL_SPACES,
    TRANS10K,
    VOC,
    read_label_space,
)
from pna.labels.space import (
    IGNORE_COLOR,
    IGNORE_INDEX,
    Color,
    LabelSpace,
    generic,
    out_of_range,
    voc_color,
)

__all__ = [
    "CAMVID",
    "CITYSCAPES",
    "COCO_STUFF",
    "DAMAGE",
    "DEEPGLOBE",
    "IGNORE_COLOR",
    "IGNORE_INDEX",
    "LABEL_SPACES",
    "TRANS10K",
    "VOC",
    "Color",
    "LabelSpace",
    "generic",
    "out_of_range",
    "read_label_space",
    "voc_color",
]
