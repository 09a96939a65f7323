"""Files to arrays: images as `Predictor` reads them, masks as they are stored.

Every failure is a `DataError` that names the file. Images and masks alike are turned by an EXIF
orientation of their own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pna.bands import Band
from pna.data import images
from pna.data.errors import DataError
from pna.errors import PnaError
from pna.labels import IGNORE_INDEX, Color, LabelSpace, out_of_range

NO_CLASS = -1  # in a lookup table: the data set has no such value


def read_image(file: Path) -> NDArray[np.uint8]:
    """Read an image as upright (H, W, 3) uint8 red-green-blue, as `Predictor` does.

    Raises:
        DataError: If the file is missing or damaged, or its values don't fit into 8 bits.

    Example:
        >>> from tempfile import mkdtemp
        >>> file = Path(mkdtemp()) / "gray.png"
        >>> Image.new("L", (4, 2), 7).save(file)
        >>> read_image(file).shape, read_index_mask(file).tolist()
        ((2, 4, 3), [[7, 7, 7, 7], [7, 7, 7, 7]])
    """
    try:
        return images.read_image(file)
    except PnaError as error:
        raise DataError(f"image of a data set: {error}; replace the file") from error


def read_band_image(
    file: Path, bands: Sequence[Band]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Read an image of bands, scaled: (C, H, W) float32 in [0, 1], and (H, W), where it has data.

    Without data a pixel is the bands' mean, which the model's normalization turns into zeros.

    Raises:
        DataError: If the file is missing or damaged, or lacks a band.
    """
    from pna.data.raster import open_bands

    try:
        with open_bands(file, bands) as raster:
            planes, valid = raster.read((slice(0, raster.height), slice(0, raster.width)))
    except PnaError as error:
        raise DataError(f"image of a data set: {error}") from error
    mean = np.array([band.unit_mean for band in bands], np.float32)[:, None, None]
    return np.where(valid, planes, mean), valid


def read_index_mask(file: Path) -> NDArray[np.integer]:
    """Read a mask whose pixel values are class indices: (H, W), palette or grayscale, 1-32 bits.

    Transparency is left out: it is no part of the class.

    Raises:
        DataError: If the file is missing, damaged, or has color channels.
    """
    mask = _decoded(file)
    # Only now: converting a palette to another mode would turn indices into colors.
    if mask.mode in ("LA", "PA"):
        mask = mask.getchannel(0)
    if len(mask.getbands()) > 1 or mask.mode == "F":
        raise DataError(
            f"mask {file} has mode {mask.mode}: expected class indices in a palette or "
            "grayscale image; if its colors stand for classes, read it as a color mask"
        )
    values = np.array(mask)
    # A mask of 1 bit holds classes 0 and 1; arithmetic on booleans would differ.
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def read_colors(file: Path) -> NDArray[np.uint8]:
    """Read the colors of a mask: (H, W, 3) uint8 red-green-blue, transparency left out.

    Raises:
        DataError: If the file is missing or damaged.
    """
    return np.array(_decoded(file).convert("RGB"))


def read_color_mask(
    file: Path, labels: LabelSpace, *, ignore: Color | None = None
) -> NDArray[np.uint8]:
    """Read a mask whose colors stand for classes: (H, W) uint8 labels.

    Args:
        file: The mask.
        labels: Whose colors it has.
        ignore: Another color of ignored pixels.

    Raises:
        DataError: If the file is missing or damaged, or a color belongs to no class.
    """
    rgb = read_colors(file)
    try:
        return labels.encode_colors(rgb, ignore=ignore, source=f"mask {file}")
    except PnaError as error:
        raise DataError(str(error)) from error


def translate(
    values: NDArray[np.integer], labels: Mapping[int, int], file: Path, *, what: str
) -> NDArray[np.uint8]:
    """Replace the values of a mask by labels, all at once by a lookup table.

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
    # Values that the table does not reach share its last entry, which is no class.
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
    """Check class indices and return them as uint8.

    Raises:
        DataError: If a value is neither a class of `space` nor `IGNORE_INDEX`.
    """
    # Before the cast: 256 as a byte would be class 0.
    bad = out_of_range(values, space.num_classes)
    if bad:
        raise DataError(
            f"mask {file} has labels {bad[:8]}{' ...' if len(bad) > 8 else ''}: allowed are "
            f"0..{space.num_classes - 1} ({space.name}) and {IGNORE_INDEX} for ignored pixels; "
            "if your masks mark ignored pixels by one of these values, give it as ignore"
        )
    return values.astype(np.uint8)


def _decoded(file: Path) -> Image.Image:
    """Open and decode a mask, turned by its EXIF orientation."""
    try:
        with images.open_image(file) as mask:  # closes the file; what was loaded stays
            return images.turn_upright(mask)
    except images.UNREADABLE as error:
        raise DataError(f"cannot read the mask {file}: {error}; replace the file") from error


def _ranges(values: list[int]) -> str:
    """Format ascending numbers, neighbors joined: "0..3, 7, 9..11"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}..{run[-1]}" for run in runs)
