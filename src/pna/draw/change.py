"""A mask before and after refinement, and what changed: over the whole image, and in a detail.

Edges are drawn in white between black, which stands out from any image; the fill under them is
light. The colors are those of Okabe and Ito, "Color Universal Design" (2008), which people with any
kind of color vision tell apart. The detail shows where most has changed, pixel by pixel.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

from pna.data.masks.arrays import MaskArray, changed_pixels, decide, is_binary
from pna.draw.layout import Size, fit_size, panel_row, scale_image, stack
from pna.draw.overlay import check_image, swatches
from pna.draw.palette import UInt8Array
from pna.draw.text import PAPER
from pna.errors import PnaError
from pna.labels import IGNORE_COLOR, IGNORE_INDEX, Color

FloatArray = npt.NDArray[np.float32]

_GAP, _TITLE_SIZE = 12, 18
_MIN_SIDE = 240
_FILL = 0.4  # share of the class color
_LEAST = 0.05  # a soft mask's smaller changes would tint all of the image

_ADDED: Color = (86, 180, 233)  # sky blue
_REMOVED: Color = (230, 159, 0)  # orange
# Sky blue, yellow, green, purple, blue, vermilion; then lighter and darker ones.
_BASE = (
    (86, 180, 233),
    (240, 228, 66),
    (0, 158, 115),
    (204, 121, 167),
    (0, 114, 178),
    (213, 94, 0),
)
_LIGHT = tuple((127 + r // 2, 127 + g // 2, 127 + b // 2) for r, g, b in _BASE)
_DARK = tuple((r // 2, g // 2, b // 2) for r, g, b in _BASE)
_CLASS_COLORS = (*_BASE, *_LIGHT, *_DARK)
_OTHER: Color = (128, 128, 128)


class _Change(NamedTuple):
    """What is drawn of a change.

    Attributes:
        before: (H, W) class numbers.
        after: (H, W) class numbers.
        fills: The color of each class (256, 3), and its share of the pixel (256,).
        gain: (H, W) in [0, 1]: what the foreground gained, or 1 where a class changed.
        loss: (H, W) in [0, 1]: what the foreground lost; 0 of classes.
        legend: Colors and names.
    """

    before: UInt8Array
    after: UInt8Array
    fills: tuple[UInt8Array, FloatArray]
    gain: FloatArray
    loss: FloatArray
    legend: list[tuple[Color, str]]


def change_figure(
    image: UInt8Array,
    before: MaskArray,
    after: MaskArray,
    *,
    names: Mapping[int, str] | None = None,
    side: int = 480,
) -> Image.Image:
    """Draw a mask before and after a change, and the change: the image, and below it a detail.

    Args:
        image: (H, W, 3) uint8 RGB.
        before: The mask: (H, W) bool, labels (255 is ignored) or integers 0 and 255, (H, W)
            floats in [0, 1], or (K, H, W) probabilities.
        after: Likewise.
        names: Names of classes by label; the label itself where there is none.
        side: No side of a panel is longer than this many pixels. Larger images are scaled down,
            in the detail no pixel is.

    Raises:
        PnaError: Sizes or kinds do not fit.

    Example:
        >>> image = np.zeros((600, 800, 3), np.uint8)
        >>> before, after = np.zeros((600, 800), bool), np.zeros((600, 800), bool)
        >>> before[100:300, 200:500] = after[120:300, 200:520] = True
        >>> change_figure(image, before, after).size
        (1488, 964)
    """
    check_image(image)
    if side < _MIN_SIDE:
        raise PnaError(f"side must be at least {_MIN_SIDE} pixels, got {side}")
    for title, mask in (("before", before), ("after", after)):
        if mask.shape[-2:] != image.shape[:2] or mask.ndim != before.ndim:
            raise PnaError(
                f"the mask {title!r} must have the image's size {image.shape[:2]} (H, W) and the "
                f"kind of the other mask, got {mask.shape}"
            )
    change = _change_of(before, after, names or {})
    share = 100 * float(changed_pixels(before, after).mean())
    titles = ("before", "after", f"changed: {share:.2g} % of the pixels")
    # Enlarged by whole numbers, so that pixels are squares of one size.
    longest = max(image.shape[:2])
    size = fit_size(image, side if longest > side else longest * (side // longest))
    whole = (slice(0, image.shape[0]), slice(0, image.shape[1]))
    panels = _panels(image, change, whole, size)
    rows = [list(zip(titles, panels, strict=True))]
    zoom = int(np.clip(round(6 * side / longest), 1, 5))
    has_changed = bool(change.gain.any() or change.loss.any())
    if has_changed and longest * zoom > side:  # else the whole image is a detail
        part = _largest_change(change.gain + change.loss, side // zoom)
        for panel in panels:
            _mark(panel, part, size[0] / image.shape[1])
        height, width = (axis.stop - axis.start for axis in part)
        details = _panels(image, change, part, (width * zoom, height * zoom))
        scale = "pixel by pixel" if zoom == 1 else f"{zoom} x"
        titles = (f"before, at {part[1].start}, {part[0].start}, {scale}", "after", "changed")
        rows.append(list(zip(titles, details, strict=True)))
    drawn = [panel_row(row, column=side, gap=_GAP, title_size=_TITLE_SIZE) for row in rows]
    names_below = swatches(change.legend, width=drawn[0].width - 2 * _GAP)
    return stack([*drawn, ImageOps.expand(names_below, border=(_GAP, 0, _GAP, _GAP), fill=PAPER)])


def errors_figure(wrong: FloatArray) -> Image.Image:
    """Draw where a mask is probably wrong, in gray: probabilities (H, W), black is 0, white 1."""
    return Image.fromarray((255 * wrong).round().astype(np.uint8))


def mask_figure(image: UInt8Array, mask: MaskArray) -> Image.Image:
    """Draw a mask over its image, at the image's size: fills and outlines, as in `change_figure`.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: As for `change_figure`.

    Raises:
        PnaError: Sizes do not fit.

    Example:
        >>> mask_figure(np.zeros((40, 60, 3), np.uint8), np.eye(40, 60, dtype=bool)).size
        (60, 40)
    """
    check_image(image)
    if mask.shape[-2:] != image.shape[:2]:
        raise PnaError(f"expected a mask of {image.shape[:2]}, got {mask.shape}")
    change = _change_of(mask, mask, {})
    return _outlined(image, change.before, change.fills, is_thin=False)


def _change_of(before: MaskArray, after: MaskArray, names: Mapping[int, str]) -> _Change:
    if is_binary(before):
        before, after = before > 0, after > 0
    is_foreground = before.ndim == 2 and not np.issubdtype(before.dtype, np.integer)
    return _foreground(before, after) if is_foreground else _classes(before, after, names)


def _foreground(before: MaskArray, after: MaskArray) -> _Change:
    """Return the change of a binary or soft mask (H, W)."""
    gain = after.astype(np.float32) - before.astype(np.float32)
    gain[abs(gain) < _LEAST] = 0
    colors, shares = np.zeros((256, 3), np.uint8), np.zeros(256, np.float32)
    colors[1], shares[1] = _ADDED, _FILL
    legend = [(_ADDED, "mask; added"), (_REMOVED, "removed")]
    return _Change(
        decide(before).astype(np.uint8),
        decide(after).astype(np.uint8),
        (colors, shares),
        gain.clip(0, 1),
        (-gain).clip(0, 1),
        legend,
    )


def _classes(before: MaskArray, after: MaskArray, names: Mapping[int, str]) -> _Change:
    """Return the change of labels (H, W) or probabilities (K, H, W)."""
    old, new = decide(before).astype(np.uint8), decide(after).astype(np.uint8)
    counts = np.bincount(old.ravel(), minlength=256) + np.bincount(new.ravel(), minlength=256)
    counts[IGNORE_INDEX] = 0
    order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    colors, shares = np.full((256, 3), _OTHER, np.uint8), np.full(256, _FILL, np.float32)
    legend: list[tuple[Color, str]] = []
    for label, color in zip(order[1:], _CLASS_COLORS, strict=False):
        colors[label] = color
        legend.append((color, names.get(label, str(label))))
    if order:
        # The largest class is left as it is: a fill there would only dull the image.
        shares[order[0]] = 0
        legend.insert(0, (PAPER, f"{names.get(order[0], str(order[0]))} (not filled)"))
    if len(order) > len(_CLASS_COLORS) + 1:
        legend.append((_OTHER, f"{len(order) - len(_CLASS_COLORS) - 1} other classes"))
    if ((old == IGNORE_INDEX) | (new == IGNORE_INDEX)).any():
        colors[IGNORE_INDEX] = IGNORE_COLOR
        legend.append((IGNORE_COLOR, "ignored"))
    legend.append((_REMOVED, "changed"))
    changed = (old != new).astype(np.float32)
    return _Change(old, new, (colors, shares), np.zeros_like(changed), changed, legend)


def _panels(
    image: UInt8Array, change: _Change, part: tuple[slice, slice], size: Size
) -> list[Image.Image]:
    """Draw before, after and change of a part of the image at a size."""
    ground = np.array(scale_image(np.ascontiguousarray(image[part]), size))
    is_reduced = size[0] < part[1].stop - part[1].start
    panels = [
        _outlined(ground, _scaled(labels[part], size), change.fills, is_thin=is_reduced)
        for labels in (change.before, change.after)
    ]
    # Dark gray below, so that all color and all light in the panel is change.
    gray = 20 + 0.45 * np.asarray(Image.fromarray(ground).convert("L"), np.float32)[..., None]
    for amount, color in ((change.gain[part], _ADDED), (change.loss[part], _REMOVED)):
        # The mean over the pixels that a panel's pixel covers: the nearest one may be unchanged.
        kind = Image.Resampling.BOX if is_reduced else Image.Resampling.NEAREST
        cover = np.asarray(Image.fromarray(np.ascontiguousarray(amount)).resize(size, kind))
        opacity = np.sqrt(cover)  # half of a change is as much to see as a whole one
        if is_reduced:  # a change that is thin at this scale still shows
            opacity = np.where(cover > 1e-3, opacity.clip(0.4), 0)
        gray = gray + opacity[..., None] * (np.array(color) - gray)
    return [*panels, Image.fromarray(np.rint(gray).astype(np.uint8))]


def _scaled(labels: UInt8Array, size: Size) -> UInt8Array:
    # Classes cannot be averaged.
    nearest = Image.fromarray(np.ascontiguousarray(labels))
    return np.asarray(nearest.resize(size, Image.Resampling.NEAREST))


def _outlined(
    ground: UInt8Array, labels: UInt8Array, fills: tuple[UInt8Array, FloatArray], *, is_thin: bool
) -> Image.Image:
    """Fill classes lightly, and draw their outlines in white, one or two pixels, between black."""
    colors, shares = fills[0][labels], fills[1][labels][..., None]
    pixels = ground + shares * (colors - ground.astype(np.float32))
    line = np.zeros(labels.shape, np.bool_)
    down, right = labels[:-1] != labels[1:], labels[:, :-1] != labels[:, 1:]
    line[:-1] |= down
    line[:, :-1] |= right
    if not is_thin:  # thick lines would fill what is small in an image that was scaled down
        line[1:] |= down
        line[:, 1:] |= right
    casing = line.copy()
    for axis in (0, 1):
        rows = np.moveaxis(casing, axis, 0)  # a view: writes reach `casing`
        grown = rows.copy()
        grown[1:] |= rows[:-1]
        grown[:-1] |= rows[1:]
        rows[:] = grown
    pixels[casing] *= 0.3
    pixels[line] = 255
    return Image.fromarray(np.rint(pixels).astype(np.uint8))


def _largest_change(amount: FloatArray, length: int) -> tuple[slice, slice]:
    """Find the window of `length` pixels a side, or less in a small image, with most change."""
    height, width = (min(length, side) for side in amount.shape)
    # Sums over windows, as differences of sums from the corner on.
    sums = np.zeros((amount.shape[0] + 1, amount.shape[1] + 1))
    np.cumsum(np.cumsum(amount, axis=0, dtype=np.float64), axis=1, out=sums[1:, 1:])
    inside = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width]
    inside += sums[:-height, :-width]
    best = inside >= inside.max() - 1e-6
    # Of many equal windows the one in their middle: the change stands in it, not at its edge.
    ys, xs = np.nonzero(best)
    nearest = ((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2).argmin()
    top, left = int(ys[nearest]), int(xs[nearest])
    return slice(top, top + height), slice(left, left + width)


def _mark(panel: Image.Image, part: tuple[slice, slice], scale: float) -> None:
    """Draw a frame around the detail, white between black."""
    draw = ImageDraw.Draw(panel)
    box = [part[1].start, part[0].start, part[1].stop, part[0].stop]
    left, top, right, bottom = (round(edge * scale) for edge in box)
    for grow, color in ((0, (0, 0, 0)), (1, (255, 255, 255)), (2, (0, 0, 0))):
        edges = (left + grow, top + grow, right - 1 - grow, bottom - 1 - grow)
        if edges[0] <= edges[2] and edges[1] <= edges[3]:
            draw.rectangle(edges, outline=color)
