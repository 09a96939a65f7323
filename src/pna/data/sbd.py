"""SBD, the Semantic Boundaries Dataset: more labels for Pascal VOC, in the owners' layout.

B. Hariharan et al., "Semantic contours from inverse detectors", ICCV 2011. Its 11,355 label maps
are of VOC images; its own split is another one than VOC's, so its validation images may train
and VOC's may not.
"""

from pathlib import Path

from pna.data.mat import require_scipy
from pna.data.pairs import Endings, Pair, match_pairs, read_list

FOLDER = Path("benchmark_RELEASE", "dataset")  # inside of the owners' benchmark.tgz
SEGMENTATION = ("GTcls", "Segmentation")  # where the label map is in each file of `cls`


def find_sbd(voc: Path) -> Path | None:
    """Find SBD's folder `dataset` beside Pascal VOC.

    Args:
        voc: The folder `VOC2012`; SBD lies in it, beside it, or beside the `VOCdevkit` it is in.
    """
    for folder in (voc, voc.parent, voc.parent.parent):
        if (folder / FOLDER / "cls").is_dir():
            return folder / FOLDER
    return None


def trainaug_pairs(voc: Path, sbd: Path) -> list[Pair]:
    """List the augmented training set: VOC's and all of SBD, less VOC's validation set.

    A mask is VOC's own where VOC has one, and else SBD's, as in the converted
    `SegmentationClassAug` that is passed around.

    Args:
        voc: The folder `VOC2012`.
        sbd: SBD's folder `dataset`.

    Raises:
        DataError: If scipy, a list, or a listed image or mask is missing.
    """
    require_scipy("SBD")
    lists = voc / "ImageSets" / "Segmentation"
    # SBD labels VOC's validation images too: training on those would spoil every score.
    validation = set(read_list(lists / "val.txt"))
    of_voc = set(read_list(lists / "train.txt")) - validation
    of_sbd = {*read_list(sbd / "train.txt"), *read_list(sbd / "val.txt")} - validation - of_voc
    images = voc / "JPEGImages"
    return sorted(
        [
            *match_pairs(images, voc / "SegmentationClass", of_voc),
            *match_pairs(images, sbd / "cls", of_sbd, endings=Endings(".jpg", ".mat")),
        ],
        key=lambda pair: pair.name,
    )
