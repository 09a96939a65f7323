"""A made Cityscapes."""

from pathlib import Path

import numpy as np

from pna.data.cityscapes import ENDINGS, TRAIN_IDS
from pna.data.synthetic.scene import draw_scene, save_image, save_indices
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
    """Write Cityscapes' `leftImg8bit` and `gtFine`, two cities in turn.

    Args:
        root: Made if missing.
        num_train: Images in `train`.
        num_val: Images in `val`.
        num_test: Images in `test`; as in the original, its masks hold no label id that is scored.
        size: Height and width of the images.
        seed: The same files for the same seed.

    Returns:
        `root`.

    Example:
        >>> from tempfile import mkdtemp
        >>> root = write_cityscapes(mkdtemp(), num_val=1)
        >>> sorted(file.name for file in root.glob("gtFine/val/*/*"))
        ['aachen_000000_000019_gtFine_labelIds.png']
    """
    rng = np.random.default_rng(seed)
    ids = np.full(256, STATIC, dtype=np.uint8)
    ids[: len(TRAIN_IDS)] = TRAIN_IDS
    for split, num_images in (("train", num_train), ("val", num_val), ("test", num_test)):
        for index in range(num_images):
            image, labels = draw_scene(CITYSCAPES, size, rng, has_void=True)
            if split == "test":
                labels[:] = IGNORE_INDEX
            city = CITIES[index % len(CITIES)]
            name = f"{city}_{index:06d}_000019"
            save_image(image, Path(root) / "leftImg8bit" / split / city / f"{name}{ENDINGS.image}")
            save_indices(
                ids[labels], Path(root) / "gtFine" / split / city / f"{name}{ENDINGS.mask}"
            )
    return Path(root)
