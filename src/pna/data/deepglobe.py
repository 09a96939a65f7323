"""DeepGlobe land cover, in the owners' layout: satellite pictures, 2448x2448, 6 classes scored.

I. Demir et al., "DeepGlobe 2018: A Challenge to Parse the Earth through Satellite Images", CVPRW
2018. The owners published labels of their 803 training pictures only; `splits/` holds the division
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
    0b011: 0,
    0b110: 1,
    0b101: 2,
    0b010: 3,
    0b001: 4,
    0b111: 5,
}

ENDINGS: Final = Endings("_sat.jpg", "_mask.png")
LISTS: Final = Path(__file__).parent / "splits"


class DeepGlobe(SegmentationDataset):
    """DeepGlobe land cover: `ID_sat.jpg` and `ID_mask.png` side by side, colour masks.

    Args:
        root: The folder of the pictures, or the one that holds it as `land-train` or `train`.
        split: Which part of the owners' training pictures; see above.

    Raises:
        DataError: If the pictures are not found, or one of the split or its mask is missing.
    """

    splits: ClassVar = ("train", "val", "test")
    counts: ClassVar = {"train": 454, "val": 207, "test": 142}

    def __init__(self, root: str | Path, split: Literal["train", "val", "test"] = "train") -> None:
        self.check_split(split)
        home = _find_pictures(Path(root))
        stems = read_list(LISTS / f"deepglobe_{split}.txt")
        super().__init__(match_pairs(home, home, stems, endings=ENDINGS), DEEPGLOBE)

    def read_labels(self, pair: Pair) -> NDArray[np.integer]:
        """Reads the colour mask of a pair as classes (H, W); black, for unknown, is ignored."""
        bright = (read_colors(pair.mask) >= THRESHOLD).view(np.uint8)
        codes = bright[..., 0] << 2 | bright[..., 1] << 1 | bright[..., 2]
        return translate(codes, LABELS, pair.mask, what="colours (4 red + 2 green + 1 blue)")


def _find_pictures(root: Path) -> Path:
    """The folder with the pictures, at or under `root`.

    Raises:
        DataError: If none of the three places has any.
    """
    places = (root, root / "land-train", root / "train")
    for place in places:
        if any(place.glob(f"*{ENDINGS.picture}")):
            return place
    raise DataError(
        f"no DeepGlobe land cover: looked for *{ENDINGS.picture} in "
        f"{', '.join(str(place) for place in places)}; unpack land-train.zip and give the folder"
    )
