"""A made Trans10K."""

from pathlib import Path

import numpy as np

from pna.data.synthetic.scene import draw_scene, save_image
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
    """Write Trans10K's `train`, and `validation` and `test` in `easy` and `hard`.

    Args:
        root: Made if missing.
        num_train: Images in `train`.
        num_easy: Easy images in each of the other two.
        num_hard: Hard ones.
        size: Height and width of the images.
        seed: The same files for the same seed.

    Returns:
        `root`.

    Example:
        >>> from tempfile import mkdtemp
        >>> root = write_trans10k(mkdtemp(), num_hard=1)
        >>> sorted(file.name for file in root.glob("test/hard/*/*"))
        ['10.jpg', '10_mask.png']
    """
    rng = np.random.default_rng(seed)
    parts = {"train": num_train}
    for part in ("validation", "test"):
        parts |= {f"{part}/easy": num_easy, f"{part}/hard": num_hard}
    number = 0
    for part, num_images in parts.items():
        for _ in range(num_images):
            image, labels = draw_scene(TRANS10K, size, rng)
            number += 1
            folder = Path(root) / part
            save_image(image, folder / "images" / f"{number}{ENDINGS.image}")
            save_image(TRANS10K.decode(labels), folder / "masks" / f"{number}{ENDINGS.mask}")
    return Path(root)
