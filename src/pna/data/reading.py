"""Files to arrays: pictures as predictions read them, masks as they are stored.

Every failure is a `DataError` that names the file. A viewer's idea of upright holds for both: an
EXIF orientation turns the picture, and a mask that has one of its own.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pna.data import pictures
from pna.data.errors import DataError
from pna.labels import IGNORE_INDEX, LabelSpace, out_of_range

NO_CLASS = -1  # in a lookup table: the data set has no such value


def read_picture(file: Path) -> NDArray[np.uint8]:
    """Reads a picture as upright (H, W, 3) uint8 red-green-blue, the way predictions read theirs.

    Raises:
        DataError: If the file is missing or damaged, or its values don't fit into 8 bits.
    """
    try:
        return pictures.read_picture(file)
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"picture of a data set: {error}; replace the file") from error


def read_index_mask(file: Path) -> NDArray[np.integer]:
    """Reads a mask whose pixel values are class indices: (H, W), palette or greyscale, 1-32 bits.

    Transparency is left out: it says nothing about the class.

    Raises:
        DataError: If the file is missing, damaged, or has colour channels.
    """
    mask = _decoded(file)
    if mask.mode in ("LA", "PA"):
        mask = mask.getchannel(0)
    if len(mask.getbands()) > 1 or mask.mode == "F":
        raise DataError(
            f"mask {file} has mode {mask.mode}: expected class indices in a palette or "
            "greyscale picture; if its colours stand for classes, read it as a colour mask"
        )
    values = np.array(mask)
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def read_colors(file: Path) -> NDArray[np.uint8]:
    """Reads the colours of a mask: (H, W, 3) uint8 red-green-blue, transparency left out.

    Raises:
        DataError: If the file is missing or damaged.
    """
    return np.array(_decoded(file).convert("RGB"))


def read_color_mask(file: Path, labels: LabelSpace) -> NDArray[np.uint8]:
    """Reads a mask whose colours stand for classes: (H, W) uint8 labels.

    Raises:
        DataError: If the file is missing or damaged, or a colour belongs to no class.
    """
    rgb = read_colors(file)
    try:
        return labels.encode_colors(rgb, source=f"mask {file}")
    except ValueError as error:
        raise DataError(str(error)) from error


def translate(
    values: NDArray[np.integer], labels: Mapping[int, int], file: Path, *, what: str
) -> NDArray[np.uint8]:
    """Replaces the values of a mask by labels, all at once by a lookup table.

    Args:
        values: As the owners store them, (H, W), any integer type.
        labels: The label of each value that may occur, 0 or more.
        file: Where the values come from, for the error message.
        what: What the values are, for the error message.

    Returns:
        Labels (H, W), uint8.

    Raises:
        DataError: If a value is not among `labels`.
    """
    top = max(labels)
    table = np.full(top + 2, NO_CLASS, dtype=np.int16)  # the last entry is for values beyond
    table[list(labels)] = list(labels.values())
    within = np.where((values < 0) | (values > top), top + 1, values)
    found = table[within]
    bad = np.unique(values[found == NO_CLASS])
    if bad.size:
        raise DataError(
            f"mask {file} has {what} {bad[:8].tolist()}{' ...' if bad.size > 8 else ''}: "
            f"expected {_ranges(sorted(labels))}; replace the file"
        )
    return found.astype(np.uint8)


def checked_labels(values: NDArray[np.integer], file: Path, space: LabelSpace) -> NDArray[np.uint8]:
    """Returns class indices as uint8.

    Raises:
        DataError: If a value is neither a class of `space` nor `IGNORE_INDEX`.
    """
    bad = out_of_range(values, space.num_classes)
    if bad:
        raise DataError(
            f"mask {file} has labels {bad[:8]}{' ...' if len(bad) > 8 else ''}: allowed are "
            f"0..{space.num_classes - 1} ({space.name}) and {IGNORE_INDEX} for ignored pixels"
        )
    return values.astype(np.uint8)


def _decoded(file: Path) -> Image.Image:
    """Opens and decodes a mask, upright by its EXIF tag if it has one; every failure names it."""
    try:
        with pictures.open_image(file) as mask:  # closes the file; what was loaded stays
            return pictures.turn_upright(mask)
    except pictures.UNREADABLE as error:
        raise DataError(f"cannot read the mask {file}: {error}; replace the file") from error


def _ranges(values: list[int]) -> str:
    """Ascending numbers, neighbours joined: "0..3, 7, 9..11"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
