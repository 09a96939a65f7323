"""Reading images: files, Pillow images and arrays become upright 8-bit RGB.

| kind | becomes |
|---|---|
| grayscale, palette, 1 bit, YCbCr, CMYK | RGB, by Pillow's conversion |
| transparency (alpha channel or transparent color) | laid over white, as a viewer shows it |
| 16 bits, gray or color | their upper 8 bits; with a warning if no value needs more than 12 bits |
| animation, several pages | the first one |
| EXIF orientation | applied, then forgotten; EXIF data that can't be read is left aside |
| floating point, or integers beyond 16 bits | an error: black and white are not defined |
| more pixels than Pillow's limit (89 million) | an error: it may be made to fill the memory |

The environment variable `PNA_MAX_PIXELS` sets another limit.
"""

import contextlib
import io
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from pna.bands import Band, shown_channels
from pna.data.errors import DataWarning
from pna.errors import MissingFileError, PnaError

UInt8Array = npt.NDArray[np.uint8]
ImageLike = str | Path | bytes | BinaryIO | Image.Image | npt.NDArray[Any]

# What Pillow raises for a damaged file depends on the format's reader; SyntaxError is PNG's.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)

LIMIT_VARIABLE = "PNA_MAX_PIXELS"
_HOW_TO_ALLOW = (
    "A small file can be made to fill the memory; if you trust this one, set the environment "
    f"variable {LIMIT_VARIABLE} to a larger number of pixels"
)


def apply_limit(value: str) -> None:
    """Set Pillow's limit on the pixels of an image, for this process.

    Raises:
        PnaError: If `value` is no whole number above 0.
    """
    if not value.isdecimal() or int(value) < 1:
        raise PnaError(f"{LIMIT_VARIABLE}: expected a whole number of pixels, got {value!r}")
    Image.MAX_IMAGE_PIXELS = int(value)


# Only on the user's word: the limit is Pillow's own and holds for the whole process. Processes that
# load data import this module too, so it holds for them as well.
if LIMIT_VARIABLE in os.environ:
    apply_limit(os.environ[LIMIT_VARIABLE])


def read_image(image: ImageLike) -> UInt8Array:
    """Read an image as upright RGB.

    Args:
        image: A path, the bytes of a file, a binary file object, a Pillow image, or an array:
            (H, W) or (H, W, 1) gray, (H, W, 3) RGB or (H, W, 4) RGBA, uint8 or (gray only) uint16.

    Returns:
        (H, W, 3) uint8, contiguous, writable and not shared with the input.

    Raises:
        MissingFileError: If there is no such file.
        PnaError: If the file can't be read as an image (the message names it) or its values
            can't be brought to 8 bits without guessing.

    Example:
        >>> read_image(np.array([[0, 255]], np.uint8)).tolist()
        [[[0, 0, 0], [255, 255, 255]]]
    """
    if isinstance(image, Image.Image):
        with _naming("the image given"):
            return _to_rgb(image)
    if isinstance(image, np.ndarray):
        with _naming("the array given"):
            return _to_rgb(_from_array(image))
    source = "the file given"
    given: object = image  # of any type, whatever was promised
    if isinstance(image, str | os.PathLike):
        image, source = Path(image), str(image)
        if not image.exists():
            raise MissingFileError(f"no image at {image}")
    elif isinstance(image, bytes | bytearray | memoryview):
        image = io.BytesIO(image)
    elif isinstance(given, io.TextIOBase) or not hasattr(given, "read"):
        raise PnaError(
            "expected an image as a path, bytes, a binary file object, a Pillow image or an array, "
            f"got {type(image).__name__}"
        )
    with _naming(source), open_image(image) as opened:
        return _to_rgb(opened)


def to_picture(planes: npt.NDArray[Any], bands: Sequence[Band] | None) -> UInt8Array:
    """Make a picture of an image of any channels.

    Args:
        planes: (C, H, W), uint8, or float in [0, 1].
        bands: The channels; None are RGB, or unknown, whose first three are taken.

    Returns:
        (H, W, 3) uint8, contiguous: bands called red, green and blue, or the first three, or the
        first as gray.
    """
    if bands is not None:
        channels = shown_channels(bands)
    else:
        channels = (0, 1, 2) if len(planes) >= 3 else (0, 0, 0)
    shown = planes[list(channels)]
    if shown.dtype != np.uint8:
        shown = (255 * shown.astype(np.float32)).round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(shown.transpose(1, 2, 0))


