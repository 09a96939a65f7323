"""Statistics of the bands of images, for the normalization of a network."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pna.bands import Band, read_bands
from pna.data.check import spread
from pna.data.gdal import Bands, list_bands
from pna.data.raster import Raster, Scale
from pna.errors import PnaError

MOST_FILES = 200
"""Rasters that are measured, at most: evenly spread over those given."""
_SIDE = 256
# Share of the values that may lie beyond the proposed scale, on either side.
_BEYOND = 0.1 / 100


def measure_bands(
    files: Sequence[Path],
    *,
    names: Sequence[str] | None = None,
    scale: Scale | None = None,
) -> tuple[Band, ...]:
    """Measure mean and standard deviation of each band of some rasters.

    Pixels without data are left out. Of more than 200 rasters as many are measured, evenly spread,
    each at 256 pixels along its longer side.

    Args:
        files: Rasters of the same bands.
        names: Names of the bands; those in the files by default, else numbers.
        scale: The values that become 0 and 1. By default 0 and 255 for 8 bits; otherwise those
            between which 99.8 % of the values lie.

    Raises:
        MissingFileError: A file is not there.
        PnaError: A file cannot be read, or has another number of bands than the first; or a band
            has one value everywhere.
    """
    if not files:
        raise PnaError("expected rasters to measure, got none")
    first = list_bands(files[0])
    count = first.number
    if names is not None and len(names) != count:
        raise PnaError(f"{files[0]} has {count} bands, got {len(names)} names: {', '.join(names)}")
    names = names or [name or f"band {i}" for i, name in enumerate(first.names, start=1)]
    parts = []
    for file in (files[i] for i in spread(len(files), MOST_FILES)):
        if (other := list_bands(file)) != first:
            raise PnaError(
                f"{file} has {_words(other)}, {files[0]} has {_words(first)}: measure files of one "
                "kind"
            )
        # The scale is what is wanted; values are read as they are stored.
        with Raster(file, bands=range(1, count + 1), scale=(0, 1), channels=count) as raster:
            values, valid = raster.read_values(_SIDE)
        parts.append(values[:, valid].astype(np.float64))
    if scale is None and first.are_bytes:
        scale = (0, 255)
    values = np.concatenate(parts, axis=1)  # (bands, pixels)
    # Read again, so that what is written is what recipes accept.
    return read_bands(
        [_measure(name, band, scale) for name, band in zip(names, values, strict=True)]
    )


def _words(bands: Bands) -> str:
    named = ", ".join(filter(None, bands.names))
    depth = "8 bits" if bands.are_bytes else "more than 8 bits"
    return f"{bands.number} bands{f' ({named})' if named else ''} of {depth}"


def _measure(name: str, values: npt.NDArray[np.float64], scale: Scale | None) -> Band:
    if not values.size or values.min() == values.max():
        what = f"is {values[0]:g} everywhere" if values.size else "has no pixel with data"
        raise PnaError(f"{name} {what}: leave it out of the files, or choose others")
    low, high = scale or np.quantile(values, (_BEYOND, 1 - _BEYOND))
    mean, std, low, high = (float(f"{x:.6g}") for x in (values.mean(), values.std(), low, high))
    return Band(name, mean, std, low, high)
