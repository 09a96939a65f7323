"""A made COCO-Stuff 10k."""

from pathlib import Path

import numpy as np

from pna.data.cocostuff import UNLABELED
from pna.data.synthetic.scene import draw_scene, save_image, save_list, save_mat
from pna.labels import COCO_STUFF
from pna.labels.coco_stuff import OWNERS_LABELS


def write_cocostuff10k(
    root: str | Path,
    *,
    num_train: int = 4,
    num_test: int = 2,
    size: tuple[int, int] = (96, 128),
    seed: int = 0,
) -> Path:
    """Write COCO-Stuff 10k's `images`, `annotations` and `imageLists`.

    Args:
        root: Made if missing.
        num_train: Images in the list `train`.
        num_test: Images in the list `test`.
        size: Height and width of the images.
        seed: The same files for the same seed.

    Returns:
        `root`.

    Example:
        >>> from tempfile import mkdtemp
        >>> root = write_cocostuff10k(mkdtemp())
        >>> sorted(file.name for file in root.glob("imageLists/*"))
        ['all.txt', 'test.txt', 'train.txt']
    """
    rng = np.random.default_rng(seed)
    owners = np.full(256, UNLABELED, dtype=np.uint8)
    owners[: len(OWNERS_LABELS)] = OWNERS_LABELS
    stems = [f"COCO_train2014_{index:012d}" for index in range(1, num_train + num_test + 1)]
    for stem in stems:
        image, labels = draw_scene(COCO_STUFF, size, rng, has_void=True)
        save_image(image, Path(root) / "images" / f"{stem}.jpg")
        save_mat(
            Path(root) / "annotations" / f"{stem}.mat",
            {"S": owners[labels], "captions": ["Shapes."]},
        )
    train, test = stems[:num_train], stems[num_train:]
    for name, some in (("train", train), ("test", test), ("all", stems)):
        save_list(some, Path(root) / "imageLists" / f"{name}.txt")
    return Path(root)
