"""Masks of rasters, refined part by part."""

import json

import numpy as np
import psutil
import pytest
from PIL import Image

from mask_networks import Bright
from pna.data.gdal import open_file
from pna.data.mask_raster import MaskRaster
from pna.errors import MissingFileError, PnaError
from pna.inference.masks import refine_mask
from pna.inference.raster.refine import refine_raster
from pna.refinement.masks import RefineConfig
from rasters import PLACE, UTM, shades, write_raster

rasterio = pytest.importorskip("rasterio")

PARTS = RefineConfig(core=64, margin=32)
H, W = 150, 210
WHOLE = (slice(0, H), slice(0, W))


def truth():
    """A map of two classes with a slanted edge."""
    y, x = np.mgrid[:H, :W]
    return x + y // 3 > 120


def photo():
    return np.where(truth(), 220, 30).astype(np.uint8)[None].repeat(3, axis=0)


@pytest.fixture
def image(tmp_path):
    return write_raster(tmp_path / "scene.tif", photo())


def write_mask(tmp_path, values, **options):
    return write_raster(tmp_path / "mask.tif", values[None], **options)


def read(file):
    with open_file(file) as opened:
        return opened.read(1)


@pytest.mark.parametrize("name", ["scene", "mask"])
def test_an_input_is_not_overwritten(image, tmp_path, name):
    write_mask(tmp_path, np.zeros(photo().shape[1:], np.uint8))
    mask = (tmp_path / "mask.tif").rename(tmp_path / ("mask.tif" if name == "mask" else "m.tif"))
    if name == "scene":
        (tmp_path / "masks").mkdir()
        mask = mask.rename(tmp_path / "masks" / "scene.tif")
    before = (tmp_path / f"{name}.tif").read_bytes()
    with pytest.raises(PnaError, match=rf"{name}\.tif is an input: choose another folder"):
        refine_raster(Bright(), image, mask, tmp_path)
    assert (tmp_path / f"{name}.tif").read_bytes() == before


def refine(image, mask, tmp_path, **options):
    options.setdefault("config", PARTS)
    return refine_raster(Bright(), image, mask, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("levels", "dtype"), [((0, 255), "uint8"), ((3, 7), "uint8"), ((10, 4000), "uint16")]
)
def test_a_mask_is_refined_in_its_own_values(image, tmp_path, levels, dtype):
    off = np.where(np.roll(truth(), 5, 1), *levels[::-1]).astype(dtype)
    report = refine(image, write_mask(tmp_path, off), tmp_path)
    written = read(report.mask)
    assert written.dtype == dtype
    np.testing.assert_array_equal(written, np.where(truth(), *levels[::-1]))
    assert report.size == (H, W)
    assert report.share_changed == pytest.approx((off != written).mean())
    assert report.num_blocks == 12
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["mask.tif"]


