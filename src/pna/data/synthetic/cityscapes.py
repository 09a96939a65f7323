"""A made Cityscapes."""

from pathlib import Path

import numpy as np

from pna.data.cityscapes import ENDINGS, TRAIN_IDS
from pna.data.synthetic.scene import draw_scene, save_indices, save_picture
from pna.labels import CITYSCAPES, IGNORE_INDEX

CITIES = ("aachen", "zurich")
STATIC = 4  # a label id that is not scored


def write_cityscapes(
    root: str | Path,
    *,
    num_train: int = 4,
    num_val: int = 2,
    num_test: int = 2,
    size: tuple[int, int] = (64, 128),
    seed: int = 0,
) -> Path:
    """Writes Cityscapes' `leftImg8bit` and `gtFine`, two cities in turn; returns `root`.

    As in the original, the masks of `test` hold no label id that is scored.
    """
    rng = np.random.default_rng(seed)
    ids = np.full(256, STATIC, dtype=np.uint8)
    ids[: len(TRAIN_IDS)] = TRAIN_IDS
    for split, num_pictures in (("train", num_train), ("val", num_val), ("test", num_test)):
        for index in range(num_pictures):
            picture, labels = draw_scene(CITYSCAPES, size, rng, has_void=True)
            if split == "test":
                labels[:] = IGNORE_INDEX
            city = CITIES[index % len(CITIES)]
            name = f"{city}_{index:06d}_000019"
            save_picture(
                picture, Path(root) / "leftImg8bit" / split / city / f"{name}{ENDINGS.picture}"
            )
            save_indices(
                ids[labels], Path(root) / "gtFine" / split / city / f"{name}{ENDINGS.mask}"
            )
    return Path(root)
