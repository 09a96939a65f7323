"""A made CamVid."""

from pathlib import Path

import numpy as np

from pna.data.camvid import UNLABELLED
from pna.data.synthetic.scene import draw_scene, save_indices, save_picture
from pna.labels import CAMVID, IGNORE_INDEX


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
            save_picture(picture, Path(root) / split / name)
            save_indices(labels, Path(root) / f"{split}annot" / name)
    return Path(root)
