"""Cityscapes, in the owners' layout: streets seen from a car, 2048x1024, 19 classes scored.

M. Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016; label
ids and train ids: github.com/mcordts/cityscapesScripts, helpers/labels.py.
"""

from pathlib import Path
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pna.data.dataset import SegmentationDataset
from pna.data.errors import DataError
from pna.data.pairs import Endings, Pair, existing_folder, match_pairs
from pna.data.reading import read_index_mask, translate
from pna.labels import CITYSCAPES, IGNORE_INDEX

NUM_LABEL_IDS = 34
# The label id of each class; the other ids (static, parking, caravan, ...) are not scored.
TRAIN_IDS: Final = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
LABELS: Final = dict.fromkeys(range(NUM_LABEL_IDS), IGNORE_INDEX) | {
    label_id: train_id for train_id, label_id in enumerate(TRAIN_IDS)
}

ENDINGS: Final = Endings("_leftImg8bit.png", "_gtFine_labelIds.png")


class Cityscapes(SegmentationDataset):
    """Cityscapes: `leftImg8bit/SPLIT/CITY/` and `gtFine/SPLIT/CITY/`, masks of label ids.

    Args:
        root: The folder that holds `leftImg8bit` and `gtFine`.
        split: Which part; the labels of `test` are withheld, its masks hold nothing that is scored.

    Raises:
        DataError: If a folder or a partner is missing.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data.synthetic import write_cityscapes
        >>> dataset = Cityscapes(write_cityscapes(mkdtemp()), "val")
        >>> len(dataset), dataset.labels.name
        (2, 'cityscapes')
    """

    splits: ClassVar = ("train", "val", "test")
    counts: ClassVar = {"train": 2975, "val": 500, "test": 1525}
    withheld: ClassVar = ("test",)  # scored by the benchmark's server alone

    def __init__(self, root: str | Path, split: Literal["train", "val", "test"] = "train") -> None:
        self.check_split(split)
        images, masks = Path(root) / "leftImg8bit" / split, Path(root) / "gtFine" / split
        # A city in one of the two folders only is kept: `match_pairs` then names its partner.
        folders = [
            *existing_folder(images, needed_for="a folder of images for each city").iterdir(),
            *existing_folder(masks, needed_for="a folder of masks for each city").iterdir(),
        ]
        cities = sorted({folder.name for folder in folders if folder.is_dir()})
        if not cities:
            raise DataError(f"no folder of a city in {images} and {masks}; unpack both archives")
        super().__init__(
            [
                pair
                for city in cities
                for pair in match_pairs(images / city, masks / city, endings=ENDINGS)
            ],
            CITYSCAPES,
        )

    def read_mask(self, pair: Pair) -> NDArray[np.integer]:
        """Read the label ids of a pair as train ids (H, W)."""
        return translate(read_index_mask(pair.mask), LABELS, pair.mask, what="label ids")
