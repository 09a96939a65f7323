"""What the authors' configurations say, and the tensors of their checkpoints do not.

Facts by data set: classes, resizing between stages, image size at test, windows of DeepLabV3's
pooled branch. One branch trained VOC 2012 and COCO-Stuff 10k, the other one Cityscapes, DeepGlobe
and Trans10k; `docs/checkpoints.md` has the tables.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pna.labels import CITYSCAPES, COCO_STUFF, DEEPGLOBE, TRANS10K, VOC, LabelSpace
from pna.model.config import InferenceSize
from pna.model.resize import ResizeMode

DEEPGLOBE_7: Final = LabelSpace(
    name="deepglobe-7",
    classes=("unknown", *DEEPGLOBE.classes),
    colors=((0, 0, 0), *DEEPGLOBE.colors),
    scored=tuple(range(1, 7)),
)
"""DeepGlobe with an output for unknown land, which is never scored.

The order is a guess: the authors' list of names has "unknown" twice and no urban land.
"""


@dataclass(frozen=True)
class Published:
    """What the authors' configuration of a data set says.

    Attributes:
        labels: The classes.
        inference_size: Size of images at test.
        upsample: How predictions are resized between stages.
        pool_window: Windows of DeepLabV3's pooled branch, in cells: the crop of training by 16.
    """

    labels: LabelSpace
    inference_size: InferenceSize
    upsample: ResizeMode = "nearest"
    pool_window: tuple[int, int] | None = None


_MM_SIZE = InferenceSize(512, 2048)  # by OpenCV, which does not smooth
_D2_SIZE = InferenceSize(1024, 2048, antialias=True)  # by Pillow, which does

MM: Final[Mapping[str, Published]] = {
    "voc2012": Published(VOC, _MM_SIZE),
    "cocostuff10k": Published(COCO_STUFF, _MM_SIZE),
}
"""Of the mmsegmentation branch."""

D2: Final[Mapping[str, Published]] = {
    "cityscapes": Published(CITYSCAPES, _D2_SIZE, pool_window=(32, 64)),
    "deepglobe": Published(DEEPGLOBE_7, _D2_SIZE),
    "trans10k": Published(TRANS10K, InferenceSize(512, 2048, antialias=True), "bilinear"),
}
"""Of the detectron2 branch."""
