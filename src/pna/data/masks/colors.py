"""Color-coded masks: the colors that a file holds, or those of a table, to labels.

`LabelSpace.encode_colors` turns colors into labels. It takes exact ones, so what is done here comes
before: making a label space of the colors that are found, and moving blurred pixels to the nearest
color of a table.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pna.data.errors import DataError
from pna.data.images import UInt8Array
from pna.data.masks.kinds import Counted, count_values
from pna.labels import IGNORE_COLOR, IGNORE_INDEX, LabelSpace

# A color this far from all of a table (in 0..255 per channel) is more than compression's noise.
_NEAR = 48.0
_MOST_FAR = 0.1  # of the pixels: the mixed colors along edges, not a class that the table lacks


class ColorMask(NamedTuple):
    """A color-coded mask as labels.

    Attributes:
        array: (H, W) uint8 labels.
        labels: Names and colors of the classes.
        guess: How the colors were taken, if no table names exactly them; else None.
    """

    array: UInt8Array
    labels: LabelSpace
    guess: str | None


def read_color_mask(
    rgb: UInt8Array, table: LabelSpace | None, *, path: Path, is_lossy: bool
) -> ColorMask:
    """Read colors as labels.

    Args:
        rgb: (H, W, 3) uint8.
        table: The colors of the classes; None takes each color of the mask for a class.
        path: The file, for error messages.
        is_lossy: Whether compression has changed the colors.

    Raises:
        DataError: If there are too many colors, or too many that the table does not have.
    """
    codes = _codes(rgb)
    counted = _count(codes)
    if table is None:
        space = _found_colors(counted, path, is_lossy)
        count = "1 color" if space.num_classes == 1 else f"{space.num_classes} colors"
        sentence = f"{count}, each taken for a class; a table of the colors names them"
        return ColorMask(space.encode_colors(rgb), space, sentence)
    rgb, guess = _move_to_nearest(rgb, codes, counted, table, path)
    return ColorMask(table.encode_colors(rgb, source=f"mask {path}"), table, guess)


def _codes(rgb: UInt8Array) -> npt.NDArray[np.uint32]:
    """Return each color as one number of 24 bits: (H, W)."""
    wide = rgb.astype(np.uint32)
    return np.asarray(wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2])


def _count(codes: npt.NDArray[np.uint32]) -> Counted:
    """Count colors, numbered first: a table of all 16 million takes seconds to fill."""
    is_present = np.zeros(1 << 24, np.bool_)
    is_present[codes] = True
    found = np.flatnonzero(is_present)
    number = np.zeros(1 << 24, np.uint32)
    number[found] = np.arange(len(found))
    return count_values(number[codes])._replace(values=found)


def _colors(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return numbers of 24 bits as colors: (N, 3)."""
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1)


def _found_colors(counted: Counted, path: Path, is_lossy: bool) -> LabelSpace:
    """Make a label space of the colors of a mask, named as "#ff8000"."""
    if len(counted.values) > IGNORE_INDEX or counted.is_blurred:
        raise DataError(
            f"mask {path} has {len(counted.values)} colors: expected one for each class, at most "
            f"{IGNORE_INDEX}; {_cause(counted, is_lossy)}"
        )
    colors = [(int(r), int(g), int(b)) for r, g, b in _colors(counted.values)]
    # A label space keeps this color for ignored pixels, and reads and writes it as such.
    classes = [color for color in colors if color != IGNORE_COLOR]
    if not classes:
        raise DataError(
            f"mask {path} has no pixel but those of the color {IGNORE_COLOR}, which stands for "
            "ignored ones: there is nothing to refine"
        )
    names = tuple(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in classes)
    return LabelSpace(f"colors of {path.name}", names, tuple(classes))


def _cause(counted: Counted, is_lossy: bool) -> str:
    """Return why there are too many colors, and the remedy."""
    most_frequent = np.sort(counted.counts)[-IGNORE_INDEX:]
    if 2 * most_frequent.sum() < counted.counts.sum():
        return "it looks like a photo, whose first 255 colors cover less than half: give the mask"
    if is_lossy:
        cause = "it is a JPEG, whose compression makes new colors along edges"
    elif counted.is_blurred:
        cause = "most stand along edges alone, as after anti-aliasing, scaling or compression"
    else:
        cause = "all of them fill areas, as in a heat map or with a color for each of many objects"
    return (
        f"{cause}. Give a table of the classes' colors (--colors FILE), and each pixel takes the "
        "nearest; if its colors are no classes, give its kind (--kind)"
    )


def _move_to_nearest(
    rgb: UInt8Array, codes: npt.NDArray[np.uint32], counted: Counted, table: LabelSpace, path: Path
) -> tuple[UInt8Array, str | None]:
    """Give pixels of colors that the table lacks the nearest of its colors."""
    known = np.array(table.colors, dtype=np.int64)  # (K, 3)
    exact = {(r << 16) | (g << 8) | b for r, g, b in (*table.colors, IGNORE_COLOR)}
    is_unknown = ~np.isin(counted.values, list(exact))
    if not is_unknown.any():
        return rgb, None
    unknown, counts = counted.values[is_unknown], counted.counts[is_unknown]
    nearest = np.empty(len(unknown), dtype=np.int64)
    distances = np.empty(len(unknown))
    for start in range(0, len(unknown), 4096):  # a photo has a million colors
        part = slice(start, start + 4096)
        squares = ((_colors(unknown[part])[:, None] - known) ** 2).sum(axis=2)  # (4096, K)
        nearest[part] = squares.argmin(axis=1)
        distances[part] = np.sqrt(squares.min(axis=1))
    num_far = int(counts[distances > _NEAR].sum())
    if num_far > _MOST_FAR * codes.size:
        worst = _colors(unknown[[(counts * (distances > _NEAR)).argmax()]])[0]
        raise DataError(
            f"mask {path}: {100 * num_far / codes.size:.0f} % of its pixels are far from every "
            f"color of the table {table.name!r}, most of them near {tuple(worst.tolist())}: "
            f"expected {dict(zip(table.classes, table.colors, strict=True))}; add the class, or "
            "give the table that belongs to the mask"
        )
    where = np.isin(codes, unknown)
    moved = rgb.copy()
    moved[where] = known[nearest[np.searchsorted(unknown, codes[where])]]
    num_moved = int(counts.sum())
    return moved, (
        f"{num_moved} pixels ({100 * num_moved / codes.size:.2g} %) have colors that the table "
        f"{table.name!r} lacks: each taken for the nearest class"
    )
