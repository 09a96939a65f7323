"""Reading pictures: whatever a file, an image or an array holds becomes upright 8-bit RGB.

What each kind of picture becomes:

| kind | becomes |
|---|---|
| greyscale, palette, 1 bit, YCbCr, CMYK | RGB, by Pillow's conversion |
| transparency (alpha channel or transparent colour) | laid over white, as a viewer shows it |
| 16-bit greyscale | its upper 8 bits |
| animation, several pages | the first one |
| EXIF orientation | applied, then forgotten; EXIF data that can't be read is left aside |
| floating point, or integers beyond 16 bits | an error: only the owner knows black and white |
| more pixels than Pillow's limit (89 million) | an error: it may be made to fill the memory |

The environment variable `PNA_MAX_PIXELS` sets another limit.
"""

import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps

UInt8Array = npt.NDArray[np.uint8]
PictureLike = str | Path | Image.Image | npt.NDArray[Any]

# What Pillow raises for a damaged file depends on the format's reader; SyntaxError is PNG's.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)

LIMIT_VARIABLE = "PNA_MAX_PIXELS"
_HOW_TO_ALLOW = (
    "A small file can be made to fill the memory; if you trust this one, set the environment "
    f"variable {LIMIT_VARIABLE} to a larger number of pixels"
)


def apply_limit(value: str) -> None:
    """Sets Pillow's limit on the pixels of a picture, for this process.

    Raises:
        ValueError: If `value` is no whole number above 0.
    """
    if not value.isdecimal() or int(value) < 1:
        raise ValueError(f"{LIMIT_VARIABLE}: expected a whole number of pixels, got {value!r}")
    Image.MAX_IMAGE_PIXELS = int(value)


# Only on the user's word: the limit is Pillow's own and holds for the whole process. Processes that
# load data import this module too, so it holds for them as well.
if LIMIT_VARIABLE in os.environ:
    apply_limit(os.environ[LIMIT_VARIABLE])


def read_picture(picture: PictureLike) -> UInt8Array:
    """Read a picture as upright RGB.

    Args:
        picture: A file, a Pillow image, or an array: (H, W) or (H, W, 1) grey, (H, W, 3) RGB or
            (H, W, 4) RGBA, uint8 or (grey only) uint16.

    Returns:
        (H, W, 3) uint8, contiguous, writable and not shared with the input.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file can't be read as a picture (the message names it) or its values
            can't be brought to 8 bits without guessing.
    """
    if isinstance(picture, Image.Image):
        return _attempt(lambda: _to_rgb(picture), "the picture given")
    if isinstance(picture, np.ndarray):
        return _attempt(lambda: _to_rgb(_from_array(picture)), "the array given")
    path = Path(picture)
    if not path.exists():
        raise FileNotFoundError(f"no picture at {path}")
    return _attempt(lambda: _read_file(path), str(path))


def _attempt(read: Callable[[], UInt8Array], source: str) -> UInt8Array:
    try:
        return read()
    except UNREADABLE as error:
        raise ValueError(f"can't read {source} as a picture: {error}") from error


def open_image(path: Path) -> Image.Image:
    """Opens a file as a Pillow image; nothing is decoded yet.

    Raises:
        ValueError: If it has more pixels than allowed. Pillow itself warns, and refuses only files
            of twice the limit.
        OSError: If it is missing or is no picture; other errors are among `UNREADABLE`.
    """
    try:
        image = Image.open(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{error} {_HOW_TO_ALLOW}") from error
    limit = Image.MAX_IMAGE_PIXELS
    num_pixels = image.width * image.height
    if limit is not None and num_pixels > limit:
        image.close()
        raise ValueError(f"it has {num_pixels} pixels, the limit is {limit}. {_HOW_TO_ALLOW}")
    return image


def turn_upright(image: Image.Image) -> Image.Image:
    """Decodes an image and turns it as its EXIF orientation says, if it has one that can be read.

    Returns:
        The image itself where there is nothing to turn: a copy of a large one takes its memory.

    Raises:
        OSError: If it is damaged; other errors are among `UNREADABLE`.
    """
    image.load()
    try:
        is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return image if is_upright else ImageOps.exif_transpose(image)
    except UNREADABLE:  # a viewer shows such a picture too
        return image


def _read_file(path: Path) -> UInt8Array:
    with open_image(path) as image:
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> UInt8Array:
    upright = turn_upright(image)
    if upright.mode.startswith("I"):
        upright = _upper_bits(upright)
    elif upright.mode == "F":
        raise ValueError("it holds floating-point values; scale them to 8 bits first")
    elif upright.has_transparency_data:
        with_alpha = upright.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, "white")
        upright = Image.alpha_composite(white, with_alpha)
    rgb = upright if upright.mode == "RGB" else upright.convert("RGB")
    return np.array(rgb, dtype=np.uint8)


def _upper_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"its values lie in [{low}, {high}]; scale them to 8 bits first")
    return Image.fromarray((values >> 8).astype(np.uint8))


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    grey = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    colour = array.ndim == 3 and array.shape[2] in (3, 4)
    if not (grey or colour) or array.size == 0:
        raise ValueError(f"expected (H, W), (H, W, 3) or (H, W, 4), got shape {array.shape}")
    if array.dtype != np.uint8 and not (grey and array.dtype == np.uint16):
        raise ValueError(f"expected uint8 values (or uint16 for grey), got {array.dtype}")
    flat = array.reshape(array.shape[:2]) if grey else array
    return Image.fromarray(np.ascontiguousarray(flat))
