"""Data: images with labels, from disk to batches.

One file per data set, all alike; `create_dataset` makes one by name.
"""

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pna.bands import Band
from pna.data.camvid import CamVid
from pna.data.cityscapes import Cityscapes
from pna.data.cocostuff import CocoStuff10k
from pna.data.damage import ConcreteDamage
from pna.data.dataset import Batch, Sample, SegmentationDataset
from pna.data.deepglobe import DeepGlobe
from pna.data.errors import DataError, DataWarning
from pna.data.folder import Folder, MaskKind
from pna.data.pairs import Pair
from pna.data.trans10k import Trans10k
from pna.data.voc2012 import VOC2012
from pna.labels import Color, LabelSpace

if TYPE_CHECKING:
    from pna.data.augmented import Augmented
    from pna.data.loader import train_loader
    from pna.data.sampler import StepBatchSampler
    from pna.data.transforms import JointTransform, train_transform

__all__ = [
    "DATASETS",
    "VOC2012",
    "Augmented",
    "Batch",
    "CamVid",
    "Cityscapes",
    "CocoStuff10k",
    "ConcreteDamage",
    "DataError",
    "DataWarning",
    "DeepGlobe",
    "Folder",
    "JointTransform",
    "Pair",
    "Sample",
    "SegmentationDataset",
    "StepBatchSampler",
    "Trans10k",
    "create_dataset",
    "train_loader",
    "train_transform",
]

# Training alone needs torchvision, which takes longer to import than all else here.
_FOR_TRAINING: Final = {
    "Augmented": "pna.data.augmented",
    "JointTransform": "pna.data.transforms",
    "StepBatchSampler": "pna.data.sampler",
    "train_loader": "pna.data.loader",
    "train_transform": "pna.data.transforms",
}


# Names are imported when they are first read (PEP 562).
def __getattr__(name: str) -> Any:
    if name in _FOR_TRAINING:
        return getattr(importlib.import_module(_FOR_TRAINING[name]), name)
    raise AttributeError(f"module 'pna.data' has no attribute {name!r}")


DATASETS: Final[dict[str, type[SegmentationDataset]]] = {
    "voc2012": VOC2012,
    "cityscapes": Cityscapes,
    "cocostuff10k": CocoStuff10k,
    "deepglobe": DeepGlobe,
    "trans10k": Trans10k,
    "camvid": CamVid,
    "damage": ConcreteDamage,
    "folder": Folder,
}
"""Data sets by the name that the command line and recipes use."""


def create_dataset(
    name: str,
    root: str | Path,
    split: str | None = None,
    *,
    labels: LabelSpace | None = None,
    split_list: str | Path | None = None,
    ratio: float | None = None,
    masks: MaskKind | None = None,
    ignore: int | Color | str | None = None,
    class_property: str | None = None,
    bands: Sequence[Band] | None = None,
) -> SegmentationDataset:
    """Make a data set by name.

    Args:
        name: A key of `DATASETS`.
        root: Its folder on disk.
        split: Which part; None takes the data set's default.
        labels: Only for `folder`, which needs it: the label space.
        split_list: Only for `folder`: a file with one stem a line.
        ratio: Only for `folder`: share of the pairs in `val`.
        masks: Only for `folder`: whether masks hold indices, colors or polygons.
        ignore: Only for `folder`: value or color of ignored pixels in the masks.
        class_property: Only for `folder`: the property of a polygon that holds its class.
        bands: Only for `folder`: the channels of the images, where they are not red, green and
            blue.

    Raises:
        DataError: If the name is unknown, an option does not belong to the data set, or the data
            set is not found as expected.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data.synthetic import write_voc
        >>> dataset = create_dataset("voc2012", write_voc(mkdtemp()), "val")
        >>> len(dataset), dataset.labels.num_classes
        (2, 21)
    """
    if name not in DATASETS:
        raise DataError(f"no data set {name!r}: expected one of {', '.join(DATASETS)}")
    given: dict[str, Any] = {
        "split": split,
        "labels": labels,
        "split_list": split_list,
        "ratio": ratio,
        "masks": masks,
        "ignore": ignore,
        "class_property": class_property,
        "bands": bands,
    }
    options = {key: value for key, value in given.items() if value is not None}
    foreign = sorted(options.keys() - {"split"})
    if name != "folder" and foreign:
        raise DataError(
            f"{', '.join(foreign)}: options of the data set 'folder' alone; leave them out for "
            f"{name!r}"
        )
    if name == "folder" and labels is None:
        raise DataError("the data set 'folder' needs labels: a LabelSpace that names its classes")
    create: Callable[..., SegmentationDataset] = DATASETS[name]
    return create(root, **options)
