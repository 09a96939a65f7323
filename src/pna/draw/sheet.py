"""A contact sheet: many labeled images on one page, each above its overlay."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageOps

from pna.draw.layout import fit_size, label_panel, panel_row, scale_image, stack
from pna.draw.overlay import check_image, legend
from pna.draw.palette import UInt8Array, present_labels
from pna.draw.text import PAPER
from pna.errors import PnaError
from pna.labels import LabelSpace

_TITLE_SIZE, _GAP = 14, 10


class Entry(NamedTuple):
    """An image on a contact sheet.

    Attributes:
        title: Written above it.
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8.
    """

    title: str
    image: UInt8Array
    labels: UInt8Array


def contact_sheet(
    entries: Sequence[Entry], label_space: LabelSpace, *, columns: int = 4, tile: int = 300
) -> Image.Image:
    """Draw images and their overlays in rows, one legend below all.

    Args:
        entries: The images, at least one.
        label_space: Gives names and colors.
        columns: Entries in a row.
        tile: The longer side of an image in pixels; the aspect is kept.

    Raises:
        PnaError: There are no entries, or one does not fit.

    Example:
        >>> import numpy as np
        >>> from pna.labels import VOC
        >>> entry = Entry("road", np.zeros((60, 80, 3), np.uint8), np.zeros((60, 80), np.uint8))
        >>> contact_sheet([entry, entry], VOC).width
        630
    """
    if not entries:
        raise PnaError("a contact sheet needs images, got none")
    columns = min(columns, len(entries))
    cells = []
    for title, image, labels in entries:
        check_image(image)
        size = fit_size(image, tile)
        panels = scale_image(image, size), label_panel(title, image, labels, label_space, size)
        pair = stack(
            [ImageOps.expand(panels[0], border=(0, 0, 0, _GAP // 2), fill=PAPER), panels[1]]
        )
        cells.append((title, pair))
    rows = [
        panel_row(cells[start : start + columns], column=tile, gap=_GAP, title_size=_TITLE_SIZE)
        for start in range(0, len(cells), columns)
    ]
    # Only classes that occur: a legend of 171 would be larger than the images.
    present = sorted({c for entry in entries for c in present_labels(entry.labels)})
    names = legend(label_space, present, width=rows[0].width - 2 * _GAP)
    return stack([*rows, ImageOps.expand(names, border=(_GAP, 0, _GAP, _GAP), fill=PAPER)])