def test_parts_give_what_an_array_gives(tmp_path):
    values = shades(H, W)
    image = write_raster(tmp_path / "scene.tif", values)
    mask = (shades(H, W, bands=1, seed=1)[0] // 60).astype(np.uint8)
    config = RefineConfig(core=256, strength=0.9)
    report = refine(image, write_mask(tmp_path, mask), tmp_path, config=config)
    expected = refine_mask(Bright(), values.transpose(1, 2, 0).copy(), mask, config).mask
    np.testing.assert_array_equal(read(report.mask), expected)


def test_place_colors_nodata_and_tags_stay(image, tmp_path):
    file = write_mask(tmp_path, truth().astype(np.uint8), nodata=9)
    with rasterio.open(file, "r+") as opened:
        opened.write_colormap(1, {0: (1, 2, 3, 255), 1: (250, 10, 20, 255)})
        opened.update_tags(CLASSES=json.dumps(["ground", "roof"]))
        opened.set_band_description(1, "class")
    with rasterio.open(refine(image, file, tmp_path).mask) as opened:
        assert opened.crs == UTM
        assert opened.transform == PLACE["transform"]
        assert opened.nodata == 9
        assert opened.colormap(1)[1] == (250, 10, 20, 255)
        assert json.loads(opened.tags()["CLASSES"]) == ["ground", "roof"]
        assert opened.descriptions == ("class",)
        assert opened.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_nodata_stays_in_mask_and_image(tmp_path):
    pixels, off = photo(), np.roll(truth(), 5, 1).astype(np.uint8)
    pixels[:, :70] = 0
    off[100:] = 200
    image = write_raster(tmp_path / "scene.tif", pixels, nodata=0)
    report = refine(image, write_mask(tmp_path, off, nodata=200), tmp_path)
    written = read(report.mask)
    np.testing.assert_array_equal(written[100:], 200)
    np.testing.assert_array_equal(written[:70], off[:70])
    np.testing.assert_array_equal(written[70:100], truth()[70:100])
    assert report.guess is None


@pytest.mark.parametrize(
    ("values", "nodata", "levels", "guess"),
    [
        ([0, 255], 0, [0, 255], "nodata, 0, is taken for a class"),
        ([0, 1, 2], 0, [1, 2], None),
        ([1, 2, 255], None, [1, 2], "255 is taken for ignored"),
        ([0, 255], None, [0, 255], None),
        ([5], None, [5], None),
    ],
)
def test_which_values_are_classes(tmp_path, values, nodata, levels, guess):
    mask = np.resize(np.array(values, np.uint8), (6, 6))
    with MaskRaster(write_mask(tmp_path, mask, nodata=nodata)) as raster:
        assert raster.levels.tolist() == levels
        assert (raster.guess or "").startswith(guess or "")
        assert (guess is None) == (raster.guess is None)
        labels = raster.read((slice(0, 6), slice(0, 6)))
        np.testing.assert_array_equal(labels == 255, ~np.isin(mask, levels))
        np.testing.assert_array_equal(raster.values_of(labels, (slice(0, 6), slice(0, 6))), mask)


def test_16_bits_and_a_mask_in_png(tmp_path):
    image = write_raster(tmp_path / "scene.tif", photo().astype(np.uint16) * 16)
    file = tmp_path / "mask.png"
    Image.fromarray(np.roll(truth(), 5, 1).astype(np.uint8) * 255).save(file)
    report = refine(image, file, tmp_path, scale=(0, 4095))
    np.testing.assert_array_equal(read(report.mask), truth() * 255)
    with rasterio.open(report.mask) as opened:
        assert (opened.crs, opened.transform) == (UTM, PLACE["transform"])


def test_a_large_png_is_copied_first(tmp_path):
    Image.fromarray(photo().transpose(1, 2, 0)).save(tmp_path / "scene.png")
    Image.fromarray(np.roll(truth(), 5, 1)).save(tmp_path / "mask.png")
    report = refine(tmp_path / "scene.png", tmp_path / "mask.png", tmp_path)
    np.testing.assert_array_equal(read(report.mask) > 0, truth())


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_mask_without_a_place_takes_the_points_of_its_image(tmp_path):
    from rasterio.control import GroundControlPoint

    corners = [(0, 0, 7.0, 50.0), (0, 100, 7.1, 50.0), (80, 0, 7.0, 49.9)]
    points = [GroundControlPoint(*corner) for corner in corners]
    image = write_raster(
        tmp_path / "scene.tif", photo(), place={"gcps": points, "crs": "EPSG:4326"}
    )
    mask = write_raster(
        tmp_path / "mask.tif", np.zeros((1, *photo().shape[1:]), np.uint8), place={}
    )
    with open_file(refine(image, mask, tmp_path).mask) as opened:
        found, crs = opened.gcps
    assert [(p.row, p.col, p.x, p.y) for p in found] == corners
    assert crs.to_epsg() == 4326


def test_the_label_map_of_segment_is_a_mask(image, tmp_path):
    import pna

    model = pna.load("voc-lite")
    labels = pna.segment_raster(model, image, tmp_path / "segmented").labels
    report = refine(image, labels, tmp_path)
    with rasterio.open(report.mask) as after, rasterio.open(labels) as before:
        assert after.colormap(1) == before.colormap(1)


class Stops(Bright):
    """Fails at a run, as a process that is killed."""

    def __init__(self, after):
        super().__init__()
        self.number = after

    def refine(self, *args):
        self.number -= 1
        if self.number < 0:
            raise KeyboardInterrupt
        return super().refine(*args)


def test_a_killed_run_goes_on(image, tmp_path):
    mask = write_mask(tmp_path, np.roll(truth(), 5, 1).astype(np.uint8))
    with pytest.raises(KeyboardInterrupt):
        refine_raster(Stops(after=2), image, mask, tmp_path / "out", config=PARTS)
    assert not (tmp_path / "out" / "mask.tif").exists()
    seen = []
    report = refine(image, mask, tmp_path, progress=seen.append)
    assert report.num_found >= 2
    assert seen[0].done == report.num_found
    assert seen[-1].done == report.num_blocks
    np.testing.assert_array_equal(read(report.mask), truth())


def test_the_part_of_another_run_is_not_taken(image, tmp_path):
    mask = write_mask(tmp_path, np.roll(truth(), 5, 1).astype(np.uint8))
    with pytest.raises(KeyboardInterrupt):
        refine_raster(Stops(after=2), image, mask, tmp_path / "out", config=PARTS)
    with pytest.raises(PnaError, match="what another run began, with another strength"):
        refine(image, mask, tmp_path, config=RefineConfig(core=64, margin=32, strength=0.9))


MOVED = {**PLACE, "transform": rasterio.Affine(0.5, 0, 500_001.5, 0, -0.5, 5_000_000)}
"""Three pixels to the east."""


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (
            np.zeros((20, 20), np.uint8),
            {},
            "20 x 20 pixels, its .* 210 x 150: bring",
        ),
        (np.zeros((H, W), np.uint8), {"place": MOVED}, "3 pixels apart"),
        (
            np.zeros((H, W), np.uint8),
            {"place": {**PLACE, "crs": "EPSG:32632"}},
            "32632 against",
        ),
        (np.zeros((H, W), np.float32), {}, "expected class numbers, integers, got float32"),
        (np.arange(H * W).reshape(H, W).astype(np.uint16), {}, "at most 255 classes, got more"),
    ],
)
def test_a_mask_that_does_not_fit(image, tmp_path, values, options, message):
    with pytest.raises(PnaError, match=message):
        refine(image, write_mask(tmp_path, values, **options), tmp_path)
    assert not (tmp_path / "out").exists()


