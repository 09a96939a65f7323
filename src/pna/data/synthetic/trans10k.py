"""A made Trans10K."""

from pathlib import Path

import numpy as np

from pna.data.synthetic.scene import draw_scene, save_picture
from pna.data.trans10k import ENDINGS
from pna.labels import TRANS10K


def write_trans10k(
    root: str | Path,
    *,
    num_train: int = 4,
    num_easy: int = 2,
    num_hard: int = 1,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
) -> Path:
    """Writes Trans10K's `train`, and `validation` and `test` in `easy` and `hard`; returns `root`.

    Args:
        root: Made if missing.
        num_train: Pictures in `train`.
        num_easy: Easy pictures in each of the other two.
        num_hard: Hard ones.
        size: Height and width.
        seed: The same files for the same seed.
    """
    rng = np.random.default_rng(seed)
    parts = {"train": num_train}
    for part in ("validation", "test"):
        parts |= {f"{part}/easy": num_easy, f"{part}/hard": num_hard}
    number = 0
    for part, num_pictures in parts.items():
        for _ in range(num_pictures):
            picture, labels = draw_scene(TRANS10K, size, rng)
            number += 1
            folder = Path(root) / part
            save_picture(picture, folder / "images" / f"{number}{ENDINGS.picture}")
            save_picture(TRANS10K.decode(labels), folder / "masks" / f"{number}{ENDINGS.mask}")
    return Path(root)
