"""Concrete damage (MDMCS): thin cracks, bare rebar, corrosion, spalling, 1080x720, color masks.

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

TEST_EVERY = 4  # the owners name no split: every fourth image by name is for testing


class ConcreteDamage(SegmentationDataset):
    """Concrete damage: `images/` and `masks/`, the colors of the masks are exact.

    Args:
        root: The folder that holds `images` and `masks`.
        split: `test` is every fourth image by sorted name (0, 4, 8, ...), `train` the others.

    Raises:
        DataError: If a folder or a partner is missing.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data.synthetic import write_damage
        >>> dataset = ConcreteDamage(write_damage(mkdtemp()), "test")
        >>> len(dataset), dataset.labels.name
        (2, 'damage')
    """

    splits: ClassVar = ("train", "test")

    def __init__(self, root: str | Path, split: Literal["train", "test"] = "train") -> None:
        self.check_split(split)
        pairs = match_pairs(Path(root) / "images", Path(root) / "masks")
        is_test = split == "test"
        # By position in the sorted list: a missing pair, which is an error, would shift the rest.
        chosen = [pair for i, pair in enumerate(pairs) if (i % TEST_EVERY == 0) == is_test]
        super().__init__(chosen, DAMAGE)

    def read_mask(self, pair: Pair) -> NDArray[np.integer]:
        """Read the color mask of a pair as class indices (H, W)."""
        return read_color_mask(pair.mask, self.labels)
