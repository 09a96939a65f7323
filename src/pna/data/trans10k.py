"""Trans10K (version 1), in the owners' layout: transparent things and stuff in the wild.

E. Xie et al., "Segmenting Transparent Objects in the Wild", ECCV 2020; layout and coding of the
masks: github.com/xieenze/Segment_Transparent_Objects.
"""

from pathlib import Path
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pna.data.dataset import SegmentationDataset
from pna.data.errors import DataError
from pna.data.pairs import Endings, Pair, match_pairs
from pna.data.reading import read_colors, translate
from pna.labels import TRANS10K

# As the owners read a mask: black is background, one full channel a thing, all three stuff.
LABELS: Final = {0: 0, 255: 1, 3 * 255: 2}

ENDINGS: Final = Endings(".jpg", "_mask.png")

Split = Literal["train", "val", "val-easy", "val-hard", "test", "test-easy", "test-hard"]


class Trans10k(SegmentationDataset):
    """Trans10K: `train/`, `validation/` and `test/`, the last two in `easy/` and `hard/`.

    Args:
        root: The folder that holds `train`, `validation` and `test`.
        split: Which part; `val` and `test` are easy and hard together.

    Raises:
        DataError: If a folder or a partner is missing.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data.synthetic import write_trans10k
        >>> dataset = Trans10k(write_trans10k(mkdtemp()), "val")
        >>> len(dataset), dataset.labels.name
        (3, 'trans10k')
    """

    splits: ClassVar = ("train", "val", "val-easy", "val-hard", "test", "test-easy", "test-hard")
    counts: ClassVar = {"train": 5000, "val": 1000, "test": 4428}

    def __init__(self, root: str | Path, split: Split = "train") -> None:
        self.check_split(split)
        super().__init__(
            [
                pair
                for folder in _folders(Path(root), split)
                for pair in match_pairs(folder / "images", folder / "masks", endings=ENDINGS)
            ],
            TRANS10K,
        )

    def read_mask(self, pair: Pair) -> NDArray[np.integer]:
        """Read the colors of a pair's mask as background, things and stuff (H, W)."""
        # The sum is enough: which channel of a "thing" is full has no meaning.
        sums = read_colors(pair.mask).sum(axis=-1, dtype=np.uint16)
        return translate(sums, LABELS, pair.mask, what="sums of red, green and blue")


def _folders(root: Path, split: str) -> list[Path]:
    """Find the folders with `images` and `masks` that make up a split."""
    part, _, difficulty = split.partition("-")
    home = root / {"val": "validation"}.get(part, part)
    if difficulty:
        return [home / difficulty]
    if (home / "images").is_dir():  # the training images have no easy and hard part
        return [home]
    folders = [home / "easy", home / "hard"]
    if not any(folder.is_dir() for folder in folders):
        raise DataError(
            f"no split {split!r}: expected {home} to hold images and masks, or easy and hard"
        )
    return folders
