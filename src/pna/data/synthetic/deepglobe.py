"""A made DeepGlobe land cover."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pna.data.deepglobe import ENDINGS, LISTS, THRESHOLD
from pna.data.pairs import read_list
from pna.data.synthetic.scene import draw_scene, save_picture
from pna.labels import DEEPGLOBE, IGNORE_INDEX


def write_deepglobe(
    root: str | Path,
    *,
    splits: Iterable[str] = ("train", "val", "test"),
    num_scenes: int = 4,
    size: tuple[int, int] = (64, 64),
    seed: int = 0,
) -> Path:
    """Writes DeepGlobe's `land-train`, under the names of the published division; returns `root`.

    There are hundreds of names, so `num_scenes` scenes recur under them.
    """
    rng = np.random.default_rng(seed)
    folder = Path(root) / "land-train"
    stems = [stem for split in splits for stem in read_list(LISTS / f"deepglobe_{split}.txt")]
    for stem in stems[:num_scenes]:
        picture, labels = draw_scene(DEEPGLOBE, size, rng, has_void=True)
        colors = DEEPGLOBE.decode(labels)
        colors[labels == IGNORE_INDEX] = 0  # unknown
        dirt = rng.integers(0, THRESHOLD, colors.shape, dtype=np.uint8)
        save_picture(picture, folder / f"{stem}{ENDINGS.picture}")
        save_picture(colors ^ dirt, folder / f"{stem}{ENDINGS.mask}")  # channels stay on their side
    for index, stem in enumerate(stems[num_scenes:]):
        for ending in ENDINGS:
            shutil.copyfile(
                folder / f"{stems[index % num_scenes]}{ending}", folder / f"{stem}{ending}"
            )
    return Path(root)
