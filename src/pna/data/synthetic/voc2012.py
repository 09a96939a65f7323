"""A made Pascal VOC 2012, with SBD's additions converted or as the owners ship them."""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pna.data.sbd import FOLDER, SEGMENTATION
from pna.data.synthetic.scene import draw_scene, save_image, save_indices, save_list, save_mat
from pna.labels import IGNORE_INDEX, VOC


def write_voc(
    root: str | Path,
    *,
    num_train: int = 4,
    num_val: int = 2,
    num_extra: int = 2,
    size: tuple[int, int] = (96, 128),
    augmented: Literal["png", "mat"] = "png",
    seed: int = 0,
) -> Path:
    """Write Pascal VOC 2012 under `root/VOCdevkit/VOC2012`.

    Args:
        root: Made if missing.
        num_train: Images in the list `train`.
        num_val: Images in the list `val`.
        num_extra: Images in the list of the augmented set alone; as in SBD without void pixels.
        size: Height and width of the images.
        augmented: "png" converts the augmented set: all masks in `SegmentationClassAug`, the list
            in `trainaug`. "mat" writes it as SBD ships it, in `root/benchmark_RELEASE`: masks of
            all images but the first, and lists of its own that mix training and validation set.
        seed: The same files for the same seed.

    Returns:
        `root`.

    Example:
        >>> from tempfile import mkdtemp
        >>> root = write_voc(mkdtemp())
        >>> sorted(file.name for file in root.glob("VOCdevkit/VOC2012/ImageSets/Segmentation/*"))
        ['train.txt', 'trainaug.txt', 'val.txt']
    """
    rng = np.random.default_rng(seed)
    home = Path(root) / "VOCdevkit" / "VOC2012"
    stems = [f"2007_{index:06d}" for index in range(num_train + num_val + num_extra)]
    train, val, extra = np.split(np.array(stems), [num_train, num_train + num_val])
    for stem in stems:
        image, labels = draw_scene(VOC, size, rng, has_void=stem not in extra)
        save_image(image, home / "JPEGImages" / f"{stem}.jpg")
        if augmented == "png":
            save_indices(labels, home / "SegmentationClassAug" / f"{stem}.png", VOC)
        elif stem != stems[0]:  # SBD lacks some of VOC's images: their masks are VOC's own
            _save_sbd(labels, Path(root) / FOLDER / "cls" / f"{stem}.mat")
        if stem not in extra:
            save_indices(labels, home / "SegmentationClass" / f"{stem}.png", VOC)
    lists = home / "ImageSets" / "Segmentation"
    save_list(train, lists / "train.txt")
    save_list(val, lists / "val.txt")
    if augmented == "png":
        save_list([*train, *extra], lists / "trainaug.txt")
    else:
        # Its division is not VOC's: both lists mix VOC's training and validation images.
        save_list(stems[1::2], Path(root) / FOLDER / "train.txt")
        save_list(stems[2::2], Path(root) / FOLDER / "val.txt")
    return Path(root)


def _save_sbd(labels: NDArray[np.uint8], file: Path) -> None:
    variable, field = SEGMENTATION
    # SBD has no void pixels, so the outlines are background there.
    without_void = np.where(labels == IGNORE_INDEX, 0, labels)
    present = np.unique(without_void[without_void > 0])
    save_mat(file, {variable: {field: without_void, "CategoriesPresent": present}})