def test_a_mask_of_colors(image, tmp_path):
    with pytest.raises(PnaError, match="expected a mask of one band, .* got 3 bands"):
        refine(image, image, tmp_path)


def test_no_file(image, tmp_path):
    with pytest.raises(MissingFileError, match="no raster at"):
        refine(image, tmp_path / "none.tif", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_1600_megapixels_fit_into_a_gigabyte(tmp_path):
    """Most parts have one class; of the others the network sees one after the other."""
    side, size = 40_000, 2_000
    options = {"width": side, "height": side, "driver": "GTiff", "dtype": "uint8"}
    options |= {"tiled": True, "compress": "DEFLATE", "sparse_ok": True, **PLACE}
    bright = np.full((size, size), 220, np.uint8)
    with rasterio.open(tmp_path / "scene.tif", "w", count=3, **options) as file:
        for band in (1, 2, 3):
            file.write(bright, band, window=((9_000, 9_000 + size), (30_000, 30_000 + size)))
    with rasterio.open(tmp_path / "mask.tif", "w", count=1, **options) as file:
        file.write(bright, 1, window=((9_005, 9_005 + size), (30_004, 30_004 + size)))
    before = psutil.Process().memory_info().rss
    peak = before
    seen = []

    def look(progress):
        nonlocal peak
        peak = max(peak, psutil.Process().memory_info().rss)
        seen.append(progress.done)

    report = refine(
        tmp_path / "scene.tif",
        tmp_path / "mask.tif",
        tmp_path,
        config=RefineConfig(),
        progress=look,
    )
    assert report.num_blocks == len(seen) - 1 == 79**2
    assert peak - before < 1e9
    with rasterio.open(report.mask) as file:
        written = file.read(1, window=((8_900, 11_100), (29_900, 32_100)))
    expected = np.zeros((2_200, 2_200), np.uint8)
    expected[100:2_100, 100:2_100] = 220
    np.testing.assert_array_equal(written, expected)


def test_gray_levels_of_a_soft_mask_are_told(tmp_path):
    y, x = np.mgrid[:200, :200]
    soft = (255 / (1 + np.exp(np.hypot(y - 100, x - 100) - 60))).astype(np.uint8)
    with MaskRaster(write_mask(tmp_path, soft, nodata=None)) as raster:
        assert "most stand along edges alone, as in a soft mask" in raster.guess
    steps = (x // 20).astype(np.uint8)
    with MaskRaster(write_mask(tmp_path, steps, nodata=None)) as raster:
        assert raster.guess is None
