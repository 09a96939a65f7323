"""A label map laid over its picture, and the legend that names its colours."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pna.draw.palette import UInt8Array, check_labels
from pna.draw.text import INK, PAPER, fit_text, font, text_width
from pna.labels import IGNORE_COLOR, IGNORE_INDEX, LabelSpace

_EDGE = np.array((255, 255, 255), dtype=np.float32)
_BAND = 512  # rows that are blended at once
_SWATCH, _TEXT, _GAP, _LINE = 14, 14, 6, 24


def overlay(
    picture: UInt8Array, labels: UInt8Array, label_space: LabelSpace, *, alpha: float = 0.5
) -> Image.Image:
    """Lay the colours of the classes over a picture, with a thin white line where they change.

    A black class (VOC's background) leaves the picture as it is: black would only darken it.

    Args:
        picture: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8, classes of `label_space` or 255 (ignored).
        label_space: Gives the colours.
        alpha: Share of the class colour in [0, 1]; the rest is the picture.

    Raises:
        ValueError: If sizes or values don't fit.
    """
    check_labels(labels, label_space)
    check_picture(picture)
    if picture.shape[:2] != labels.shape:
        raise ValueError(
            f"picture and labels must have the same size, got {picture.shape[:2]} and "
            f"{labels.shape} (H, W)"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha}")
    blended = np.empty_like(picture)
    for top in range(0, len(labels), _BAND):  # as floats, a large picture would fill the memory
        rows = slice(top, top + _BAND)
        edges = _edges(labels[top : top + _BAND + 1])[:_BAND]  # the row below has a say
        colors = np.asarray(label_space.decode(labels[rows]), dtype=np.float32)
        blended[rows] = _blend(picture[rows], colors, edges, alpha)
    return Image.fromarray(blended)


def _blend(
    picture: UInt8Array, colors: npt.NDArray[np.float32], edges: npt.NDArray[np.bool_], alpha: float
) -> UInt8Array:
    weight = np.where(colors.any(axis=2, keepdims=True), np.float32(alpha), np.float32(0))
    blended: npt.NDArray[np.float32] = picture + weight * (colors - picture)
    blended[edges] += np.float32(0.8) * (_EDGE - blended[edges])
    rounded: UInt8Array = np.rint(blended).astype(np.uint8)
    return rounded


def legend(label_space: LabelSpace, present: Iterable[int], *, width: int) -> Image.Image:
    """Draw swatches with names, wrapped into lines.

    Args:
        label_space: Gives names and colours.
        present: The classes to name, in the order to draw; 255 is named "ignored".
        width: Width of the image in pixels; the height follows from the number of lines.
    """
    named = dict(enumerate(label_space.classes)) | {IGNORE_INDEX: "ignored"}
    colors = dict(enumerate(label_space.colors)) | {IGNORE_INDEX: IGNORE_COLOR}
    lines = _wrap([(c, named[c]) for c in present], width)
    image = Image.new("RGB", (width, max(1, len(lines)) * _LINE), PAPER)
    draw = ImageDraw.Draw(image)
    for number, line in enumerate(lines):
        middle = number * _LINE + _LINE // 2
        for x, c, name in line:
            top = middle - _SWATCH // 2
            box = (x, top, x + _SWATCH - 1, top + _SWATCH - 1)
            draw.rectangle(box, fill=colors[c], outline=INK)
            place = (x + _SWATCH + _GAP, middle)
            draw.text(place, name, fill=INK, font=font(_TEXT), anchor="lm")
    return image


def check_picture(picture: UInt8Array) -> None:
    """Raise ValueError unless `picture` is an (H, W, 3) uint8 array with pixels."""
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            f"a picture must be (H, W, 3) uint8 RGB, got shape {picture.shape} of {picture.dtype}"
        )
    if picture.size == 0:
        raise ValueError(f"a picture must have pixels, got shape {picture.shape}")


def _edges(labels: UInt8Array) -> npt.NDArray[np.bool_]:
    """Mark pixels whose right or lower neighbour has another label: lines one pixel thin."""
    edges = np.zeros(labels.shape, dtype=np.bool_)
    edges[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edges[:-1] |= labels[:-1] != labels[1:]
    return edges


def _wrap(entries: list[tuple[int, str]], width: int) -> list[list[tuple[int, int, str]]]:
    """Place (class, name) entries: lines of (x, class, name)."""
    lines: list[list[tuple[int, int, str]]] = []
    x = width  # full: the first entry opens the first line
    for c, name in entries:
        name = fit_text(name, max(0, width - _SWATCH - 2 * _GAP), _TEXT)
        needed = _SWATCH + _GAP + text_width(name, _TEXT)
        if x + needed > width:
            lines.append([])
            x = _GAP
        lines[-1].append((x, c, name))
        x += needed + 3 * _GAP
    return lines
