"""The stages of a prediction side by side: image, truth, P0, P1, ... above one legend."""

from collections.abc import Sequence

from PIL import Image, ImageOps

from pna.draw.layout import fit_size, label_panel, panel_row, scale_image, stack
from pna.draw.overlay import check_image, legend
from pna.draw.palette import UInt8Array, present_labels
from pna.draw.text import PAPER
from pna.errors import PnaError
from pna.labels import LabelSpace

_TITLE_SIZE, _GAP = 16, 10
# A panel is at least this wide, so that a title fits even over an image of a few pixels.
_MIN_SIDE = 200


def strip(
    image: UInt8Array,
    panels: Sequence[tuple[str, UInt8Array]],
    label_space: LabelSpace,
    *,
    truth: UInt8Array | None = None,
    panel_size: int = 400,
) -> Image.Image:
    """Draw an image and label maps of it in one row, with titles above and a legend below.

    Args:
        image: (H, W, 3) uint8 RGB.
        panels: Titles and label maps, each (H, W) uint8.
        label_space: Gives names and colors.
        truth: (H, W) uint8; if given, it stands between the image and the panels.
        panel_size: No side of a panel is longer than this many pixels; larger images are scaled
            down, tiny ones up.

    Raises:
        PnaError: Sizes or values do not fit.

    Example:
        >>> import numpy as np
        >>> from pna.labels import VOC
        >>> labels = np.zeros((200, 300), np.uint8)
        >>> strip(np.zeros((200, 300, 3), np.uint8), [("P0", labels)], VOC).size
        (630, 274)
    """
    check_image(image)
    if panel_size < _MIN_SIDE:
        raise PnaError(f"panel_size must be at least {_MIN_SIDE} pixels, got {panel_size}")
    maps = list(panels) if truth is None else [("truth", truth), *panels]
    size = fit_size(image, panel_size, shortest=_MIN_SIDE)
    drawn = [("image", scale_image(image, size))]
    drawn += [
        (title, label_panel(title, image, labels, label_space, size)) for title, labels in maps
    ]
    # One column width for all panels, so that the stages line up.
    row = panel_row(drawn, column=max(size[0], _MIN_SIDE), gap=_GAP, title_size=_TITLE_SIZE)
    present = sorted({c for _, labels in maps for c in present_labels(labels)})
    names = legend(label_space, present, width=row.width - 2 * _GAP)
    return stack([row, ImageOps.expand(names, border=(_GAP, 0, _GAP, _GAP), fill=PAPER)])
