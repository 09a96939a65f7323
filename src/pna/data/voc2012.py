"""Pascal VOC 2012 with the SBD additions, in the owners' layout.

M. Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010;
B. Hariharan et al., "Semantic contours from inverse detectors", ICCV 2011 (SBD).
"""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from pna.data import sbd
from pna.data.dataset import SegmentationDataset
from pna.data.errors import DataError
from pna.data.mat import read_mat_mask
from pna.data.pairs import Pair, match_pairs, read_list
from pna.data.reading import read_index_mask
from pna.labels import VOC


class VOC2012(SegmentationDataset):
    """Pascal VOC 2012: 20 kinds of objects, palette PNGs, 255 is void.

    `train` and `val` read `SegmentationClass`, or `SegmentationClassAug` if that is all there is.
    `trainaug` reads `SegmentationClassAug` (SBD's labels converted to VOC's palette) as listed in
    `trainaug.txt`; where there is no such folder, SBD's own files beside VOC, see `pna.data.sbd`.

    Args:
        root: `VOC2012` itself, `VOCdevkit`, or the folder that holds `VOCdevkit`.
        split: `train` and `val` as the owners list them, or `trainaug`, with SBD's labels.

    Raises:
        DataError: If the layout is not found, or a listed image or mask is missing.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data.synthetic import write_voc
        >>> dataset = VOC2012(write_voc(mkdtemp()), "val")
        >>> len(dataset), dataset.labels.name
        (2, 'voc2012')
    """

    splits: ClassVar = ("train", "trainaug", "val")
    counts: ClassVar = {"train": 1464, "trainaug": 10582, "val": 1449}

    def __init__(
        self, root: str | Path, split: Literal["train", "trainaug", "val"] = "train"
    ) -> None:
        self.check_split(split)
        super().__init__(_find_pairs(find_voc2012(Path(root)), split), VOC)

    def read_mask(self, pair: Pair) -> NDArray[np.integer]:
        """Read the mask of a pair (H, W): VOC's palette PNG, or SBD's MATLAB file."""
        if pair.mask.suffix == ".mat":
            return read_mat_mask(pair.mask, *sbd.SEGMENTATION)
        return read_index_mask(pair.mask)


def _find_pairs(home: Path, split: str) -> list[Pair]:
    own, augmented = home / "SegmentationClass", home / "SegmentationClassAug"
    if split == "trainaug" and not augmented.is_dir():
        sbd_folder = sbd.find_sbd(home)
        if sbd_folder is None:
            raise DataError(
                f"no labels for 'trainaug': neither {augmented} (converted) nor {sbd.FOLDER} in "
                f"{home} or one of the two folders above it (SBD's own benchmark.tgz, unpacked)"
            )
        return sbd.trainaug_pairs(home, sbd_folder)
    # A converted download may hold SegmentationClassAug alone, which has VOC's masks too.
    masks = own if own.is_dir() and split != "trainaug" else augmented
    stems = read_list(home / "ImageSets" / "Segmentation" / f"{split}.txt")
    return match_pairs(home / "JPEGImages", masks, stems)


def find_voc2012(root: Path) -> Path:
    """Find the folder `VOC2012` at or under `root`.

    Raises:
        DataError: If none of the three folders has `ImageSets/Segmentation`.
    """
    folders = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    for folder in folders:
        if (folder / "ImageSets" / "Segmentation").is_dir():
            return folder
    raise DataError(
        "no Pascal VOC 2012: looked for ImageSets/Segmentation in "
        f"{', '.join(map(str, folders))}; unpack VOCtrainval_11-May-2012.tar and "
        "give the folder that holds VOCdevkit"
    )
