"""Tiny data sets drawn by code, in the layout of each real one.

For tests and for trying things out: coloured shapes with crisp edges on a textured ground, the same
files for the same seed. A class has its colour in the picture too, so a network can learn them.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pna.data.camvid import UNLABELLED
from pna.labels import CAMVID, DAMAGE, IGNORE_INDEX, VOC, LabelSpace

Scene = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def draw_scene(
    space: LabelSpace, size: tuple[int, int], rng: np.random.Generator, *, has_void: bool = False
) -> Scene:
    """Draws three to five shapes of random classes on class 0.

    Args:
        space: The classes, and their colours.
        size: Height and width.
        rng: Where the randomness comes from.
        has_void: Whether shapes have an ignored outline, one pixel wide, as in Pascal VOC.

    Returns:
        Picture (H, W, 3) uint8 and labels (H, W) uint8.
    """
    height, width = size
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(3, 6)):
        label = int(rng.integers(min(1, space.num_classes - 1), space.num_classes))
        x, y = rng.uniform(0.0, 0.7, 2) * (width, height)
        w, h = rng.uniform(0.15, 0.5, 2) * (width, height)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=label, outline=IGNORE_INDEX if has_void else label)
    labels = np.array(canvas)
    texture = rng.normal(0.0, 12.0, (height, width, 1)) + np.linspace(0.0, 30.0, width)[:, None]
    picture = 40.0 + 0.6 * space.decode(np.where(labels == IGNORE_INDEX, 0, labels)) + texture
    return picture.clip(0, 255).astype(np.uint8), labels


def write_voc(
    root: str | Path,
    *,
    num_train: int = 4,
    num_val: int = 2,
    num_extra: int = 2,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
) -> Path:
    """Writes Pascal VOC 2012 under `root/VOCdevkit/VOC2012`; returns `root`.

    `SegmentationClassAug` has every mask. `num_extra` of them, as in SBD without void pixels, are
    in no other folder and listed only in `trainaug`.
    """
    rng = np.random.default_rng(seed)
    home = Path(root) / "VOCdevkit" / "VOC2012"
    stems = [f"2007_{index:06d}" for index in range(num_train + num_val + num_extra)]
    train, val, extra = np.split(np.array(stems), [num_train, num_train + num_val])
    for stem in stems:
        picture, labels = draw_scene(VOC, size, rng, has_void=stem not in extra)
        _save_picture(picture, home / "JPEGImages" / f"{stem}.jpg")
        _save_indices(labels, home / "SegmentationClassAug" / f"{stem}.png", VOC)
        if stem not in extra:
            _save_indices(labels, home / "SegmentationClass" / f"{stem}.png", VOC)
    lists = home / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True, exist_ok=True)
    for split, names in (("train", train), ("val", val), ("trainaug", [*train, *extra])):
        (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in names))
    return Path(root)


def write_camvid(
    root: str | Path,
    *,
    num_train: int = 4,
    num_val: int = 2,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
) -> Path:
    """Writes CamVid's `train`, `val` and their `...annot` folders; returns `root`."""
    rng = np.random.default_rng(seed)
    for split, num_pictures in (("train", num_train), ("val", num_val)):
        for index in range(num_pictures):
            picture, labels = draw_scene(CAMVID, size, rng, has_void=True)
            labels[labels == IGNORE_INDEX] = UNLABELLED
            name = f"0001TP_{index:06d}.png"
            _save_picture(picture, Path(root) / split / name)
            _save_indices(labels, Path(root) / f"{split}annot" / name)
    return Path(root)


def write_damage(
    root: str | Path, *, num_pictures: int = 8, size: tuple[int, int] = (96, 128), seed: int = 0
) -> Path:
    """Writes concrete damage: JPEG `images`, colour PNG `masks`; returns `root`."""
    return _write_pairs(Path(root), DAMAGE, num_pictures, size, seed, suffix=".jpg", color=True)


def write_folder(
    root: str | Path,
    labels: LabelSpace,
    *,
    num_pictures: int = 6,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
    masks: Literal["index", "color"] = "index",
) -> Path:
    """Writes a folder data set with PNGs in `images` and `masks`; returns `root`."""
    color = masks == "color"
    return _write_pairs(Path(root), labels, num_pictures, size, seed, suffix=".png", color=color)


def _write_pairs(
    root: Path,
    space: LabelSpace,
    num_pictures: int,
    size: tuple[int, int],
    seed: int,
    *,
    suffix: str,
    color: bool,
) -> Path:
    rng = np.random.default_rng(seed)
    for index in range(num_pictures):
        picture, labels = draw_scene(space, size, rng)
        _save_picture(picture, root / "images" / f"{10000 + index}{suffix}")
        mask = root / "masks" / f"{10000 + index}.png"
        if color:
            _save_picture(space.decode(labels), mask)
        else:
            _save_indices(labels, mask, space)
    return root


def _save_picture(picture: NDArray[np.uint8], file: Path) -> None:
    _save(Image.fromarray(picture), file)


def _save_indices(labels: NDArray[np.uint8], file: Path, space: LabelSpace | None = None) -> None:
    mask = Image.fromarray(labels)
    if space is not None:
        mask.putpalette(space.palette())
    _save(mask, file)


def _save(picture: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, quality=95)  # PNG takes no notice of the quality
