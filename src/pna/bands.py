"""Bands: the channels of images that are not red, green and blue, with their statistics."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pna.errors import MissingFileError, PnaError

MOST_BANDS = 20


@dataclass(frozen=True)
class Band:
    """One channel of images. Its numbers are in the units of the files.

    Attributes:
        name: For people; "red", "green" and "blue" are also what pictures are drawn from.
        mean: Mean of the values.
        std: Standard deviation of the values, above 0.
        low: The value that becomes 0; lower ones do, too.
        high: The value that becomes 1; higher ones do, too.
        number: Its place in the files, from 1; None is its place among the model's bands.

    Raises:
        PnaError: A value is out of its range.

    Example:
        >>> band = Band("near infrared", mean=2500, std=1000, low=0, high=10_000)
        >>> band.unit_mean, band.unit_std
        (0.25, 0.1)
    """

    name: str
    mean: float
    std: float
    low: float = 0.0
    high: float = 255.0
    number: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise PnaError(f"expected a band's name, got {self.name!r}")
        numbers = (self.mean, self.std, self.low, self.high)
        is_number = [isinstance(x, int | float) and not isinstance(x, bool) for x in numbers]
        if not (all(is_number) and all(map(math.isfinite, numbers))):
            raise PnaError(f"{self.name!r}: expected numbers, got {numbers}")
        if not (self.low < self.high and self.std > 0):
            raise PnaError(
                f"{self.name!r}: expected low below high and a std above 0, got low {self.low}, "
                f"high {self.high}, std {self.std}"
            )
        is_whole = isinstance(self.number, int) and not isinstance(self.number, bool)
        if self.number is not None and not (is_whole and self.number >= 1):
            raise PnaError(f"{self.name!r}: expected a number from 1, got {self.number!r}")

    @property
    def unit_mean(self) -> float:
        """The mean where `low` is 0 and `high` is 1."""
        return (self.mean - self.low) / (self.high - self.low)

    @property
    def unit_std(self) -> float:
        """The standard deviation there."""
        return self.std / (self.high - self.low)


def read_bands(values: Any) -> tuple[Band, ...]:
    """Read bands from plain values, as JSON and YAML have them.

    Args:
        values: Bands, or mappings of their fields; or their number, for images in [0, 1] of which
            nothing else is known.

    Raises:
        PnaError: There are none, or more than 20; a name comes twice; or a value does not fit.

    Example:
        >>> [band.name for band in read_bands(2)]
        ['band 1', 'band 2']
    """
    if isinstance(values, int) and not isinstance(values, bool):
        values = [
            Band(f"band {i}", mean=0.5, std=0.25, high=1.0)
            for i in range(1, min(max(values, 0), MOST_BANDS + 1) + 1)
        ]
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise PnaError(f"expected a list of bands, or their number, got {values!r}")
    bands = tuple(_read_band(value) for value in values)
    if not 1 <= len(bands) <= MOST_BANDS:
        raise PnaError(f"expected 1 to {MOST_BANDS} bands, got {len(bands)}")
    names = [band.name for band in bands]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PnaError(f"expected a name for each band, got {', '.join(twice)} again")
    return bands


def _read_band(value: Any) -> Band:
    if isinstance(value, Band):
        return value
    if not isinstance(value, dict):
        raise PnaError(f"expected a band as its fields by name, got {value!r}")
    known = [field.name for field in fields(Band)]
    needed = ("name", "mean", "std")
    if unknown := sorted(value.keys() - set(known)):
        raise PnaError(f"unknown {', '.join(unknown)} of a band; known: {', '.join(known)}")
    if missing := [name for name in needed if name not in value]:
        raise PnaError(f"expected {', '.join(needed)} of each band, got none as {missing[0]}")
    return Band(**value)


def read_band_file(path: str | Path) -> tuple[Band, ...]:
    """Read bands from a JSON file: a list of their fields, as `pna data bands` writes it.

    Raises:
        MissingFileError: There is no such file.
        PnaError: It is no such list.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise MissingFileError(f"no file of bands at {file}")
    try:
        return read_bands(json.loads(file.read_text(encoding="utf-8")))
    except (PnaError, ValueError) as error:  # json's errors and UnicodeDecodeError are ValueErrors
        raise PnaError(f"{file}: {error}") from error


def file_numbers(bands: Sequence[Band]) -> tuple[int, ...]:
    """Return the places of bands in the files, from 1."""
    return tuple(band.number or place for place, band in enumerate(bands, start=1))


def shown_channels(bands: Sequence[Band]) -> tuple[int, int, int]:
    """Return the channels, from 0, that pictures show as red, green and blue.

    Those of these names; else the first three; else the first as gray.

    Example:
        >>> shown_channels([Band(name, 0.5, 0.2) for name in ("blue", "green", "red", "nir")])
        (2, 1, 0)
    """
    names = [band.name.lower() for band in bands]
    if {"red", "green", "blue"} <= set(names):
        return names.index("red"), names.index("green"), names.index("blue")
    return (0, 1, 2) if len(bands) >= 3 else (0, 0, 0)
