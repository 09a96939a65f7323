"""Results of rasters: cloud-optimized GeoTIFFs at the place of the image, and polygons."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pna.data.gdal import gdal_errors
from pna.data.images import UInt8Array
from pna.data.mask_raster import MaskRaster
from pna.data.raster import Raster, RasterFile
from pna.errors import PnaError
from pna.extras import require
from pna.files import write_atomically
from pna.inference.raster.blocks import Block
from pna.inference.tiling import TilingConfig
from pna.labels import IGNORE_INDEX, LabelSpace

POLYGON_DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
"""Formats of polygons, by the ending of the file."""

_TILE = 512
_OPTIONS = {"compress": "DEFLATE", "bigtiff": "IF_SAFER"}
_GEOJSON_CRS = "OGC:CRS84"


@contextmanager
def small_cache() -> Iterator[None]:
    """Keep GDAL's cache small: by default it takes a twentieth of the machine's memory."""
    with require("rasterio").Env(GDAL_CACHEMAX=64 << 20):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Do not warn of files without a place: the result of a plain image has none either."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", require("rasterio").errors.NotGeoreferencedWarning)
        yield


def tiled_copy(path: Path, target: Path) -> None:
    """Copy an image into a TIFF whose windows can be read in any order."""

    def write(beside: Path) -> None:
        require("rasterio.shutil").copy(
            path, beside, driver="GTiff", tiled=True, blockxsize=_TILE, blockysize=_TILE, **_OPTIONS
        )

    write_atomically(target, write)


def write_labels(
    path: Path,
    raster: Raster,
    blocks: Sequence[Block],
    read: Callable[[Block], UInt8Array],
    labels: LabelSpace,
    tiling: TilingConfig,
) -> dict[str, int]:
    """Write a label map with the colors of its classes.

    Args:
        path: The file to write, a GeoTIFF. 255 is its nodata.
        raster: The image.
        blocks: All blocks of the image.
        read: Returns the labels (h, w) of one.
        labels: The classes; their names go into the tag CLASSES, as JSON.
        tiling: Goes into the tag TILING, in words.

    Returns:
        The pixels of each class that occurs, by name, most first.
    """
    counts = np.zeros(256, np.int64)

    def fill(file: Any) -> None:
        colors = dict(enumerate(labels.colors)) | {IGNORE_INDEX: (0, 0, 0, 0)}
        file.write_colormap(1, colors)
        file.update_tags(CLASSES=json.dumps(list(labels.classes)), TILING=str(tiling))
        file.set_band_description(1, "class")
        for block in blocks:
            values = read(block)
            for row in values:  # at once they would be counted as eight bytes each
                counts[:] += np.bincount(row, minlength=256)
            file.write(values, 1, window=_window(block))

    # Of several pixels an overview takes the most frequent class: a mean class is none.
    _write(path, raster, 1, fill, nodata=IGNORE_INDEX, resampling="MODE", photometric="palette")
    order = np.argsort(-counts[: labels.num_classes], kind="stable")
    return {labels.classes[i]: int(counts[i]) for i in order if counts[i]}


def read_reduced_labels(path: Path, size: tuple[int, int]) -> UInt8Array:
    """Read a label map at a smaller size, from its overviews.

    Args:
        path: Written by `write_labels`.
        size: Height and width of the result.
    """
    rasterio = require("rasterio")
    with quiet(), rasterio.open(path) as file:
        reduced: UInt8Array = file.read(
            1, out_shape=size, resampling=rasterio.enums.Resampling.mode
        )
        return reduced


def write_scores(
    path: Path,
    raster: Raster,
    blocks: Sequence[Block],
    read: Callable[[Block], UInt8Array],
    labels: LabelSpace,
) -> None:
    """Write probabilities, a band for each class, in 255ths.

    Args:
        path: The file to write, a GeoTIFF.
        raster: The image.
        blocks: All blocks of the image.
        read: Returns the probabilities (K, h, w) of one.
        labels: The classes, whose names the bands get.
    """

    def fill(file: Any) -> None:
        file.scales, file.offsets = [1 / 255] * labels.num_classes, [0.0] * labels.num_classes
        for band, name in enumerate(labels.classes, 1):
            file.set_band_description(band, name)
        for block in blocks:
            file.write(read(block), window=_window(block))

    _write(path, raster, labels.num_classes, fill, resampling="AVERAGE", interleave="band")


def write_mask(
    path: Path, mask: MaskRaster, blocks: Sequence[Block], read: Callable[[Block], UInt8Array]
) -> None:
    """Write a mask of the values, type, colors, nodata and tags of another one.

    Args:
        path: The file to write, a GeoTIFF.
        mask: The other one.
        blocks: All blocks of it.
        read: Returns the labels (h, w) of one, by their places in `mask.levels`.
    """

    def fill(file: Any) -> None:
        mask.copy_description(file)
        for block in blocks:
            window = (block.rows, block.cols)
            file.write(mask.values_of(read(block), window), 1, window=_window(block))

    _write(path, mask, 1, fill, nodata=mask.nodata, resampling="MODE", dtype=mask.dtype)


def check_polygons(raster: Raster, polygons: str | None) -> None:
    """Refuse polygons that the place of a raster does not allow, before hours of work.

    Raises:
        PnaError: GeoJSON is in longitude and latitude, and the raster has no place, or one that
            cannot be turned into them; or its place is given by points, which move no polygons.
    """
    if polygons is None:
        return
    points, _ = raster.ground_control
    if points:
        raise PnaError(
            f"{raster.path}: its place is given by points; warp it first, for example by gdalwarp, "
            "to get polygons"
        )
    if polygons != "geojson":
        return
    if raster.place.crs is None:
        raise PnaError(
            f"{raster.path}: it has no place, and GeoJSON is in longitude and latitude: take gpkg, "
            "which is in pixels then"
        )
    transform = raster.place.transform
    corner = {"type": "Point", "coordinates": (transform.c, transform.f)}
    try:
        require("rasterio.warp").transform_geom(raster.place.crs, _GEOJSON_CRS, corner)
    except gdal_errors() as error:
        raise PnaError(
            f"{raster.path}: its coordinates cannot be turned into longitude and latitude, which "
            f"GeoJSON needs ({error}): take gpkg"
        ) from error


def write_polygons(path: Path, label_file: Path, labels: LabelSpace) -> int:
    """Write the areas of equal class of a label map as polygons.

    Args:
        path: The file to write: NAME.gpkg in the coordinates of the map, pixels if it has no place,
            or NAME.geojson in longitude and latitude, as its standard has it.
        label_file: Written by `write_labels`.
        labels: The classes.

    Returns:
        The number of polygons. Each has the properties `class`, its name, and `index`.

    Raises:
        PnaError: The file has another ending.
    """
    if path.suffix.lower() not in POLYGON_DRIVERS:
        raise PnaError(
            f"{path}: expected polygons in a file ending in {' or '.join(POLYGON_DRIVERS)}"
        )
    rasterio, fiona = require("rasterio"), require("fiona")
    features, warp = require("rasterio.features"), require("rasterio.warp")
    schema = {"geometry": "Polygon", "properties": {"class": "str", "index": "int"}}
    number = 0

    def write(beside: Path) -> None:
        nonlocal number
        with quiet(), rasterio.open(label_file) as file:
            is_geojson = POLYGON_DRIVERS[path.suffix.lower()] == "GeoJSON"
            has_to_move = is_geojson and file.crs is not None
            crs = _GEOJSON_CRS if has_to_move else (file.crs.to_wkt() if file.crs else None)
            with fiona.open(
                beside,
                "w",
                driver=POLYGON_DRIVERS[path.suffix.lower()],
                schema=schema,
                crs=crs,
                layer=path.stem,
            ) as target:
                for shape, value in features.shapes(rasterio.band(file, 1)):
                    if value == IGNORE_INDEX:
                        continue
                    if has_to_move:
                        shape = warp.transform_geom(file.crs, _GEOJSON_CRS, shape)
                    index = int(value)
                    properties = {"class": labels.classes[index], "index": index}
                    target.write({"geometry": shape, "properties": properties})
                    number += 1

    with small_cache(), _naming(path):
        write_atomically(path, write)
    return number


def _write(
    path: Path,
    raster: RasterFile,
    bands: int,
    fill: Callable[[Any], None],
    *,
    nodata: float | None = None,
    resampling: str,
    dtype: str = "uint8",
    **options: Any,
) -> None:
    """Write a tiled file at the place of a raster, then its cloud-optimized copy with overviews."""
    rasterio = require("rasterio")
    points, points_crs = raster.ground_control
    place = {"gcps": points, "crs": points_crs} if points else raster.place._asdict()
    if raster.place.transform.is_identity:
        place.pop("transform", None)

    def write(beside: Path) -> None:
        plain = beside.with_name(f"{beside.stem}-plain.tif")
        try:
            with rasterio.open(
                plain,
                "w",
                driver="GTiff",
                height=raster.height,
                width=raster.width,
                count=bands,
                dtype=dtype,
                nodata=nodata,
                tiled=True,
                blockxsize=_TILE,
                blockysize=_TILE,
                **_OPTIONS,
                **place,
                **options,
            ) as file:
                fill(file)
            require("rasterio.shutil").copy(
                plain,
                beside,
                driver="COG",
                blocksize=_TILE,
                overview_resampling=resampling,
                overview_compress="DEFLATE",
                **_OPTIONS,
            )
        finally:
            plain.unlink(missing_ok=True)

    with quiet(), small_cache(), _naming(path):
        write_atomically(path, write)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn the errors of GDAL into one that names the file."""
    try:
        yield
    except (*gdal_errors(), require("fiona").errors.FionaError) as error:
        raise PnaError(
            f"can't write {path}: {error.__cause__ or error}; the finished blocks stay, so the "
            "same run goes on from here"
        ) from error


def _window(block: Block) -> tuple[tuple[int, int], tuple[int, int]]:
    return (block.rows.start, block.rows.stop), (block.cols.start, block.cols.stop)
