"""Data: pictures with labels, from disk to batches.

One file per data set, all alike; `create_dataset` makes one by name.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from pna.data.augmented import Augmented
from pna.data.camvid import CamVid
from pna.data.cityscapes import Cityscapes
from pna.data.cocostuff import CocoStuff10k
from pna.data.damage import ConcreteDamage
from pna.data.dataset import Batch, Sample, SegmentationDataset
from pna.data.deepglobe import DeepGlobe
from pna.data.errors import DataError
from pna.data.folder import Folder
from pna.data.loader import train_loader
from pna.data.pairs import Pair
from pna.data.sampler import StepBatchSampler
from pna.data.trans10k import Trans10k
from pna.data.transforms import JointTransform, train_transform
from pna.data.voc2012 import VOC2012
from pna.labels import LabelSpace

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
    masks: Literal["index", "color"] | None = None,
    label_cache: str | Path | None = None,
) -> SegmentationDataset:
    """Makes a data set by name.

    Args:
        name: A key of `DATASETS`.
        root: Where it lies on disk.
        split: Which part; None takes the data set's default.
        labels: Only for `folder`, which needs it: what the labels mean.
        split_list: Only for `folder`: a file with one stem a line.
        ratio: Only for `folder`: share of the pairs in `val`.
        masks: Only for `folder`: whether masks hold indices or colours.
        label_cache: A folder to keep converted masks in, for the next time they are read.

    Raises:
        DataError: If the name is unknown, an option does not belong to the data set, or the data
            set is not found as expected.
    """
    if name not in DATASETS:
        raise DataError(f"no data set {name!r}: expected one of {', '.join(DATASETS)}")
    given: dict[str, Any] = {
        "split": split,
        "labels": labels,
        "split_list": split_list,
        "ratio": ratio,
        "masks": masks,
    }
    options = {key: value for key, value in given.items() if value is not None}
    foreign = sorted(options.keys() - {"split"})
    if name != "folder" and foreign:
        raise DataError(
            f"{', '.join(foreign)} belong to the data set 'folder'; {name!r} knows its own"
        )
    if name == "folder" and labels is None:
        raise DataError("the data set 'folder' needs labels: a LabelSpace that names its classes")
    create: Callable[..., SegmentationDataset] = DATASETS[name]
    dataset = create(root, **options)
    if label_cache is not None:
        dataset.cache_labels(label_cache)
    return dataset
