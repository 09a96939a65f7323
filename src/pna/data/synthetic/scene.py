"""A made scene: colored shapes with crisp edges on a textured ground, and how to save it."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pna.labels import IGNORE_INDEX, LabelSpace

Scene = tuple[NDArray[np.uint8], NDArray[np.uint8]]

_MAT_HEADER = b"MATLAB 5.0 MAT-file".ljust(116)  # the bytes of free text that a file begins with


def draw_scene(
    space: LabelSpace, size: tuple[int, int], rng: np.random.Generator, *, has_void: bool = False
) -> Scene:
    """Draw three to five shapes of random classes on class 0.

    Args:
        space: The classes, and their colors.
        size: Height and width.
        rng: The source of randomness.
        has_void: Whether shapes have an ignored outline, one pixel wide, as in Pascal VOC.

    Returns:
        Image (H, W, 3) uint8 and labels (H, W) uint8.

    Example:
        >>> from pna.labels import VOC
        >>> image, labels = draw_scene(VOC, (24, 32), np.random.default_rng(0))
        >>> image.shape, labels.shape
        ((24, 32, 3), (24, 32))
    """
    height, width = size
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(3, 6)):
        # Class 0 is the ground; shapes have it only where there is no other.
        label = int(rng.integers(min(1, space.num_classes - 1), space.num_classes))
        x, y = rng.uniform(0.0, 0.7, 2) * (width, height)
        w, h = rng.uniform(0.15, 0.5, 2) * (width, height)
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + w, y + h), fill=label, outline=IGNORE_INDEX if has_void else label)
    labels = np.array(canvas)  # (H, W)
    # Noise and a ramp from left to right: a network can not read the class off a constant color.
    texture = rng.normal(0.0, 12.0, (height, width, 1)) + np.linspace(0.0, 30.0, width)[:, None]
    image = 40.0 + 0.6 * space.decode(np.where(labels == IGNORE_INDEX, 0, labels)) + texture
    return image.clip(0, 255).astype(np.uint8), labels


def save_image(image: NDArray[np.uint8], file: Path) -> None:
    """Save (H, W, 3) uint8, or (H, W) for gray, in the format of the file's suffix."""
    _save(Image.fromarray(image), file)


def save_indices(labels: NDArray[np.uint8], file: Path, space: LabelSpace | None = None) -> None:
    """Save labels (H, W) uint8, with the palette of `space` if there is one."""
    mask = Image.fromarray(labels)
    if space is not None:
        mask.putpalette(space.palette())
    _save(mask, file)


def save_list(stems: Iterable[str], file: Path) -> None:
    """Save a split list: one stem a line."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{stem}\n" for stem in stems))


def save_mat(file: Path, variables: Mapping[str, Any]) -> None:
    """Save variables, and structs as dicts; the same bytes for the same variables.

    Args:
        file: Made anew, its folder too.
        variables: Arrays, strings, or dicts of them.
    """
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, dict(variables), do_compression=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    # scipy writes the time into the header: the same variables would give other bytes.
    file.write_bytes(_MAT_HEADER + buffer.getvalue()[len(_MAT_HEADER) :])


def _save(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, quality=95)  # PNG takes no notice of the quality
