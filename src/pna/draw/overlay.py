"""A label map laid over its image, and the legend that names its colors."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pna.draw.palette import UInt8Array, check_labels
from pna.draw.text import INK, PAPER, fit_text, text_width, write
from pna.errors import PnaError
from pna.labels import IGNORE_COLOR, IGNORE_INDEX, Color, LabelSpace

_EDGE = np.array((255, 255, 255), dtype=np.float32)
_BAND = 512  # rows that are blended at once
_SWATCH, _TEXT, _GAP, _LINE = 14, 14, 6, 24


def overlay(
    image: UInt8Array, labels: UInt8Array, label_space: LabelSpace, *, alpha: float = 0.5
) -> Image.Image:
    """Lay the colors of the classes over an image, with a thin white line where they change.

    A black class (VOC's background) leaves the image as it is: black would only darken it.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8, classes of `label_space` or 255 (ignored).
        label_space: Gives the colors.
        alpha: Share of the class color in [0, 1]; the rest is the image.

    Raises:
        PnaError: Sizes or values do not fit.

    Example:
        >>> import numpy as np
        >>> from pna.labels import VOC
        >>> labels = np.full((4, 6), 8, np.uint8)  # cat, (64, 0, 0)
        >>> overlay(np.full((4, 6, 3), 100, np.uint8), labels, VOC).getpixel((0, 0))
        (82, 50, 50)
    """
    check_labels(labels, label_space)
    check_image(image)
    if image.shape[:2] != labels.shape:
        raise PnaError(
            f"image and labels must have the same size, got {image.shape[:2]} and "
            f"{labels.shape} (H, W)"
        )
    if not 0 <= alpha <= 1:
        raise PnaError(f"alpha must be in [0, 1], got {alpha}")
    blended = np.empty_like(image)
    for top in range(0, len(labels), _BAND):  # as floats, a large image would fill the memory
        rows = slice(top, top + _BAND)
        edges = _edges(labels[top : top + _BAND + 1])[:_BAND]  # against the row below, too
        colors = np.asarray(label_space.decode(labels[rows]), dtype=np.float32)
        # (rows, W, 1): 0 where the class is black.
        weight = np.where(colors.any(axis=2, keepdims=True), np.float32(alpha), np.float32(0))
        part = image[rows] + weight * (colors - image[rows])
        # Not all white, so that a line over thin objects leaves their color visible.
        part[edges] += np.float32(0.8) * (_EDGE - part[edges])
        blended[rows] = np.rint(part).astype(np.uint8)
    return Image.fromarray(blended)


def legend(label_space: LabelSpace, present: Iterable[int], *, width: int) -> Image.Image:
    """Draw swatches with names, wrapped into lines.

    Args:
        label_space: Gives names and colors.
        present: The classes to name, in the order to draw; 255 is named "ignored".
        width: Width of the image in pixels; the height follows from the number of lines.

    Example:
        >>> from pna.labels import VOC
        >>> legend(VOC, [0, 8, 15], width=300).size
        (300, 24)
    """
    named = dict(enumerate(label_space.classes)) | {IGNORE_INDEX: "ignored"}
    colors = dict(enumerate(label_space.colors)) | {IGNORE_INDEX: IGNORE_COLOR}
    return swatches([(colors[c], named[c]) for c in present], width=width)


def swatches(entries: Iterable[tuple[Color, str]], *, width: int) -> Image.Image:
    """Draw colors, each before its name, wrapped into lines.

    Args:
        entries: Colors and names, in the order to draw.
        width: Width of the image in pixels; the height follows from the number of lines.
    """
    lines = _wrap(entries, width)
    image = Image.new("RGB", (width, max(1, len(lines)) * _LINE), PAPER)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        middle = number * _LINE + _LINE // 2
        for x, color, name in line:
            top = middle - _SWATCH // 2
            box = (x, top, x + _SWATCH - 1, top + _SWATCH - 1)
            draw.rectangle(box, fill=color, outline=INK)
            write(image, name, (x + _SWATCH + _GAP, middle), _TEXT, anchor="lm")
    return image


def check_image(image: UInt8Array) -> None:
    """Raise PnaError unless `image` is an (H, W, 3) uint8 array with pixels."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise PnaError(
            f"an image must be (H, W, 3) uint8 RGB, got shape {image.shape} of {image.dtype}"
        )
    if image.size == 0:
        raise PnaError(f"an image must have pixels, got shape {image.shape}")


def _edges(labels: UInt8Array) -> npt.NDArray[np.bool_]:
    """Mark pixels whose right or lower neighbor has another label: lines one pixel thin."""
    edges = np.zeros(labels.shape, dtype=np.bool_)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def _wrap(entries: Iterable[tuple[Color, str]], width: int) -> list[list[tuple[int, Color, str]]]:
    """Place (color, name) entries: lines of (x, color, name)."""
    lines: list[list[tuple[int, Color, str]]] = []
    x = width  # full: the first entry opens the first line
    for color, name in entries:
        name = fit_text(name, max(0, width - _SWATCH - 2 * _GAP), _TEXT)
        needed = _SWATCH + _GAP + text_width(name, _TEXT)
        if x + needed > width:
            lines.append([])
            x = _GAP
        lines[-1].append((x, color, name))
        x += needed + 3 * _GAP
    return lines
