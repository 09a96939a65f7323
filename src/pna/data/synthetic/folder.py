"""Made folders of images and masks: your own data, and concrete damage."""

from pathlib import Path
from typing import Literal

import numpy as np

from pna.data.synthetic.scene import draw_scene, save_image, save_indices
from pna.labels import DAMAGE, LabelSpace


def write_damage(
    root: str | Path, *, num_images: int = 8, size: tuple[int, int] = (96, 128), seed: int = 0
) -> Path:
    """Write concrete damage: JPEG `images`, color PNG `masks`.

    Args:
        root: Made if missing.
        num_images: Images in all.
        size: Height and width of the images.
        seed: The same files for the same seed.

    Returns:
        `root`.

    Example:
        >>> from tempfile import mkdtemp
        >>> root = write_damage(mkdtemp(), num_images=1)
        >>> sorted(file.name for file in root.glob("*/*"))
        ['10000.jpg', '10000.png']
    """
    return _write_pairs(Path(root), DAMAGE, num_images, size, seed, suffix=".jpg", color=True)


def write_folder(
    root: str | Path,
    labels: LabelSpace,
    *,
    num_images: int = 6,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
    masks: Literal["index", "color"] = "index",
) -> Path:
    """Write a folder data set with PNGs in `images` and `masks`.

    Args:
        root: Made if missing.
        labels: The label space.
        num_images: Images in all.
        size: Height and width of the images.
        seed: The same files for the same seed.
        masks: Whether masks hold class indices or colors.

    Returns:
        `root`.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.labels import generic
        >>> root = write_folder(mkdtemp(), generic(3), num_images=1)
        >>> sorted(file.name for file in root.glob("*/*"))
        ['10000.png', '10000.png']
    """
    color = masks == "color"
    return _write_pairs(Path(root), labels, num_images, size, seed, suffix=".png", color=color)


def _write_pairs(
    root: Path,
    space: LabelSpace,
    num_images: int,
    size: tuple[int, int],
    seed: int,
    *,
    suffix: str,
    color: bool,
) -> Path:
    # One stream for all images: more images leave the first ones as they are.
    rng = np.random.default_rng(seed)
    for index in range(num_images):
        image, labels = draw_scene(space, size, rng)
        save_image(image, root / "images" / f"{10000 + index}{suffix}")
        mask = root / "masks" / f"{10000 + index}.png"
        if color:
            save_image(space.decode(labels), mask)
        else:
            save_indices(labels, mask, space)
    return root
