"""COCO-Stuff 10k, version 1.1, in the owners' layout: 171 classes, MATLAB files.

H. Caesar, J. Uijlings, V. Ferrari, "COCO-Stuff: Thing and Stuff Classes in Context", CVPR 2018;
format and labels: github.com/nightrome/cocostuff10k.
"""

from pathlib import Path
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pna.data.dataset import SegmentationDataset
from pna.data.mat import read_mat_mask, require_scipy
from pna.data.pairs import Endings, Pair, match_pairs, read_list
from pna.data.reading import translate
from pna.labels import COCO_STUFF, IGNORE_INDEX
from pna.labels.coco_stuff import OWNERS_LABELS

UNLABELED = 0
LABELS: Final = {UNLABELED: IGNORE_INDEX} | {
    label: index for index, label in enumerate(OWNERS_LABELS)
}

ENDINGS: Final = Endings(".jpg", ".mat")


class CocoStuff10k(SegmentationDataset):
    """COCO-Stuff 10k: things and stuff in everyday images, every pixel labeled.

    Args:
        root: The folder that holds `images`, `annotations` and `imageLists`.
        split: Which list under `imageLists` to read.

    Raises:
        DataError: If scipy, a folder, the list, or a listed image or mask is missing.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data.synthetic import write_cocostuff10k
        >>> dataset = CocoStuff10k(write_cocostuff10k(mkdtemp()), "test")
        >>> len(dataset), dataset.labels.name
        (2, 'cocostuff10k')
    """

    splits: ClassVar = ("train", "test")
    counts: ClassVar = {"train": 9000, "test": 1000}

    def __init__(self, root: str | Path, split: Literal["train", "test"] = "train") -> None:
        self.check_split(split)
        require_scipy("COCO-Stuff 10k")  # now, not at the first of 9000 masks
        home = Path(root)
        stems = read_list(home / "imageLists" / f"{split}.txt")
        super().__init__(
            match_pairs(home / "images", home / "annotations", stems, endings=ENDINGS), COCO_STUFF
        )

    def read_mask(self, pair: Pair) -> NDArray[np.integer]:
        """Read the owners' labels of a pair as classes 0..170 (H, W); unlabeled is ignored."""
        return translate(read_mat_mask(pair.mask, "S"), LABELS, pair.mask, what="labels")
