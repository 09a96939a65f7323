"""A made scene: coloured shapes with crisp edges on a textured ground, and how to save it."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pna.labels import IGNORE_INDEX, LabelSpace

Scene = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def draw_scene(
    space: LabelSpace, size: tuple[int, int], rng: np.random.Generator, *, has_void: bool = False
) -> Scene:
    """Draws three to five shapes of random classes on class 0.

    Args:
        space: The classes, and their colours.
        size: Height and width.
        rng: Where the randomness comes from.
        has_void: Whether shapes have an ignored outline, one pixel wide, as in Pascal VOC.

    Returns:
        Picture (H, W, 3) uint8 and labels (H, W) uint8.
    """
    height, width = size
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(3, 6)):
        label = int(rng.integers(min(1, space.num_classes - 1), space.num_classes))
        x, y = rng.uniform(0.0, 0.7, 2) * (width, height)
        w, h = rng.uniform(0.15, 0.5, 2) * (width, height)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=label, outline=IGNORE_INDEX if has_void else label)
    labels = np.array(canvas)
    texture = rng.normal(0.0, 12.0, (height, width, 1)) + np.linspace(0.0, 30.0, width)[:, None]
    picture = 40.0 + 0.6 * space.decode(np.where(labels == IGNORE_INDEX, 0, labels)) + texture
    return picture.clip(0, 255).astype(np.uint8), labels


def save_picture(picture: NDArray[np.uint8], file: Path) -> None:
    """Saves (H, W, 3) uint8, or (H, W) for grey, in the format of the file's suffix."""
    _save(Image.fromarray(picture), file)


def save_indices(labels: NDArray[np.uint8], file: Path, space: LabelSpace | None = None) -> None:
    """Saves labels (H, W) uint8, with the palette of `space` if there is one."""
    mask = Image.fromarray(labels)
    if space is not None:
        mask.putpalette(space.palette())
    _save(mask, file)


def save_list(stems: Iterable[str], file: Path) -> None:
    """Saves a split list: one stem a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{stem}\n" for stem in stems))


def _save(picture: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, quality=95)  # PNG takes no notice of the quality