@contextlib.contextmanager
def _naming(source: str) -> Iterator[None]:
    """Turn the errors of Pillow's readers, and our own, into one that names the image."""
    try:
        yield
    except UNREADABLE as error:
        # Pillow's own words name the object that holds the bytes.
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "its format is none that Pillow knows" if is_unknown else error
        raise PnaError(f"can't read {source} as an image: {reason}") from error


def open_image(path: Path | BinaryIO) -> Image.Image:
    """Open a file as a Pillow image; nothing is decoded yet.

    Raises:
        PnaError: If it has more pixels than allowed. Pillow itself warns, and refuses only files
            of twice the limit.
        OSError: If it is missing or is no image; other errors are among `UNREADABLE`.
    """
    try:
        image = Image.open(path)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PnaError(f"{error} {_HOW_TO_ALLOW}") from error
    limit = Image.MAX_IMAGE_PIXELS
    num_pixels = image.width * image.height
    if limit is not None and num_pixels > limit:
        image.close()
        raise PnaError(f"it has {num_pixels} pixels, the limit is {limit}. {_HOW_TO_ALLOW}")
    return image


def turn_upright(image: Image.Image) -> Image.Image:
    """Decode an image and turn it by its EXIF orientation, if it has one that can be read.

    Returns:
        The image itself where there is nothing to turn: a copy of a large one takes its memory.

    Raises:
        OSError: If it is damaged; other errors are among `UNREADABLE`.
    """
    image.load()
    try:
        is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return image if is_upright else ImageOps.exif_transpose(image)
    except UNREADABLE:  # a viewer shows such an image too
        return image


def _to_rgb(image: Image.Image) -> UInt8Array:
    # Pillow decodes color of 16 bits to its upper 8, so the depth is read before.
    # The tile's arguments name the raw mode of the file, such as "RGB;16B".
    has_16_bits = ";16" in str(getattr(image, "tile", ""))
    upright = turn_upright(image)
    if upright.mode.startswith("I"):
        upright, has_16_bits = _upper_bits(upright), False  # its values are checked there
    elif upright.mode == "F":
        raise PnaError("it holds floating-point values; scale them to 8 bits first")
    elif upright.has_transparency_data:
        with_alpha = upright.convert("RGBA")
        white = Image.new("RGBA", with_alpha.size, "white")
        upright = Image.alpha_composite(white, with_alpha)
    rgb = np.array(upright if upright.mode == "RGB" else upright.convert("RGB"), dtype=np.uint8)
    # Only the upper bytes are left, so 4096 is 16 here.
    if has_16_bits and 0 < rgb.max() < 4096 >> 8:
        _warn_of_twelve_bits()
    return rgb


def _upper_bits(image: Image.Image) -> Image.Image:
    # Wide enough for all of Pillow's integer modes: I is signed 32 bits, I;16 unsigned 16.
    values = np.asarray(image).astype(np.int64)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise PnaError(f"its values lie in [{low}, {high}]; scale them to 8 bits first")
    if 0 < high < 4096:
        _warn_of_twelve_bits()
    return Image.fromarray((values >> 8).astype(np.uint8))


def _warn_of_twelve_bits() -> None:
    # A camera of 10 or 12 bits, or a dark scene: only the owner can tell, so nothing is scaled.
    warnings.warn(
        "a 16-bit image holds no value above 4095, as a camera of 12 bits writes it: its upper 8 "
        "bits, which are read, are almost black; multiply its values by 16 first",
        DataWarning,
        stacklevel=2,
    )


def _from_array(array: npt.NDArray[Any]) -> Image.Image:
    gray = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    color = array.ndim == 3 and array.shape[2] in (3, 4)
    if not (gray or color) or array.size == 0:
        raise PnaError(f"expected (H, W), (H, W, 3) or (H, W, 4), got shape {array.shape}")
    if array.dtype != np.uint8 and not (gray and array.dtype == np.uint16):
        raise PnaError(f"expected uint8 values (or uint16 for gray), got {array.dtype}")
    flat = array.reshape(array.shape[:2]) if gray else array
    return Image.fromarray(np.ascontiguousarray(flat))
