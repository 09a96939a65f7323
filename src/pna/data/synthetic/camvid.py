"""A made CamVid."""

from pathlib import Path

import numpy as np

from pna.data.camvid import UNLABELED
from pna.data.synthetic.scene import draw_scene, save_image, save_indices
from pna.labels import CAMVID, IGNORE_INDEX


def write_camvid(
    root: str | Path,
    *,
    num_train: int = 4,
    num_val: int = 2,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
) -> Path:
    """Write CamVid's `train`, `val` and their `...annot` folders.

    Args:
        root: Made if missing.
        num_train: Images in `train`.
        num_val: Images in `val`.
        size: Height and width of the images.
        seed: The same files for the same seed.

    Returns:
        `root`.

    Example:
        >>> from tempfile import mkdtemp
        >>> root = write_camvid(mkdtemp(), num_val=1)
        >>> sorted(file.name for file in root.glob("val*/*"))
        ['0001TP_000000.png', '0001TP_000000.png']
    """
    rng = np.random.default_rng(seed)
    for split, num_images in (("train", num_train), ("val", num_val)):
        for index in range(num_images):
            image, labels = draw_scene(CAMVID, size, rng, has_void=True)
            labels[labels == IGNORE_INDEX] = UNLABELED
            name = f"0001TP_{index:06d}.png"
            save_image(image, Path(root) / split / name)
            save_indices(labels, Path(root) / f"{split}annot" / name)
    return Path(root)
