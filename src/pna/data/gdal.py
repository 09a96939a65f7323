"""Files that GDAL reads, by rasterio: opened, described, and named in their errors."""

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pna.errors import MissingFileError, PnaError
from pna.extras import require


def open_file(path: Path) -> Any:
    """Open a file by rasterio.

    Raises:
        MissingFileError: There is no such file.
        PnaError: rasterio is missing, or cannot read the file.
    """
    rasterio = require("rasterio")
    if not path.exists():
        raise MissingFileError(f"no raster at {path}")
    with naming(path), warnings.catch_warnings():
        # A plain image has no place, and needs none.
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        return rasterio.open(path)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn the errors of rasterio into one that names the file."""
    try:
        yield
    except gdal_errors() as error:
        # GDAL's own words are in the cause.
        raise PnaError(f"can't read {path} as a raster: {error.__cause__ or error}") from error


def gdal_errors() -> tuple[type[Exception], ...]:
    """Return the errors of rasterio, and those of GDAL that it lets pass."""
    return require("rasterio").errors.RasterioError, require("rasterio._err").CPLE_BaseError


def band_names(file: Any) -> list[str]:
    """Return the names that a file gives its bands, in lower case; "" where it gives none."""
    return [(text or "").strip().lower() for text in file.descriptions]


class Description(NamedTuple):
    """What a file is, before its values are read.

    Attributes:
        has_place: Whether it says where on the earth it lies.
        num_pixels: Rows times columns.
    """

    has_place: bool
    num_pixels: int


def describe(path: Path) -> Description | None:
    """Return what a file is; None where rasterio cannot read it.

    Raises:
        PnaError: rasterio is missing.
    """
    require("rasterio")
    try:
        with open_file(path) as file:
            return Description(has_place(file), int(file.height) * int(file.width))
    except PnaError:
        return None


class Bands(NamedTuple):
    """The bands of a file.

    Attributes:
        number: How many they are.
        names: What the file calls them, in lower case; "" where it does not.
        are_bytes: Whether all are of 8 bits.
    """

    number: int
    names: tuple[str, ...]
    are_bytes: bool


def list_bands(path: Path) -> Bands:
    """Return the bands of a file.

    Raises:
        MissingFileError: There is no such file.
        PnaError: It cannot be read as a raster.
    """
    with open_file(path) as file:
        return Bands(file.count, tuple(band_names(file)), set(file.dtypes) == {"uint8"})


def has_place(file: Any) -> bool:
    """Return whether an open file says where on the earth it lies."""
    return bool(file.crs is not None or not file.transform.is_identity or file.gcps[0])
