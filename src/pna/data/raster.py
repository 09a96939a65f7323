"""Rasters: images of any size, read window by window, with their place on the earth.

GDAL reads them, by rasterio (`pip install "pna[geo]"`): GeoTIFF, virtual rasters, JPEG 2000, and
large TIFF, PNG and JPEG files, too.

| in the file | becomes |
|---|---|
| bands named red, green and blue | these three, in this order |
| three bands without such names | red, green, blue, as they come |
| one band | three equal ones |
| one band of a palette | its colors |
| other bands | an error, unless `bands` names those to take, or the model its own |
| 8 bits | value / 255 |
| 16 bits, floating point | (value - low) / (high - low), clipped to [0, 1]; `scale` gives both |
| nodata, masks, transparency | not valid: no class there |
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pna.bands import Band, file_numbers
from pna.data.gdal import band_names, naming, open_file
from pna.errors import PnaError

Window = tuple[slice, slice]
"""Rows and columns."""
Scale = tuple[float, float]
"""The values that become 0 and 1."""

# Formats that decode from the top: a window far down costs as much as the whole.
_SEQUENTIAL = ("PNG", "JPEG", "GIF", "BMP")
# Side in pixels of the reduced image whose values tell how to scale one of 16 bits.
_LOOK = 1024


class Place(NamedTuple):
    """Where a raster lies.

    Attributes:
        crs: rasterio's coordinate reference system; None in pixels.
        transform: rasterio's affine transform of columns and rows to its coordinates.
    """

    crs: Any
    transform: Any


class RasterFile:
    """A file of GDAL that stays open: its size and its place.

    Args:
        path: The file.

    Attributes:
        path: The file.
        height: Rows.
        width: Columns.
        place: Where it lies.
        ground_control: Points and reference system of a file that is placed by points instead.

    Raises:
        MissingFileError: There is no such file.
        PnaError: rasterio is missing, or cannot read the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = open_file(path)
        self.height, self.width = int(self._file.height), int(self._file.width)
        self.place = Place(self._file.crs, self._file.transform)
        self.ground_control: tuple[Any, Any] = self._file.gcps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Raster(RasterFile):
    """An image that is read window by window.

    Args:
        path: The file.
        bands: Numbers of bands, from 1: one for each channel, or one for all; None takes red,
            green and blue as the table of this module says.
        scale: The values that become 0 and 1, of all bands or of each; needed for all but 8 bits.
        channels: Number of channels C.

    Attributes:
        bands: The numbers of the bands that are read.

    Raises:
        MissingFileError: There is no such file.
        PnaError: rasterio is missing, or cannot read the file; or it has to be said which bands or
            which values to take.
    """

    def __init__(
        self,
        path: Path,
        *,
        bands: Sequence[int] | None = None,
        scale: Scale | Sequence[Scale] | None = None,
        channels: int = 3,
    ) -> None:
        super().__init__(path)
        self.channels = channels
        try:
            self._check_kind()
            names = [color.name for color in self._file.colorinterp]
            self._alpha = names.index("alpha") + 1 if "alpha" in names else None
            self._palette = self._find_palette()
            self.bands = self._choose_bands(bands)
            self.scale = self._choose_scale(scale)
        except BaseException:
            self.close()
            raise

    @property
    def is_random_access(self) -> bool:
        """Whether windows can be read in any order at a price; PNG and JPEG decode from the top."""
        return self._file.driver not in _SEQUENTIAL

    def read(self, window: Window) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Read a window.

        Args:
            window: Rows and columns inside the raster.

        Returns:
            (C, h, w), uint8 or, scaled, float32 in [0, 1]; and (h, w), where it is valid.

        Raises:
            PnaError: The file is damaged.
        """
        rows, cols = window
        with naming(self.path):
            shape = ((rows.start, rows.stop), (cols.start, cols.stop))
            values = self._file.read(list(self.bands), window=shape)
            valid = self._valid(window=shape)
        return self._to_rgb(values, valid)

    def _valid(self, **where: Any) -> npt.NDArray[np.bool_]:
        """Read where all bands that are read have data, and nothing is transparent."""
        numbers = sorted(set(self.bands))
        out = where.pop("out_shape", None)
        shape = {} if out is None else {"out_shape": (len(numbers), *out)}
        valid = (self._file.read_masks(numbers, **where, **shape) > 0).all(axis=0)
        # Beside a nodata value GDAL's masks leave transparency out.
        if self._alpha is not None:
            shape = {} if out is None else {"out_shape": out}
            valid &= self._file.read(self._alpha, **where, **shape) > 0
        found: npt.NDArray[np.bool_] = valid
        return found

    def read_reduced(self, side: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Read the whole raster at a smaller size, from its overviews where it has them.

        Args:
            side: Longer side of the result in pixels, at most.

        Returns:
            As `read`.
        """
        with naming(self.path):
            values, valid = self._reduced(side)
        return self._to_rgb(values, valid)

    def read_values(self, side: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Read the whole raster at a smaller size, its values as they are stored.

        Args:
            side: Longer side of the result in pixels, at most.

        Returns:
            (bands, h, w), and (h, w), where they are valid.
        """
        with naming(self.path):
            values, valid = self._reduced(side)
        return values, valid & np.isfinite(values).all(axis=0)

    def _reduced(self, side: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        share = min(1.0, side / max(self.height, self.width))
        size = (max(1, round(share * self.height)), max(1, round(share * self.width)))
        values = self._file.read(list(self.bands), out_shape=(len(self.bands), *size))
        return values, self._valid(out_shape=size)

    def _to_rgb(
        self, values: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        if self._palette is not None:
            colors = self._palette[values[0]]  # (h, w, 4)
            values, valid = colors[..., :3].transpose(2, 0, 1), valid & (colors[..., 3] > 0)
        elif self.scale is not None:
            low, high = np.array(self.scale, np.float32).T[..., None, None]  # (bands, 1, 1) each
            # Not a number is nodata, whether the file says so or not.
            valid = valid & np.isfinite(values).all(axis=0)
            values = np.nan_to_num((values.astype(np.float32) - low) / (high - low)).clip(0, 1)
        return np.broadcast_to(values, (self.channels, *values.shape[1:])), valid

    def _check_kind(self) -> None:
        if not self._file.count:
            inside = ", ".join(self._file.subdatasets) or "nothing that is known"
            raise PnaError(f"{self.path}: it has no bands of its own, but holds {inside}: name one")
        if kinds := [kind for kind in self._file.dtypes if "complex" in kind]:
            raise PnaError(
                f"{self.path}: its values are {kinds[0]}; write amplitude or another real number "
                "of them into a file of its own"
            )
        orientation = self._file.tags().get("EXIF_Orientation", "1")
        if orientation != "1":
            raise PnaError(
                f"{self.path}: its EXIF orientation is {orientation}, which windows cannot follow: "
                "turn it upright first, for example by `convert -auto-orient`"
            )

    def _find_palette(self) -> npt.NDArray[np.uint8] | None:
        if self._file.colorinterp[0].name != "palette":
            return None
        colors = np.zeros((256, 4), np.uint8)
        for index, color in self._file.colormap(1).items():
            if index < len(colors):
                colors[index] = color
        return colors

    def _choose_bands(self, bands: Sequence[int] | None) -> tuple[int, ...]:
        count, names = self._file.count, [color.name for color in self._file.colorinterp]
        if bands is not None:
            known = all(1 <= band <= count for band in bands)
            if len(bands) not in (1, self.channels) or not known:
                number = f"1 or {self.channels} bands" if self.channels > 1 else "one band"
                raise PnaError(
                    f"{self.path}: expected {number} from 1 to {count}, got {tuple(bands)}"
                )
            if self._palette is not None:
                raise PnaError(
                    f"{self.path}: its band is of a palette, numbers of colors, no measurements: "
                    "leave the bands out to read the colors"
                )
            return tuple(bands)
        if self.channels != 3:
            raise PnaError(
                f"{self.path}: the model takes {self.channels} channels, and does not say which "
                "bands they are: name them by bands, on the command line --bands 1,2,..."
            )
        # The owner's words before the format's, which calls the first of any three bands red.
        for called in (band_names(self._file), names):
            if {"red", "green", "blue"} <= set(called):
                return tuple(called.index(color) + 1 for color in ("red", "green", "blue"))
        colors = [i for i, name in enumerate(names, 1) if name != "alpha"]
        if len(colors) in (1, 3) and "cyan" not in names:
            return tuple(colors)
        described = ", ".join(
            f"{i} {text or name}"
            for i, (text, name) in enumerate(zip(self._file.descriptions, names, strict=True), 1)
        )
        raise PnaError(
            f"{self.path}: it has {count} bands, none of them called red, green and blue "
            f"({described}): say which three to take, or one for gray, by bands, on the command "
            "line --bands 3,2,1"
        )

    def _choose_scale(self, scale: Scale | Sequence[Scale] | None) -> tuple[Scale, ...] | None:
        kinds = {self._file.dtypes[band - 1] for band in self.bands}
        if scale is not None:
            if self._palette is not None:
                raise PnaError(f"{self.path}: its band is of a palette, so it has no scale")
            pairs = np.array(scale, np.float64)
            pairs = pairs[None] if pairs.ndim == 1 else pairs
            is_right = pairs.shape in ((1, 2), (len(self.bands), 2)) and np.isfinite(pairs).all()
            if not (is_right and (pairs[:, 0] < pairs[:, 1]).all()):
                raise PnaError(
                    f"{self.path}: expected a scale of two numbers, the value that becomes 0 and a "
                    f"larger one that becomes 1, of all bands or of each; got {scale}"
                )
            return tuple((float(low), float(high)) for low, high in pairs)
        if kinds == {"uint8"}:
            return None
        raise PnaError(f"{self.path}: {self._how_to_scale(', '.join(sorted(kinds)))}")

    def _how_to_scale(self, kinds: str) -> str:
        """Describe the values, for the user to choose two of them."""
        values, valid = self.read_values(_LOOK)
        values = values[:, valid]
        asked = (
            "say which values are black and white, scale=(low, high), on the command line "
            "--scale LOW,HIGH"
        )
        if not values.size:
            return f"its values are {kinds}, and none that was looked at is valid: {asked}"
        low, high = values.min(), values.max()
        usual = np.percentile(values, (2, 98))
        words = (
            f"its values are {kinds}, from {low:g} to {high:g}, 96 % of them in "
            f"[{usual[0]:g}, {usual[1]:g}]: {asked}"
        )
        if kinds == "uint16" and high < 4096:
            words += "; they fit into 12 bits, so that may be --scale 0,4095"
        return words


def open_bands(
    path: Path,
    bands: Sequence[Band],
    *,
    numbers: Sequence[int] | None = None,
    scale: Scale | Sequence[Scale] | None = None,
) -> Raster:
    """Open a raster to read the bands of a model, scaled as the model's bands say.

    A file that names its bands is read by the names, if it has all of them; another by their
    places.

    Args:
        path: The file.
        bands: The bands.
        numbers: Their places in this file, instead.
        scale: Their scale in this file, instead.

    Raises:
        MissingFileError: There is no such file.
        PnaError: It cannot be read, lacks one of the bands, or names another one so.
    """
    if numbers is None:
        numbers = _find_bands(path, bands)
    if scale is None and len(numbers) == len(bands):
        scale = [(band.low, band.high) for band in bands]
    return Raster(path, bands=numbers, scale=scale, channels=len(bands))


def _find_bands(path: Path, bands: Sequence[Band]) -> tuple[int, ...]:
    """Return the places of a model's bands in a file."""
    with open_file(path) as file:
        called = band_names(file)
    names = [band.name.lower() for band in bands]
    if set(names) <= set(called):
        return tuple(called.index(name) + 1 for name in names)
    numbers = file_numbers(bands)
    if max(numbers) > len(called):
        raise PnaError(
            f"{path}: expected {len(bands)} bands, {', '.join(band.name for band in bands)}, up to "
            f"number {max(numbers)}, got a file of {len(called)}: name the numbers of those to take"
        )
    wrong = [
        f"{number} is called {called[number - 1]}, not {name}"
        for number, name in zip(numbers, names, strict=True)
        if called[number - 1] in names and called[number - 1] != name
    ]
    if wrong:
        raise PnaError(f"{path}: its bands are others: {'; '.join(wrong)}: correct the names")
    return numbers
