"""Files to arrays, and pictures to their masks: everything that touches the disk.

Pairs are matched by the stem of the file name, never by sort order, and a missing partner is an
error that names it.
"""

import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pna.data import pictures
from pna.data.errors import DataError
from pna.labels import IGNORE_INDEX, LabelSpace, out_of_range

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")

# What Pillow raises on damaged files, over all its decoders.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)


class Pair(NamedTuple):
    """A picture and its mask.

    Attributes:
        picture: File of the picture.
        mask: File of the labels, the same stem.
        name: The stem.
    """

    picture: Path
    mask: Path
    name: str


def existing_folder(folder: Path, *, needed_for: str) -> Path:
    """Returns `folder`, or says what it should hold.

    Raises:
        DataError: If `folder` is not a folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder}: it should hold {needed_for}; check the root folder, "
            "or see the layouts in the data page of the documentation"
        )
    return folder


def read_list(file: Path) -> list[str]:
    """Reads a split list: one stem per line, blank lines skipped.

    Raises:
        DataError: If the file is missing, is not text, is empty, or names a stem twice.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the split list {file}: {error}; expected a text file with one stem a line"
        ) from error
    stems = [line.strip() for line in lines if line.strip()]
    if not stems:
        raise DataError(f"split list {file} is empty: expected one stem a line")
    stem, count = Counter(stems).most_common(1)[0]
    if count > 1:
        raise DataError(f"split list {file} names {stem!r} {count} times; keep one line")
    return stems


def files_by_stem(folder: Path, *, needed_for: str) -> dict[str, Path]:
    """The picture files of a folder (see `PICTURE_SUFFIXES`), sorted by stem.

    Raises:
        DataError: If the folder is missing, or two files share a stem.
    """
    files: dict[str, Path] = {}
    for file in sorted(existing_folder(folder, needed_for=needed_for).iterdir()):
        if file.suffix.lower() not in PICTURE_SUFFIXES or file.name.startswith("."):
            continue
        if file.stem in files:
            raise DataError(
                f"{folder} has two files of the stem {file.stem!r}: {files[file.stem].name} and "
                f"{file.name}; pairs are matched by stem, so rename or remove one"
            )
        files[file.stem] = file
    return dict(sorted(files.items()))


def match_pairs(
    picture_folder: Path, mask_folder: Path, stems: Iterable[str] | None = None
) -> list[Pair]:
    """Matches the files of two folders by stem.

    Args:
        picture_folder: Folder of the pictures.
        mask_folder: Folder of the masks.
        stems: The pairs wanted, in this order; None takes all, sorted by stem, and then every file
            of both folders must have a partner.

    Raises:
        DataError: If a folder or a partner is missing, or nothing is left.
    """
    picture_files = files_by_stem(picture_folder, needed_for="pictures")
    mask_files = files_by_stem(mask_folder, needed_for="masks")
    wanted = sorted({*picture_files, *mask_files}) if stems is None else list(stems)
    if not wanted:
        raise DataError(
            f"no pictures in {picture_folder}, no masks in {mask_folder}: expected files "
            f"with one of the suffixes {' '.join(PICTURE_SUFFIXES)}"
        )
    places = f"pictures are in {picture_folder}, masks in {mask_folder}, matched by stem"
    for what, files in (("picture", picture_files), ("mask", mask_files)):
        missing = [stem for stem in wanted if stem not in files]
        if missing:
            more = f" (nor for {len(missing) - 1} others)" if len(missing) > 1 else ""
            raise DataError(
                f"no {what} for {missing[0]!r}{more}: {places}; add it, or leave the stem out"
            )
    return [Pair(picture_files[stem], mask_files[stem], stem) for stem in wanted]


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
    """Reads a mask whose pixel values are class indices: (H, W), palette or greyscale.

    Raises:
        DataError: If the file is missing, damaged, or has colour channels.
    """
    mask = _decoded(file)
    if len(mask.getbands()) > 1 or mask.mode == "F":
        raise DataError(
            f"mask {file} has mode {mask.mode}: expected class indices in a palette or "
            "greyscale picture; if its colours stand for classes, read it as a colour mask"
        )
    values = np.array(mask)
    return values.astype(np.uint8) if values.dtype == np.bool_ else values


def read_color_mask(file: Path, labels: LabelSpace) -> NDArray[np.uint8]:
    """Reads a mask whose colours stand for classes: (H, W) uint8 labels.

    Raises:
        DataError: If the file is missing or damaged, or a colour belongs to no class.
    """
    rgb = np.array(_decoded(file).convert("RGB"))
    try:
        return labels.encode_colors(rgb, source=f"mask {file}")
    except ValueError as error:
        raise DataError(str(error)) from error


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
    """Opens and decodes a mask; every failure names it."""
    try:
        with Image.open(file) as mask:  # closes the file; what was loaded stays
            mask.load()
    except (*_DECODE_ERRORS, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read the mask {file}: {error}; replace the file") from error
    return mask
