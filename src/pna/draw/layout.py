"""Panels: images scaled to a common size, titles above them, rows on white paper."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from pna.draw.overlay import overlay
from pna.draw.palette import UInt8Array
from pna.draw.text import PAPER, fit_text, write
from pna.errors import PnaError
from pna.labels import LabelSpace

Size = tuple[int, int]
"""Width and height in pixels, as Pillow has them."""


def fit_size(image: UInt8Array, longest: int, *, shortest: int | None = None) -> Size:
    """Return the size of an image scaled to `longest` pixels on its longer side, each at least 1.

    Args:
        image: (H, W, ...).
        longest: Length of the longer side.
        shortest: If given, an image whose longer side lies between `shortest` and `longest` keeps
            its size.
    """
    height, width = image.shape[:2]
    side = max(height, width)
    target = longest if shortest is None else min(max(side, shortest), longest)
    return max(1, round(width * target / side)), max(1, round(height * target / side))


def scale_image(image: UInt8Array, size: Size) -> Image.Image:
    """Scale an image (H, W, 3): smoothly down, in visible pixels up."""
    # A pixel that is enlarged stays a square: smooth edges would hide where labels lie.
    is_enlarged = size[0] > image.shape[1]
    kind = Image.Resampling.NEAREST if is_enlarged else Image.Resampling.LANCZOS
    return Image.fromarray(image).resize(size, kind)


def label_panel(
    title: str, image: UInt8Array, labels: UInt8Array, label_space: LabelSpace, size: Size
) -> Image.Image:
    """Draw a label map over its image at a size.

    Raises:
        PnaError: The label map is not of the image's size, or a value fits no class.
    """
    if labels.shape != image.shape[:2]:
        raise PnaError(
            f"the label map {title!r} must have the image's size {image.shape[:2]} (H, W), got "
            f"{labels.shape}"
        )
    # Classes cannot be averaged; drawing after scaling keeps the boundary lines thin.
    nearest = Image.fromarray(labels).resize(size, Image.Resampling.NEAREST)
    return overlay(np.array(scale_image(image, size)), np.array(nearest), label_space)


def panel_row(
    panels: Sequence[tuple[str, Image.Image]], *, column: int, gap: int, title_size: int
) -> Image.Image:
    """Lay panels side by side, centered in their columns, each right under its title.

    Args:
        panels: Titles and images, at least one.
        column: Least width of a column in pixels.
        gap: Pixels between columns, at the sides and at the bottom.
        title_size: Height of the letters in pixels.
    """
    top = title_size + 14  # the titles' row
    columns = [max(panel.width, column) for _, panel in panels]
    height = max(panel.height for _, panel in panels)
    row = Image.new("RGB", (sum(columns) + gap * (len(panels) + 1), top + height + gap), PAPER)
    left = gap
    for (title, panel), width in zip(panels, columns, strict=True):
        row.paste(panel, (left + (width - panel.width) // 2, top))
        write(row, fit_text(title, width, title_size), (left + width // 2, top // 2), title_size)
        left += width + gap
    return row


def stack(images: Sequence[Image.Image]) -> Image.Image:
    """Lay images below each other, at the left."""
    size = max(image.width for image in images), sum(image.height for image in images)
    page = Image.new("RGB", size, PAPER)
    top = 0
    for image in images:
        page.paste(image, (0, top))
        top += image.height
    return page
