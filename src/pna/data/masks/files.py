"""Masks in files: read as arrays that can be refined, written as the same kind of file.

| file | read as | written as |
|---|---|---|
| 1 bit; gray of {0, 255} or {0, 1} | binary | the same two values |
| palette | labels, the indices | the same palette and transparency |
| gray of 8 or 16 bits, levels that fill areas | labels, the levels: a guess | the same levels |
| gray of 8 or 16 bits, levels along edges | soft: a guess | gray of as many bits |
| gray JPEG | soft: a guess | gray PNG |
| RGB, RGBA | colors, each a class | the same colors |
| gray stored as RGB | as gray | gray stored as RGB |
| RGBA, kind alpha | binary or soft, the alpha channel | the cut-out with a new alpha channel |
| TIFF of floats | soft | TIFF of floats |
| `.npy`, `.npz` with one array | binary, labels or soft, by its type | the same type |

A mask is turned by an EXIF orientation of its own, as its image is.
"""

import warnings
from pathlib import Path
from typing import get_args

import numpy as np

from pna.data.errors import DataError, DataWarning
from pna.data.images import UInt8Array
from pna.data.masks.arrays import MaskArray
from pna.data.masks.forms import MaskFile
from pna.data.masks.images import read_image_mask
from pna.data.masks.kinds import ReadAs
from pna.data.masks.npy import ARRAY_SUFFIXES, read_array_mask
from pna.errors import MissingFileError, PnaError
from pna.files import write_atomically
from pna.labels import IGNORE_INDEX, LabelSpace

__all__ = ["ARRAY_SUFFIXES", "MaskFile", "ReadAs", "read_mask", "write_mask"]


def read_mask(
    path: str | Path, *, kind: ReadAs | None = None, colors: LabelSpace | None = None
) -> MaskFile:
    """Read a mask of any kind from an image or a numpy file.

    Args:
        path: The file.
        kind: "binary" (levels are cut at one half), "labels", "colors", "soft", or "alpha" for a
            cut-out whose alpha channel is the mask. None takes what the file states, or guesses
            and says so in `MaskFile.guess`.
        colors: The color table of a color-coded mask: pixels of other colors take the nearest
            class. Of a mask of label numbers it names the classes. None takes each color that is
            found for a class.

    Raises:
        MissingFileError: If there is no such file.
        DataError: If the file cannot be read, holds more than 255 classes or does not fit the
            kind, if all pixels are ignored, or if numbers are out of range.

    Warns:
        DataWarning: If the mask has no edge: it is empty, or one class fills it.

    Example:
        >>> from tempfile import mkdtemp
        >>> from PIL import Image
        >>> file = Path(mkdtemp()) / "mask.png"
        >>> Image.fromarray(np.array([[0, 0, 255]], np.uint8)).save(file)
        >>> mask = read_mask(file)
        >>> mask.kind, mask.array.tolist()
        ('binary', [[False, False, True]])
        >>> write_mask(mask, ~mask.array, file)
        >>> np.asarray(Image.open(file)).tolist()
        [[255, 255, 0]]
    """
    path = Path(path)
    if kind not in (None, *get_args(ReadAs)):
        raise PnaError(f"no kind of mask {kind!r}: expected {', '.join(get_args(ReadAs))} or None")
    if not path.exists():
        raise MissingFileError(f"no mask at {path}")
    read = read_array_mask if path.suffix.lower() in ARRAY_SUFFIXES else read_image_mask
    mask = read(path, kind, colors)
    _check_edges(mask)
    return mask


def write_mask(
    mask_file: MaskFile, refined: MaskArray, path: str | Path, *, image: UInt8Array | None = None
) -> None:
    """Write a mask as the kind of file that was read, by `pna.files.write_atomically`.

    Args:
        mask_file: As it was read.
        refined: The mask to write: of the kind, size and type of `mask_file.array`.
        path: The file, with the ending `mask_file.form.suffix`; its folder exists.
        image: (H, W, 3) uint8: the colors of pixels of a cut-out that were transparent; without
            it they keep what the file has there, often black.

    Raises:
        PnaError: If the array or the ending of the file differ from what was read.
    """
    path, given = Path(path), mask_file.array
    if refined.shape != given.shape or refined.dtype != given.dtype:
        raise PnaError(
            f"mask {mask_file.path} was read as {given.shape} of {given.dtype}: expected the same "
            f"to write, got {refined.shape} of {refined.dtype}"
        )
    if path.suffix.lower() != mask_file.form.suffix.lower():
        raise PnaError(
            f"{path}: expected a file that ends in {mask_file.form.suffix}, since the mask "
            f"{mask_file.path} is written as such a file"
        )
    if image is not None and image.shape != (*mask_file.size, 3):
        raise PnaError(
            f"{path}: expected an image {(*mask_file.size, 3)}, as large as the mask, got "
            f"{image.shape}"
        )
    write_atomically(path, lambda beside: mask_file.form.write(refined, beside, image))


def _check_edges(mask: MaskFile) -> None:
    """Refuse a mask of ignored pixels alone, and warn of one without an edge."""
    array = mask.array
    if np.issubdtype(array.dtype, np.integer) and (array == IGNORE_INDEX).all():
        raise DataError(
            f"mask {mask.path} holds {IGNORE_INDEX} alone, which stands for ignored pixels: there "
            "is nothing to refine; if it is foreground, give the kind binary"
        )
    if mask.has_edges:
        return
    fill = "one class fills it"
    if mask.kind in ("binary", "soft") and array.ndim == 2:
        fill = "all of it is foreground" if array.any() else "it is empty"
    warnings.warn(
        f"mask {mask.path} has no edge to refine: {fill}; it stays as it is",
        DataWarning,
        stacklevel=3,
    )
