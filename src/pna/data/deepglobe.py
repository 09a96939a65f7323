"""DeepGlobe land cover, in the owners' layout: satellite images, 2448x2448, 6 classes scored.

I. Demir et al., "DeepGlobe 2018: A Challenge to Parse the Earth through Satellite Images", CVPRW
2018. The owners published labels of their 803 training images only; `splits/` holds the division
that GLNet (W. Chen et al., CVPR 2019) and MagNet (C. Huynh et al., CVPR 2021) published and that
later papers keep to: github.com/VinAIResearch/MagNet, data/list/deepglobe.
"""

from pathlib import Path
from typing import ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pna.data.dataset import SegmentationDataset
from pna.data.errors import DataError
from pna.data.pairs import Endings, Pair, match_pairs, read_list
from pna.data.reading import read_colors, translate
from pna.labels import DEEPGLOBE, IGNORE_INDEX

THRESHOLD = 128  # the owners': the channels of a mask are not exactly 0 and 255
UNKNOWN = 0b000
# Red, green and blue as the bits of one number.
LABELS: Final = {
    UNKNOWN: IGNORE_INDEX,
    0b011: 0,  # cyan: urban
    0b110: 1,  # yellow: agriculture
    0b101: 2,  # magenta: rangeland
    0b010: 3,  # green: forest
    0b001: 4,  # blue: water
    0b111: 5,  # white: barren
}

ENDINGS: Final = Endings("_sat.jpg", "_mask.png")
LISTS: Final = Path(__file__).parent / "splits"


class DeepGlobe(SegmentationDataset):
    """DeepGlobe land cover: `ID_sat.jpg` and `ID_mask.png` side by side, color masks.

    Args:
        root: The folder of the images, or the one that holds it as `land-train` or `train`.
        split: Which part of the owners' training images; see above.

    Raises:
        DataError: If the images are not found, or one of the split or its mask is missing.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data.synthetic import write_deepglobe
        >>> dataset = DeepGlobe(write_deepglobe(mkdtemp(), splits=["test"]), "test")
        >>> len(dataset), dataset.labels.name
        (142, 'deepglobe')
    """

    splits: ClassVar = ("train", "val", "test")
    counts: ClassVar = {"train": 454, "val": 207, "test": 142}

    def __init__(self, root: str | Path, split: Literal["train", "val", "test"] = "train") -> None:
        self.check_split(split)
        # The archive's folder, or the one that it was unpacked in.
        folders = (Path(root), Path(root) / "land-train", Path(root) / "train")
        home = next((f for f in folders if any(f.glob(f"*{ENDINGS.image}"))), None)
        if home is None:
            raise DataError(
                f"no DeepGlobe land cover: looked for *{ENDINGS.image} in "
                f"{', '.join(map(str, folders))}; unpack land-train.zip and give the folder"
            )
        stems = read_list(LISTS / f"deepglobe_{split}.txt")
        super().__init__(match_pairs(home, home, stems, endings=ENDINGS), DEEPGLOBE)

    def read_mask(self, pair: Pair) -> NDArray[np.integer]:
        """Read the color mask of a pair as classes (H, W); black, for unknown, is ignored."""
        # Three bits a pixel: every mixture of full channels is a class, or unknown.
        bright = (read_colors(pair.mask) >= THRESHOLD).view(np.uint8)
        # (H, W, 3) of 0 and 1 to (H, W) of 0..7.
        codes = bright[..., 0] << 2 | bright[..., 1] << 1 | bright[..., 2]
        return translate(codes, LABELS, pair.mask, what="colors (4 red + 2 green + 1 blue)")
