"""Rasters on the command line: which files they are, their options and results."""

import argparse
import importlib.util
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pna.errors import PnaError

if TYPE_CHECKING:
    from pna.inference.raster.run import RasterReport
    from pna.model.segmenter import BaseSegmenter

_SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2", ".img")
# A smaller file of another kind is hardly too large for the memory.
_LARGE_FILE = 4 << 20
# Tags of TIFF that hold a place.
_PLACE_TAGS = (33550, 33922, 34264, 34735)
_PREVIEW = 2048


def add_raster_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--memory`, `--bands`, `--scale` and `--polygons`."""
    group = parser.add_argument_group(
        "rasters",
        "Files with a place on the earth, files too large to be run whole, and all files where one "
        "of these is given. NAME_labels.tif is then a GeoTIFF; a run that was killed goes on.",
    )
    group.add_argument(
        "--memory",
        type=_check_memory,
        metavar="SIZE",
        help="what the process may take, or the process on its GPU (default: 4GB, or 2GB more than "
        "libraries and model take, if that is more)",
    )
    add_band_arguments(
        group,
        "bands to take, from 1: red, green and blue; or one, for gray; or as many as the model "
        "takes (default: those that the model names, else those called red, green, blue)",
    )
    group.add_argument(
        "--polygons",
        choices=("gpkg", "geojson"),
        help="also write the areas of the classes as polygons: GeoPackage in the raster's "
        "coordinates, GeoJSON in longitude and latitude",
    )


def add_band_arguments(group: "argparse._ArgumentGroup", bands: str) -> None:
    """Add `--bands`, with a line on it, and `--scale`."""
    group.add_argument("--bands", type=_parse_bands, metavar="N,N,...", help=bands)
    group.add_argument(
        "--scale",
        type=parse_scale,
        metavar="LOW,HIGH",
        help="values that are black and white; needed for all but 8 bits",
    )


def _check_memory(text: str) -> str:
    from pna.inference.raster.memory import parse_memory

    try:
        parse_memory(text)
    except PnaError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def raster_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments that were given, by their names in `segment_raster`."""
    names = ("memory", "bands", "scale", "polygons")
    given = {name: getattr(args, name, None) for name in names}  # not every command has all
    return {name: value for name, value in given.items() if value is not None}


def is_raster(path: Path) -> bool:
    """Return whether a file has a place on the earth, or is too large to be run whole.

    Without rasterio none is; a warning says what is lost.
    """
    is_likely = path.suffix.lower() in _SUFFIXES
    if not path.is_file() or not (is_likely or path.stat().st_size >= _LARGE_FILE):
        return False
    if importlib.util.find_spec("rasterio") is None:
        if is_likely and _has_place_tags(path):
            warnings.warn(
                f"{path} is read as a plain image, without its place on the earth: "
                'pip install "pna[geo]" reads it as a raster',
                stacklevel=2,
            )
        return False
    from pna.data.gdal import describe
    from pna.inference.predictor import LARGEST_WHOLE

    about = describe(path)
    return about is not None and (about.has_place or about.num_pixels > LARGEST_WHOLE)


def _has_place_tags(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            tags = getattr(image, "tag_v2", {})
            return any(tag in tags for tag in _PLACE_TAGS)
    except Exception:  # a damaged file is reported by whoever reads it
        return False


def write_preview(
    report: "RasterReport",
    path: Path,
    model: "BaseSegmenter",
    bands: tuple[int, ...] | None,
    scale: tuple[float, float] | None,
) -> None:
    """Write NAME_overlay.png beside the label map: the reduced image and labels.

    Args:
        report: Of `segment_raster`.
        path: The image.
        model: The model that was run.
        bands: As they were given.
        scale: Likewise.
    """
    from pna.data.images import to_picture
    from pna.draw import overlay, write_image
    from pna.inference.raster.run import open_for
    from pna.inference.raster.write import read_reduced_labels

    with open_for(model, path, bands=bands, scale=scale) as raster:
        image, valid = raster.read_reduced(_PREVIEW)
    labels = read_reduced_labels(report.labels, valid.shape)
    name = report.labels.name.replace("_labels.tif", "_overlay.png")
    picture = overlay(to_picture(image, model.bands), labels, model.labels)
    write_image(picture, report.labels.with_name(name))


def describe_report(report: "RasterReport") -> str:
    """Return size and largest classes, for example "40000 x 30000, road 12 %, grass 9 %"."""
    height, width = report.size
    total = sum(report.pixels.values())
    shares = [f"{name} {100 * n / total:.0f} %" for name, n in list(report.pixels.items())[:4]]
    text = ", ".join([f"{width} x {height}", *(shares or ["no valid pixel"])])
    text += "; tiles of {}x{}".format(*report.tile)
    if report.num_found:
        text += f"; {report.num_found} of {report.num_blocks} blocks were there already"
    if report.polygons is not None:
        text += f"; {report.num_polygons} polygons"
    return text


def _parse_bands(text: str) -> tuple[int, ...]:
    try:
        bands = tuple(int(part) for part in text.split(","))
    except ValueError:
        bands = ()
    if not bands or min(bands) < 1:
        raise argparse.ArgumentTypeError(
            f"expected numbers of bands, from 1, for example 4,3,2; got {text!r}"
        )
    return bands


def parse_scale(text: str) -> tuple[float, float]:
    """Read "LOW,HIGH" as two values."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not low < high:
        raise argparse.ArgumentTypeError(
            f"expected the values of black and white, the lower first, for example 0,4095; got "
            f"{text!r}"
        )
    return low, high


def refuse_with_rasters(args: argparse.Namespace, names: Iterable[str]) -> None:
    """Refuse options that make no sense for rasters.

    Raises:
        PnaError: One of them is given.
    """
    for name in names:
        if getattr(args, name):
            raise PnaError(
                f"--{name} is for images that are read whole, not for rasters: cut the place of "
                "interest out, for example by gdal_translate -srcwin"
            )
