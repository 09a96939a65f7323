"""Masks of rasters: one band of class numbers, read window by window.

| in the file | becomes |
|---|---|
| the values that occur, at most 255 | labels from 0, in their order |
| nodata | ignored; but where it leaves a single value it is a class, most often the background |
| 255 in 8 bits, beside two other values or more | ignored |
| floating point, several bands | an error |
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pna.data.gdal import naming
from pna.data.masks.kinds import count_values
from pna.data.raster import Raster, RasterFile, Window
from pna.errors import PnaError
from pna.labels import IGNORE_INDEX

_AROUND = 512  # pixels on each side of a place that tell whether values fill areas
_TOLERANCE = 0.01  # pixels that mask and image may lie apart


class MaskRaster(RasterFile):
    """A mask that is read window by window.

    It reads all values once, to know the classes: seconds for each 100 million pixels.

    Args:
        path: The file.

    Attributes:
        dtype: Type of its values.
        nodata: The value that stands for no data, or None.
        levels: Its values that are classes, ascending.
        guess: What was taken for granted, in words; None where nothing was.

    Raises:
        MissingFileError: There is no such file.
        PnaError: It cannot be read, or is no map of at most 255 classes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            self.dtype: str = self._file.dtypes[0]
            self.nodata: float | None = self._file.nodata
            self.guess: str | None = None
            self._check_kind()
            self.levels = self._find_classes()
        except BaseException:
            self.close()
            raise

    def read(self, window: Window) -> npt.NDArray[np.uint8]:
        """Read a window: (h, w) places in `levels`, 255 where it is ignored."""
        values = self._read(window)
        places = np.searchsorted(self.levels, values).clip(max=len(self.levels) - 1)
        labels = places.astype(np.uint8)
        labels[self.levels[places] != values] = IGNORE_INDEX
        return labels

    def values_of(self, labels: npt.NDArray[np.uint8], window: Window) -> npt.NDArray[Any]:
        """Return the values of labels (h, w) of a window; ignored pixels keep theirs."""
        values = self._read(window)
        is_class = labels != IGNORE_INDEX
        values[is_class] = self.levels[labels[is_class]]
        return values

    def find(self, values: Sequence[str]) -> tuple[int, ...]:
        """Return the places in `levels` of values given as text.

        Raises:
            PnaError: One is no number, or does not occur.
        """
        known = {str(level): place for place, level in enumerate(self.levels)}
        if unknown := [value for value in values if value.strip() not in known]:
            raise PnaError(
                f"{self.path}: expected classes of its values {', '.join(known)}, got "
                f"{', '.join(unknown)}"
            )
        return tuple(sorted({known[value.strip()] for value in values}))

    def copy_description(self, file: Any) -> None:
        """Give colors, tags and the band's name to an open file of rasterio."""
        if self._file.colorinterp[0].name == "palette":
            file.write_colormap(1, self._file.colormap(1))
        tags = {key: value for key, value in self._file.tags().items() if key != "AREA_OR_POINT"}
        file.update_tags(**tags)
        if self._file.descriptions[0]:
            file.set_band_description(1, self._file.descriptions[0])

    def check_place(self, image: Raster) -> None:
        """Check that mask and image cover the same pixels; a mask without a place takes theirs.

        Raises:
            PnaError: They do not.
        """
        if (self.height, self.width) != (image.height, image.width):
            raise PnaError(
                f"{self.path} has {self.width} x {self.height} pixels, its image {image.path} "
                f"{image.width} x {image.height}: bring the mask onto the pixels of the image, for "
                "example by gdalwarp -r near -te ... -ts ..."
            )
        mine, others = self.place.transform, image.place.transform
        if mine.is_identity and self.place.crs is None and not self.ground_control[0]:
            self.place, self.ground_control = image.place, image.ground_control
        if mine.is_identity or others.is_identity:  # one of them does not say where it lies
            return
        corners = [(0, 0), (image.width, image.height)]
        apart = max(
            abs(a - b)
            for corner in corners
            for a, b in zip(_apply(~others, _apply(mine, corner)), corner, strict=True)
        )
        if self.place.crs != image.place.crs or apart > _TOLERANCE:
            raise PnaError(
                f"{self.path} does not lie where its image {image.path} lies "
                f"({self.place.crs} against {image.place.crs}, {apart:.3g} pixels apart): bring "
                "it onto the pixels of the image by gdalwarp -r near -t_srs ... -te ... -ts ..."
            )

    def _read(self, window: Window) -> npt.NDArray[Any]:
        rows, cols = window
        with naming(self.path):
            values: npt.NDArray[Any] = self._file.read(
                1, window=((rows.start, rows.stop), (cols.start, cols.stop))
            )
        return values

    def _check_kind(self) -> None:
        if self._file.count != 1:
            raise PnaError(
                f"{self.path}: expected a mask of one band, the numbers of the classes, got "
                f"{self._file.count} bands: take one by gdal_translate -b N, or number the colors "
                "by rgb2pct.py"
            )
        if not np.issubdtype(np.dtype(self.dtype), np.integer):
            raise PnaError(
                f"{self.path}: expected class numbers, integers, got {self.dtype}: cut shares at "
                "one half, for example by gdal_calc.py --calc='A>=0.5' --type=Byte"
            )

    def _find_classes(self) -> npt.NDArray[Any]:
        found: set[int] = set()
        most, fullest = 0, None
        with naming(self.path):
            for _, window in self._file.block_windows(1):
                values = np.unique(self._file.read(1, window=window)).tolist()
                found.update(values)
                if len(values) > most:
                    most, fullest = len(values), window
                if len(found) > IGNORE_INDEX + 1:
                    raise PnaError(
                        f"{self.path}: expected a mask of at most 255 classes, got more values: it "
                        "looks like an image"
                    )
        classes = found - {self.nodata}
        if len(classes) < 2 and self.nodata in found:
            classes = found
            self.guess = f"nodata, {self.nodata:g}, is taken for a class, since one other is there"
        elif self.dtype == "uint8" and IGNORE_INDEX in classes and len(classes) > 2:
            classes = classes - {IGNORE_INDEX}
            self.guess = "255 is taken for ignored"
        if fullest is not None and self._looks_soft(fullest):
            also = "" if self.guess is None else f"{self.guess}; "
            self.guess = (
                f"{also}its {len(classes)} values are taken for class numbers, but most stand "
                "along edges alone, as in a soft mask: cut that at one half first, for example by "
                "gdal_calc.py --calc='A>=128' --type=Byte"
            )
        if len(classes) > IGNORE_INDEX:
            raise PnaError(f"{self.path}: expected at most 255 classes, got {len(classes)}")
        return np.array(sorted(classes), np.dtype(self.dtype))

    def _looks_soft(self, window: Any) -> bool:
        """Return whether gray levels around a window are those of a soft mask."""
        if self._file.colorinterp[0].name == "palette":
            return False
        rows, columns = (
            slice(max(0, start - _AROUND), min(length, start + _AROUND))
            for start, length in ((window.row_off, self.height), (window.col_off, self.width))
        )
        values = self._read((rows, columns)).astype(np.int64)
        return values.min() >= 0 and values.max() < 1 << 16 and count_values(values).is_blurred


def _apply(transform: Any, point: tuple[float, float]) -> tuple[float, float]:
    # Written out: affine's own operator for it changed between its versions.
    x, y = point
    t = transform
    return t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f
