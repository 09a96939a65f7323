"""Concrete damage (MDMCS): thin cracks, bare rebar, corrosion, spalling, 1080x720, colour masks.

"HRCDS", Mendeley Data 6x4dzzrs2h, CC BY 4.0, doi 10.17632/6x4dzzrs2h.2.
"""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pna.data.dataset import SegmentationDataset
from pna.data.pairs import Pair, match_pairs
from pna.data.reading import read_color_mask
from pna.labels import DAMAGE

TEST_EVERY = 4  # the owners name no split: every fourth picture by name is for testing


class ConcreteDamage(SegmentationDataset):
    """Concrete damage: `images/` and `masks/`, the colours of the masks are exact.

    Args:
        root: The folder that holds `images` and `masks`.
        split: `test` is every fourth picture by sorted name (0, 4, 8, ...), `train` the others.

    Raises:
        DataError: If a folder or a partner is missing.
    """

    splits: ClassVar = ("train", "test")

    def __init__(self, root: str | Path, split: Literal["train", "test"] = "train") -> None:
        self.check_split(split)
        pairs = match_pairs(Path(root) / "images", Path(root) / "masks")
        is_test = split == "test"
        chosen = [pair for i, pair in enumerate(pairs) if (i % TEST_EVERY == 0) == is_test]
        super().__init__(chosen, DAMAGE)

    def read_labels(self, pair: Pair) -> NDArray[np.integer]:
        """Reads the colour mask of a pair as class indices (H, W)."""
        return read_color_mask(pair.mask, self.labels)
