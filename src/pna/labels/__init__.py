"""Label spaces: names, colors and scored classes of a data set.

`space` holds the type, `known` the label spaces of the known data sets, `files` reads others from
JSON or CVAT's `labelmap.txt`. Importing it loads the standard library alone: the model needs it.
"""

from pna.labels.files import read_label_space
from pna.labels.known import (
    CAMVID,
    CITYSCAPES,
    COCO_STUFF,
    DAMAGE,
    DEEPGLOBE,
    LABEL_SPACES,
    TRANS10K,
    VOC,
)
from pna.labels.space import (
    IGNORE_COLOR,
    IGNORE_INDEX,
    Color,
    LabelSpace,
    choose_labels,
    generic,
    out_of_range,
    read_color,
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
    "choose_labels",
    "generic",
    "out_of_range",
    "read_color",
    "read_label_space",
    "voc_color",
]
