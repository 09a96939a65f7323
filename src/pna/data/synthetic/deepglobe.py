"""A made DeepGlobe land cover."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pna.data.deepglobe import ENDINGS, LISTS, THRESHOLD
from pna.data.pairs import read_list
from pna.data.synthetic.scene import draw_scene, save_image
from pna.labels import DEEPGLOBE, IGNORE_INDEX


def write_deepglobe(
    root: str | Path,
    *,
    splits: Iterable[str] = ("train", "val", "test"),
    num_scenes: int = 4,
    size: tuple[int, int] = (64, 64),
    seed: int = 0,
) -> Path:
    """Write DeepGlobe's `land-train`, under the names of the published division.

    Args:
        root: Made if missing.
        splits: Whose names.
        num_scenes: There are hundreds of names, so this many scenes recur under them.
        size: Height and width of the images.
        seed: The same files for the same seed.

    Returns:
        `root`.

    Example:
        >>> from tempfile import mkdtemp
        >>> root = write_deepglobe(mkdtemp(), splits=["test"])
        >>> len(list(root.glob("land-train/*_mask.png")))
        142
    """
    rng = np.random.default_rng(seed)
    folder = Path(root) / "land-train"
    stems = [stem for split in splits for stem in read_list(LISTS / f"deepglobe_{split}.txt")]
    for stem in stems[:num_scenes]:
        image, labels = draw_scene(DEEPGLOBE, size, rng, has_void=True)
        colors = DEEPGLOBE.decode(labels)
        colors[labels == IGNORE_INDEX] = 0  # unknown
        dirt = rng.integers(0, THRESHOLD, colors.shape, dtype=np.uint8)
        save_image(image, folder / f"{stem}{ENDINGS.image}")
        save_image(colors ^ dirt, folder / f"{stem}{ENDINGS.mask}")  # channels stay on their side
    for index, stem in enumerate(stems[num_scenes:]):
        for ending in ENDINGS:
            shutil.copyfile(
                folder / f"{stems[index % num_scenes]}{ending}", folder / f"{stem}{ending}"
            )
    return Path(root)
