"""Pascal VOC 2012 with the SBD additions, in the owners' layout.

M. Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010;
B. Hariharan et al., "Semantic contours from inverse detectors", ICCV 2011 (SBD).
"""

from pathlib import Path
from typing import ClassVar, Literal

from pna.data.dataset import SegmentationDataset
from pna.data.errors import DataError
from pna.data.reading import match_pairs, read_list
from pna.labels import VOC


class VOC2012(SegmentationDataset):
    """Pascal VOC 2012: 20 kinds of objects, palette PNGs, 255 is void.

    `trainaug` reads `SegmentationClassAug` (SBD's labels converted to VOC's palette); `train` and
    `val` read `SegmentationClass`, or `SegmentationClassAug` where that is all there is.

    Args:
        root: `VOC2012` itself, `VOCdevkit`, or the folder that holds `VOCdevkit`.
        split: Which list under `ImageSets/Segmentation` to read.

    Raises:
        DataError: If the layout is not found, or a listed picture or mask is missing.
    """

    splits: ClassVar = ("train", "trainaug", "val")

    def __init__(
        self, root: str | Path, split: Literal["train", "trainaug", "val"] = "train"
    ) -> None:
        self.check_split(split)
        home = find_voc2012(Path(root))
        masks = home / "SegmentationClass"
        if split == "trainaug" or not masks.is_dir():
            masks = home / "SegmentationClassAug"
        stems = read_list(home / "ImageSets" / "Segmentation" / f"{split}.txt")
        super().__init__(match_pairs(home / "JPEGImages", masks, stems), VOC)


def find_voc2012(root: Path) -> Path:
    """The folder `VOC2012` at or under `root`.

    Raises:
        DataError: If none of the three places has `ImageSets/Segmentation`.
    """
    places = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    for place in places:
        if (place / "ImageSets" / "Segmentation").is_dir():
            return place
    raise DataError(
        "no Pascal VOC 2012: looked for ImageSets/Segmentation in "
        f"{', '.join(str(place) for place in places)}; unpack VOCtrainval_11-May-2012.tar and "
        "give the folder that holds VOCdevkit"
    )
