"""CamVid in the layout of the SegNet tutorial: 11 classes, 480x360.

G. Brostow et al., "Semantic object classes in video", Pattern Recognition Letters 2009.
"""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pna.data.dataset import SegmentationDataset
from pna.data.pairs import Pair, match_pairs
from pna.data.reading import read_index_mask
from pna.labels import CAMVID, IGNORE_INDEX

UNLABELED = 11  # the index that stands for "no class" in this layout's masks


class CamVid(SegmentationDataset):
    """CamVid: streets seen from a car; `train/` has its masks in `trainannot/`, and so on.

    Args:
        root: The folder that holds `train`, `trainannot`, ...
        split: Which of the three parts of the drive to read.

    Raises:
        DataError: If a folder or a partner is missing.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data.synthetic import write_camvid
        >>> dataset = CamVid(write_camvid(mkdtemp()), "val")
        >>> len(dataset), dataset.labels.name
        (2, 'camvid')
    """

    splits: ClassVar = ("train", "val", "test")
    # As published with SegNet; CamVid itself has 701 labeled frames: 367 + 101 + 233.
    counts: ClassVar = {"train": 367, "val": 101, "test": 233}

    def __init__(self, root: str | Path, split: Literal["train", "val", "test"] = "train") -> None:
        self.check_split(split)
        super().__init__(match_pairs(Path(root) / split, Path(root) / f"{split}annot"), CAMVID)

    def read_mask(self, pair: Pair) -> NDArray[np.integer]:
        """Read the mask of a pair (H, W); unlabeled pixels are ignored."""
        labels = read_index_mask(pair.mask)
        labels[labels == UNLABELED] = IGNORE_INDEX
        return labels
