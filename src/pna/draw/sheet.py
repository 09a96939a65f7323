"""A contact sheet: many labelled pictures on one page, each above its overlay."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from pna.draw.overlay import check_picture, legend, overlay
from pna.draw.palette import UInt8Array, present_labels
from pna.draw.text import PAPER, fit_text, write_centred
from pna.labels import LabelSpace

_TITLE, _TITLE_ROW, _GAP = 14, 24, 10


class Entry(NamedTuple):
    """A picture to lay on a sheet.

    Attributes:
        title: Written above it.
        picture: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8.
    """

    title: str
    picture: UInt8Array
    labels: UInt8Array


def contact_sheet(
    entries: Sequence[Entry], label_space: LabelSpace, *, columns: int = 4, tile: int = 300
) -> Image.Image:
    """Draw pictures and their overlays in rows, one legend below all.

    Args:
        entries: What to draw, at least one.
        label_space: Gives names and colours.
        columns: Entries in a row.
        tile: No side of a picture is longer than this many pixels; the aspect is kept.

    Raises:
        ValueError: If there is nothing to draw, or an entry doesn't fit.
    """
    if not entries:
        raise ValueError("a contact sheet needs pictures, got none")
    columns = min(columns, len(entries))
    cells = [_cell(entry, label_space, tile) for entry in entries]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    present = sorted({c for entry in entries for c in present_labels(entry.labels)})
    width = columns * (tile + _GAP) + _GAP
    names = legend(label_space, present, width=width - 2 * _GAP)
    height = sum(heights) + _GAP * (len(rows) + 2) + names.height
    sheet = Image.new("RGB", (width, height), PAPER)
    top = _GAP
    for row, row_height in zip(rows, heights, strict=True):
        for number, cell in enumerate(row):
            sheet.paste(cell, (_GAP + number * (tile + _GAP), top))
        top += row_height + _GAP
    sheet.paste(names, (_GAP, top))
    return sheet


def _cell(entry: Entry, label_space: LabelSpace, tile: int) -> Image.Image:
    """The title, the picture, the overlay, one below the other."""
    check_picture(entry.picture)
    if entry.labels.shape != entry.picture.shape[:2]:
        raise ValueError(
            f"{entry.title}: the labels must have the picture's size {entry.picture.shape[:2]} "
            f"(H, W), got {entry.labels.shape}"
        )
    height, width = entry.labels.shape
    scale = tile / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = Image.fromarray(entry.picture).resize(size, Image.Resampling.LANCZOS)
    # Classes can't be averaged; drawing after scaling keeps the boundary lines thin.
    labels = np.array(Image.fromarray(entry.labels).resize(size, Image.Resampling.NEAREST))
    cell = Image.new("RGB", (tile, _TITLE_ROW + 2 * size[1] + _GAP // 2), PAPER)
    write_centred(cell, fit_text(entry.title, tile, _TITLE), (tile // 2, _TITLE_ROW // 2), _TITLE)
    left = (tile - size[0]) // 2
    cell.paste(picture, (left, _TITLE_ROW))
    below = _TITLE_ROW + size[1] + _GAP // 2
    cell.paste(overlay(np.array(picture), labels, label_space), (left, below))
    return cell
