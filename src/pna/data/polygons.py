"""Polygons as masks: drawn onto the grid of their image, by its place on the earth.

fiona reads them and rasterio draws them (`pip install "pna[geo]"`).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pna.data.errors import DataError
from pna.data.gdal import gdal_errors, open_file
from pna.errors import PnaError
from pna.extras import require
from pna.labels import IGNORE_INDEX, LabelSpace

SUFFIXES: Final = (".geojson", ".json", ".gpkg")
"""Endings of files of polygons that are read."""
PROPERTY: Final = "class"
"""The property that names the class of a polygon, where no other is given."""

_Find = Callable[[int, Mapping[str, Any]], int]
_AREAS: Final = ("Polygon", "MultiPolygon", "GeometryCollection")


def read_polygon_mask(
    file: Path, image: Path, labels: LabelSpace, *, name: str | None = None
) -> NDArray[np.uint8]:
    """Draw polygons onto the grid of an image.

    A pixel has the class of the last polygon that contains its center, and class 0 outside of all.
    The polygons may have any coordinate reference system; they are brought to that of the image.

    Args:
        file: GeoJSON or GeoPackage; of the latter its only layer.
        image: The raster whose pixels they label.
        labels: The classes.
        name: The property that holds a polygon's class, by its name or index; 255 is ignored. None
            takes `class`; where no polygon has that and there are two classes, all are of class 1.

    Returns:
        (H, W) class indices.

    Raises:
        DataError: A file cannot be read, a feature is no area, a class is unknown, or no polygon
            meets the image, which the wrong file or the wrong coordinates would explain.

    Example:
        >>> from tempfile import mkdtemp
        >>> import rasterio
        >>> from pna.labels import generic
        >>> folder, size = Path(mkdtemp()), {"height": 4, "width": 6, "count": 1, "dtype": "uint8"}
        >>> place = {"crs": "EPSG:4326", "transform": rasterio.Affine(0.1, 0, 10, 0, -0.1, 50)}
        >>> with rasterio.open(folder / "a.tif", "w", **size, **place) as raster:
        ...     raster.write(np.zeros((1, 4, 6), np.uint8))
        >>> square = [[10, 50], [10.2, 50], [10.2, 49.8], [10, 49.8], [10, 50]]
        >>> _ = (folder / "a.geojson").write_text(
        ...     '{"type": "Polygon", "coordinates": [' + str(square) + ']}')
        >>> read_polygon_mask(folder / "a.geojson", folder / "a.tif", generic(2))
        array([[1, 1, 0, 0, 0, 0],
               [1, 1, 0, 0, 0, 0],
               [0, 0, 0, 0, 0, 0],
               [0, 0, 0, 0, 0, 0]], dtype=uint8)
    """
    try:
        with open_file(image) as raster:
            shape, transform, crs = raster.shape, raster.transform, raster.crs
            points, _ = raster.gcps
    except PnaError as error:
        raise DataError(f"image of a data set: {error}") from error
    if points:
        raise DataError(
            f"{image}: its place is given by points, onto which no polygons can be drawn; warp it "
            "first, for example by gdalwarp"
        )
    areas, classes = _read_areas(file, labels, name, image, crs)
    mask = np.zeros(shape, np.uint8)
    if not areas:
        return mask  # a file without polygons: nothing but background
    touched = np.zeros(shape, np.uint8)
    features = require("rasterio.features")
    with _naming(file):
        features.rasterize(zip(areas, classes, strict=True), out=mask, transform=transform)
        # Drawn once more to see whether any is there: class 0 and thin ones leave the mask empty.
        features.rasterize(areas, out=touched, transform=transform, all_touched=True)
    if not touched.any():
        raise DataError(
            f"{file}: none of its {len(areas)} polygons meets {image}: one of the two is of "
            "another place, or says the wrong coordinates"
        )
    return mask


def _read_areas(
    file: Path, labels: LabelSpace, name: str | None, image: Path, crs: Any
) -> tuple[list[dict[str, Any]], list[int]]:
    """Return areas in the coordinates of the image, and the class of each."""
    fiona, warp = require("fiona"), require("rasterio.warp")
    if not file.exists():
        raise DataError(f"no polygons at {file}")
    areas: list[dict[str, Any]] = []
    classes: list[int] = []
    with _naming(file):
        layers = fiona.listlayers(file)
        if len(layers) != 1:
            raise DataError(
                f"{file}: expected one layer, got {', '.join(layers) or 'none'}: write each into a "
                "file of its own"
            )
        with fiona.open(file) as source:
            own = source.crs.to_wkt() if source.crs else None
            if (own is None) != (crs is None):
                without, with_ = (file, image) if own is None else (image, file)
                raise DataError(
                    f"{without} does not say where on the earth it lies, and {with_} does: give "
                    "both a coordinate reference system, or neither, for polygons in pixels"
                )
            if own is not None:
                _check_degrees(file, source)
            if not len(source):
                return [], []  # a tile without any, whose file has no properties either
            find = _class_finder(file, list(source.schema["properties"]), labels, name)
            for number, feature in enumerate(source):
                if feature.geometry is None:
                    continue
                if feature.geometry.type not in _AREAS:
                    raise DataError(
                        f"{file}: feature {number} is a {feature.geometry.type}: expected "
                        "polygons; give lines and points a width first, by a buffer"
                    )
                shape = feature.geometry.__geo_interface__
                if not _is_finite(shape):
                    raise DataError(f"{file}: feature {number} has a coordinate that is no number")
                classes.append(find(number, feature.properties))
                areas.append(shape if own is None else warp.transform_geom(own, crs, shape))
    return areas, classes


def _is_finite(shape: Any) -> bool:
    """Return whether all numbers in a geometry are finite."""
    if isinstance(shape, dict):
        return all(_is_finite(shape[key]) for key in ("coordinates", "geometries") if key in shape)
    if isinstance(shape, list | tuple):
        return all(map(_is_finite, shape))
    return bool(np.isfinite(shape))


def _check_degrees(file: Path, source: Any) -> None:
    """Refuse a file of projected coordinates that does not say so, and is taken as degrees."""
    west, south, east, north = source.bounds if len(source) else (0, 0, 0, 0)
    if source.crs.is_geographic and (west < -360 or east > 360 or south < -90 or north > 90):
        raise DataError(
            f"{file}: its coordinates, such as ({west:g}, {south:g}), are no longitude and "
            "latitude, which they are taken for: write it with its coordinate reference system, "
            "for example by `ogr2ogr -a_srs EPSG:NUMBER`"
        )


def _class_finder(file: Path, properties: list[str], labels: LabelSpace, name: str | None) -> _Find:
    """Return a function that finds the class of a feature by its number and properties."""
    if name is None and PROPERTY not in properties:
        if labels.num_classes != 2:
            raise DataError(
                f"{file}: its polygons have no property {PROPERTY!r} that names one of "
                f"{labels.num_classes} classes: say which of {', '.join(properties) or 'none'} does"
            )
        return lambda number, values: 1
    key = name or PROPERTY
    if key not in properties:
        raise DataError(
            f"{file}: its polygons have no property {key!r}; they have "
            f"{', '.join(properties) or 'none'}"
        )
    known: dict[str, int] = {str(i): i for i in (*range(labels.num_classes), IGNORE_INDEX)}
    known |= {label: i for i, label in enumerate(labels.classes)}

    def find(number: int, values: Mapping[str, Any]) -> int:
        value = values[key]
        # A whole number may come as 2.0: GeoJSON does not tell them apart.
        text = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
        if text not in known:
            raise DataError(
                f"{file}: feature {number} has {key} {value!r}: expected a class of "
                f"{labels.name}, by its name or index, or {IGNORE_INDEX} for ignored"
            )
        return known[text]

    return find


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Turn the errors of fiona and rasterio into one that names the file."""
    try:
        yield
    # Of fiona's errors some are OSErrors only.
    except (*gdal_errors(), require("fiona").errors.FionaError, OSError) as error:
        raise DataError(f"cannot read {file} as polygons: {error.__cause__ or error}") from error
