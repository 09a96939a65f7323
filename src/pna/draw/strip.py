"""The stages of a prediction side by side: picture, truth, P0, P1, ... under one legend."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pna.draw.overlay import check_picture, legend, overlay
from pna.draw.palette import UInt8Array, present_labels
from pna.draw.text import PAPER, fit_text, write_centred
from pna.labels import LabelSpace

_TITLE, _TITLE_ROW, _GAP = 17, 30, 10
# A panel is at least this wide, so that a title fits even over a picture of a few pixels.
_MIN_SIDE = 200


def strip(
    picture: UInt8Array,
    panels: Sequence[tuple[str, UInt8Array]],
    label_space: LabelSpace,
    *,
    truth: UInt8Array | None = None,
    panel_size: int = 400,
) -> Image.Image:
    """Draw a picture and label maps of it in one row, with titles above and a legend below.

    Args:
        picture: (H, W, 3) uint8 RGB.
        panels: Titles and label maps, each (H, W) uint8.
        label_space: Gives names and colours.
        truth: (H, W) uint8; if given, it stands between the picture and the panels.
        panel_size: No side of a panel is longer than this many pixels; larger pictures are scaled
            down, tiny ones up.

    Raises:
        ValueError: If sizes or values don't fit.
    """
    check_picture(picture)
    if panel_size < _MIN_SIDE:
        raise ValueError(f"panel_size must be at least {_MIN_SIDE} pixels, got {panel_size}")
    maps = list(panels) if truth is None else [("truth", truth), *panels]
    size = _panel_size(picture.shape[1], picture.shape[0], panel_size)
    scaled = np.array(Image.fromarray(picture).resize(size, _filter(size, picture)))
    images = [("picture", Image.fromarray(scaled))]
    for title, labels in maps:
        if labels.shape != picture.shape[:2]:
            raise ValueError(
                f"the label map {title!r} must have the picture's size {picture.shape[:2]} "
                f"(H, W), got {labels.shape}"
            )
        # Classes can't be averaged; drawing after scaling keeps the boundary lines thin.
        nearest = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
        images.append((title, overlay(scaled, np.array(nearest), label_space)))
    row = _row(images, max(size[0], _MIN_SIDE))
    present = sorted({c for _, labels in maps for c in present_labels(labels)})
    names = legend(label_space, present, width=row.width - 2 * _GAP)
    return _stack(row, names)


def _panel_size(width: int, height: int, longest: int) -> tuple[int, int]:
    """Scale so that the longer side lies in [_MIN_SIDE, longest]; no side falls below a pixel."""
    side = max(width, height)
    scale = min(max(side, _MIN_SIDE), longest) / side
    return max(1, round(width * scale)), max(1, round(height * scale))


def _filter(size: tuple[int, int], picture: UInt8Array) -> Image.Resampling:
    enlarged = size[0] > picture.shape[1]
    return Image.Resampling.NEAREST if enlarged else Image.Resampling.LANCZOS


def _row(images: list[tuple[str, Image.Image]], column: int) -> Image.Image:
    height = images[0][1].height
    width = len(images) * (column + _GAP) + _GAP
    row = Image.new("RGB", (width, _TITLE_ROW + height + _GAP), PAPER)
    for number, (title, image) in enumerate(images):
        left = _GAP + number * (column + _GAP)
        row.paste(image, (left + (column - image.width) // 2, _TITLE_ROW))
        middle = (left + column // 2, _TITLE_ROW // 2)
        write_centred(row, fit_text(title, column, _TITLE), middle, _TITLE)
    return row


def _stack(row: Image.Image, names: Image.Image) -> Image.Image:
    image = Image.new("RGB", (row.width, row.height + names.height + _GAP), PAPER)
    image.paste(row, (0, 0))
    image.paste(names, (_GAP, row.height))
    return image
