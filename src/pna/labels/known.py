"""The label spaces of the known data sets."""

from typing import Final

from pna.labels.coco_stuff import OWNERS_LABELS, STUFF, THINGS
from pna.labels.space import LabelSpace, voc_color

VOC: Final = LabelSpace(
    name="voc2012",
    classes=(
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
        *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
        *("sheep", "sofa", "train", "tvmonitor"),
    ),
    colors=tuple(voc_color(index) for index in range(21)),
)
"""Pascal VOC 2012: 20 kinds of objects and background, all scored."""

CAMVID: Final = LabelSpace(
    name="camvid",
    classes=(
        *("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence"),
        *("car", "pedestrian", "bicyclist"),
    ),
    colors=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)
"""CamVid's usual 11 classes of a street seen from a car."""

DAMAGE: Final = LabelSpace(
    name="damage",
    classes=("background", "crack", "rebar", "corrosion", "spalling"),
    colors=((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 255, 255), (128, 128, 128)),
)
"""Concrete damage (MDMCS); the colors are those of the published masks."""

CITYSCAPES: Final = LabelSpace(
    name="cityscapes",
    classes=(
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light"),
        *("traffic sign", "vegetation", "terrain", "sky", "person", "rider", "car", "truck"),
        *("bus", "train", "motorcycle", "bicycle"),
    ),
    colors=(
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
)
"""The 19 classes of Cityscapes that its benchmark scores, in the order of the owners' train ids."""

COCO_STUFF: Final = LabelSpace(
    name="cocostuff10k",
    classes=(*THINGS, *STUFF),
    colors=tuple(voc_color(label) for label in OWNERS_LABELS),
)
"""COCO-Stuff: 80 things and 91 kinds of stuff; the colors are VOC's map at the owners' labels."""

DEEPGLOBE: Final = LabelSpace(
    name="deepglobe",
    classes=("urban", "agriculture", "rangeland", "forest", "water", "barren"),
    colors=(
        (0, 255, 255),
        (255, 255, 0),
        (255, 0, 255),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    ),
)
"""DeepGlobe land cover; the colors are those of the masks, whose black (unknown) is ignored."""

TRANS10K: Final = LabelSpace(
    name="trans10k",
    classes=("background", "things", "stuff"),
    colors=((0, 0, 0), (255, 0, 0), (255, 255, 255)),
    scored=(1, 2),
)
"""Trans10K: transparent things and stuff; the background is trained, but not in the mean."""

LABEL_SPACES: Final[dict[str, LabelSpace]] = {
    space.name: space
    for space in (VOC, CAMVID, DAMAGE, CITYSCAPES, COCO_STUFF, DEEPGLOBE, TRANS10K)
}
