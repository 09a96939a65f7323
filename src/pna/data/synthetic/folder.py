"""Made folders of pictures and masks: your own data, and concrete damage."""

from pathlib import Path
from typing import Literal

import numpy as np

from pna.data.synthetic.scene import draw_scene, save_indices, save_picture
from pna.labels import DAMAGE, LabelSpace


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
        save_picture(picture, root / "images" / f"{10000 + index}{suffix}")
        mask = root / "masks" / f"{10000 + index}.png"
        if color:
            save_picture(space.decode(labels), mask)
        else:
            save_indices(labels, mask, space)
    return root
