"""Rasters block by block: the same as all at once, whatever the blocks, and where it was killed."""

import json
import subprocess
import sys

import fiona
import numpy as np
import psutil
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from color_segmenter import ColorSegmenter
from pna.data.polygons import read_polygon_mask
from pna.data.raster import Raster
from pna.errors import MissingFileError, PnaError
from pna.inference import segment
from pna.inference.raster import memory, run
from pna.inference.raster.blocks import plan_blocks
from pna.inference.raster.memory import parse_memory, plan_memory
from pna.inference.raster.run import segment_raster
from pna.inference.tiling import TilingConfig, tile_starts
from rasters import PLACE, UTM, shades, write_raster
from tiny_segmenter import by_brightness

TILES = TilingConfig(tile=(24, 32), overlap=0.5)
CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    """Blocks of about 40x40, as if the memory were small."""
    monkeypatch.setattr(
        run, "plan_memory", lambda *arguments, tile, **options: (tile or (24, 32), (40, 40))
    )


@pytest.fixture
def scene(tmp_path):
    return write_raster(tmp_path / "scene.tif", shades(100, 130))


def at_once(model, path, tiling=TILES, **options):
    """Probabilities (K, H, W) of the whole raster, held in memory."""
    with Raster(path, **options) as raster:
        image, _ = raster.read((slice(0, raster.height), slice(0, raster.width)))
    images = torch.from_numpy(np.array(image))[None]
    with torch.inference_mode():
        found = segment.bands(model.eval(), images, tiling, stages=False)
        return torch.cat([values[0].clone() for _, (values,) in found], dim=1)


def values_of(path):
    with rasterio.open(path) as file:
        return file.read()


class TestBlocks:
    @settings(deadline=None, max_examples=200)
    @given(
        st.tuples(st.integers(1, 200), st.integers(1, 200)),
        st.tuples(st.integers(1, 60), st.integers(1, 60)),
        st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.8]),
        st.tuples(st.integers(1, 90), st.integers(1, 90)),
    )
    def test_blocks_cover_all_once_by_the_tiles_of_the_whole(self, size, tile, overlap, block):
        count = np.zeros(size, int)
        blocks = plan_blocks(size, tile, overlap, block)
        assert [b.index for b in blocks] == list(range(len(blocks)))
        for b in blocks:
            count[b.rows, b.cols] += 1
            for part, source, length, side in zip(
                (b.rows, b.cols), b.source, size, tile, strict=True
            ):
                side = min(side, length)
                touching = [
                    start
                    for start in tile_starts(length, side, overlap)
                    if start < part.stop and start + side > part.start
                ]
                own = tile_starts(source.stop - source.start, side, overlap)
                assert [source.start + start for start in own] == touching
        assert (count == 1).all()

    def test_blocks_are_as_large_as_asked_for(self):
        blocks = plan_blocks((1000, 3000), (100, 100), 0.25, (300, 600))
        heights, widths = zip(*(b.size for b in blocks), strict=True)
        assert max(heights) <= 400
        assert max(widths) <= 700
        assert len(blocks) == 3 * 5


class TestValues:
    @pytest.mark.parametrize(
        "tiling",
        [TILES, TilingConfig(tile=(24, 32), flip=True), TilingConfig(tile=(200, 7), overlap=0)],
    )
    def test_blocks_give_what_all_at_once_gives(self, small, scene, tmp_path, tiling):
        model = ColorSegmenter()
        report = segment_raster(model, scene, tmp_path / "out", tiling=tiling, scores=True)
        expected = at_once(model, scene, tiling)
        assert report.num_blocks > 1
        np.testing.assert_array_equal(values_of(report.labels)[0], expected.argmax(0))
        np.testing.assert_array_equal(values_of(report.scores), (255 * expected).round())

    def test_16_bits(self, small, tmp_path):
        path = write_raster(tmp_path / "a.tif", shades(60, 70, dtype="uint16", top=4000))
        model = ColorSegmenter()
        report = segment_raster(model, path, tmp_path / "out", scale=(0, 4095), tiling=TILES)
        expected = at_once(model, path, scale=(0, 4095)).argmax(0)
        np.testing.assert_array_equal(values_of(report.labels)[0], expected)

    def test_no_class_where_there_is_no_data(self, small, tmp_path, monkeypatch):
        values = shades(100, 130)
        values[:, :, 60:] = 0
        values[:, 50:] = 0
        path = write_raster(tmp_path / "a.tif", np.maximum(values, 0), nodata=0)
        values[:, :50, :60] = np.maximum(values[:, :50, :60], 1)
        path = write_raster(path, values, nodata=0)
        runs, original = [], run.segment.bands
        monkeypatch.setattr(
            run.segment, "bands", lambda *a, **k: runs.append(1) or original(*a, **k)
        )
        report = segment_raster(
            by_brightness(), path, tmp_path / "out", tiling=TILES, scores=True, polygons="gpkg"
        )
        labels = values_of(report.labels)[0]
        assert (labels[:50, :60] < 3).all()
        assert (labels[50:] == 255).all()
        assert (labels[:, 60:] == 255).all()
        assert (values_of(report.scores)[:, labels == 255] == 0).all()
        assert sum(report.pixels.values()) == 50 * 60
        assert 0 < len(runs) < report.num_blocks  # empty blocks cost nothing
        with fiona.open(report.polygons) as layer:
            assert {feature["properties"]["index"] for feature in layer} <= {0, 1, 2}

    def test_only_nodata(self, small, tmp_path):
        path = write_raster(tmp_path / "a.tif", np.zeros((3, 50, 60), np.uint8), nodata=0)
        report = segment_raster(by_brightness(), path, tmp_path / "out", polygons="geojson")
        assert (values_of(report.labels) == 255).all()
        assert report.pixels == {}
        assert report.num_polygons == 0


class TestFiles:
    def test_place_colors_and_names_go_with_the_labels(self, small, scene, tmp_path):
        model = by_brightness()
        report = segment_raster(model, scene, tmp_path / "out", tiling=TILES, scores=True)
        with rasterio.open(report.labels) as file:
            assert file.crs.to_string() == UTM
            assert file.transform == PLACE["transform"]
            assert file.nodata == 255
            assert file.profile["tiled"]
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            colors = file.colormap(1)
            for index, color in enumerate(model.labels.colors):
                assert colors[index][:3] == color
            assert json.loads(file.tags()["CLASSES"]) == list(model.labels.classes)
        with rasterio.open(report.scores) as file:
            assert file.descriptions == model.labels.classes
            assert file.crs.to_string() == UTM
            assert file.scales == (1 / 255,) * 3
        assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
            "scene_labels.tif",
            "scene_scores.tif",
        ]

    def test_overviews_take_the_most_frequent_class(self, small, tmp_path):
        values = np.full((3, 600, 1100), 250, np.uint8)
        values[:, ::3] = 0
        path = write_raster(tmp_path / "a.tif", values)
        report = segment_raster(
            by_brightness(num_stages=0),
            path,
            tmp_path / "out",
            tiling=TilingConfig(tile=(999, 999)),
        )
        with rasterio.open(report.labels) as file:
            assert file.overviews(1)
            found = np.unique(file.read(1, out_shape=(300, 550)))
        assert set(found.tolist()) <= set(np.unique(values_of(report.labels)).tolist())

    def test_ground_control_points(self, small, tmp_path):
        points = [
            rasterio.control.GroundControlPoint(row, col, x=10 + col / 100, y=50 - row / 100)
            for row, col in ((0, 0), (0, 69), (59, 0), (59, 69))
        ]
        path = write_raster(
            tmp_path / "a.tif", shades(60, 70), place={"gcps": points, "crs": "EPSG:4326"}
        )
        report = segment_raster(by_brightness(), path, tmp_path / "out", tiling=TILES)
        with rasterio.open(report.labels) as file:
            found, crs = file.gcps
            assert crs.to_string() == "EPSG:4326"
            assert [(p.row, p.col, p.x, p.y) for p in found] == [
                (p.row, p.col, p.x, p.y) for p in points
            ]

    @pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
    @pytest.mark.parametrize("ending", ["png", "jpg", "tif"])
    def test_plain_images(self, small, tmp_path, ending):
        path = tmp_path / f"a.{ending}"
        Image.fromarray(shades(100, 130).transpose(1, 2, 0)).save(path)
        model = by_brightness()
        report = segment_raster(model, path, tmp_path / "out", tiling=TILES, polygons="gpkg")
        expected = at_once(model, path).argmax(0)
        np.testing.assert_array_equal(values_of(report.labels)[0], expected)
        with fiona.open(report.polygons) as layer:
            assert layer.bounds[2] == 130  # in pixels
        with pytest.raises(PnaError, match="it has no place, and GeoJSON is in longitude"):
            segment_raster(model, path, tmp_path / "out", polygons="geojson")

    @pytest.mark.parametrize("form", ["gpkg", "geojson"])
    def test_polygons_are_the_areas_of_the_classes(self, small, scene, tmp_path, form):
        report = segment_raster(
            by_brightness(), scene, tmp_path / "out", tiling=TILES, polygons=form
        )
        with fiona.open(report.polygons) as layer:
            features = list(layer)
            crs = layer.crs.to_string()
        assert len(features) == report.num_polygons > 3
        assert {f["properties"]["class"] for f in features} == set(report.pixels)
        drawn = read_polygon_mask(report.polygons, scene, by_brightness().labels)
        wanted = values_of(report.labels)[0]
        # Where there is no data there is no polygon.
        np.testing.assert_array_equal(drawn, np.where(wanted == 255, 0, wanted))
        if form == "geojson":
            assert "CRS84" in crs or crs == "EPSG:4326"
            x, y = features[0]["geometry"]["coordinates"][0][0]
            assert 14 < x < 16
            assert 45 < y < 46
            return
        assert crs == UTM
        area = dict.fromkeys(report.pixels, 0.0)
        for feature in features:
            outer, *holes = feature["geometry"]["coordinates"]
            area[feature["properties"]["class"]] += shoelace(outer) - sum(map(shoelace, holes))
        assert area == pytest.approx({name: n / 4 for name, n in report.pixels.items()})


def shoelace(ring):
    x, y = np.array(ring).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


class KilledError(Exception):
    pass


class TestResume:
    def kill_after(self, number):
        def progress(progress):
            if progress.done == number:
                raise KilledError

        return progress

    def test_a_killed_run_goes_on(self, small, scene, tmp_path):
        model, out, seen = ColorSegmenter(), tmp_path / "out", []
        with pytest.raises(KilledError):
            segment_raster(model, scene, out, tiling=TILES, progress=self.kill_after(3))
        assert [p.name for p in out.iterdir()] == [".scene-parts"]
        report = segment_raster(model, scene, out, tiling=TILES, progress=seen.append)
        assert report.num_found == 3
        assert [p.done for p in seen] == list(range(3, report.num_blocks + 1))
        assert seen[0].seconds_left is None
        assert seen[-1].seconds_left == 0
        np.testing.assert_array_equal(values_of(report.labels)[0], at_once(model, scene).argmax(0))
        assert not (out / ".scene-parts").exists()

    def test_sizes_stay_those_of_the_first_run(self, scene, tmp_path, monkeypatch):
        """What a measurement gives may differ from run to run."""
        sizes = iter([((24, 32), (40, 40)), ((48, 48), (80, 80))])
        monkeypatch.setattr(run, "plan_memory", lambda *arguments, **options: next(sizes))
        model, out = ColorSegmenter(), tmp_path / "out"
        with pytest.raises(KilledError):
            segment_raster(model, scene, out, progress=self.kill_after(2))
        assert segment_raster(model, scene, out).tile == (24, 32)

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            ({"scores": True}, "scores"),
            ({"tiling": TilingConfig(tile=(24, 32), overlap=0.25)}, "tiling"),
            ({"bands": (3, 2, 1)}, "bands"),
        ],
    )
    def test_the_part_of_another_run_is_not_taken(self, small, scene, tmp_path, change, name):
        model, out = ColorSegmenter(), tmp_path / "out"
        given = {"tiling": TILES}
        with pytest.raises(KilledError):
            segment_raster(model, scene, out, progress=self.kill_after(1), **given)
        with pytest.raises(PnaError, match=f"scene-parts holds .* another run.*another {name}:"):
            segment_raster(model, scene, out, **(given | change))

    def test_two_processes_do_not_work_on_one_folder(self, small, scene, tmp_path):
        def meanwhile(progress):
            with pytest.raises(PnaError, match="another process works on .*scene-parts: wait"):
                segment_raster(by_brightness(), scene, tmp_path / "out", tiling=TILES)

        segment_raster(by_brightness(), scene, tmp_path / "out", tiling=TILES, progress=meanwhile)
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["scene_labels.tif"]

    def test_a_block_that_was_cut_off_is_computed_again(self, small, scene, tmp_path):
        model, out = ColorSegmenter(), tmp_path / "out"
        with pytest.raises(KilledError):
            segment_raster(model, scene, out, tiling=TILES, progress=self.kill_after(3))
        block = out / ".scene-parts" / "block-000001.npz"
        block.write_bytes(block.read_bytes()[:50])
        report = segment_raster(model, scene, out, tiling=TILES)
        assert report.num_found == 2
        np.testing.assert_array_equal(values_of(report.labels)[0], at_once(model, scene).argmax(0))

    def test_a_damaged_plan_is_named(self, small, scene, tmp_path):
        out = tmp_path / "out"
        with pytest.raises(KilledError):
            segment_raster(by_brightness(), scene, out, progress=self.kill_after(1))
        (out / ".scene-parts" / "run.json").write_text("{")
        with pytest.raises(PnaError, match=r"run\.json is damaged: remove the folder"):
            segment_raster(by_brightness(), scene, out)

    def test_results_appear_together(self, small, scene, tmp_path, monkeypatch):
        model, out = by_brightness(), tmp_path / "out"

        def fail(*arguments):
            raise rasterio.errors.RasterioIOError("no space left")

        monkeypatch.setattr(run, "write_scores", fail)
        with pytest.raises(rasterio.errors.RasterioIOError):
            segment_raster(model, scene, out, tiling=TILES, scores=True)
        assert not (out / "scene_labels.tif").exists()
        monkeypatch.undo()

    def test_neither_of_another_model_or_image(self, small, scene, tmp_path):
        out = tmp_path / "out"
        with pytest.raises(KilledError):
            segment_raster(by_brightness(), scene, out, progress=self.kill_after(1))
        with pytest.raises(PnaError, match="with another model"):
            segment_raster(ColorSegmenter(), scene, out)
        write_raster(scene, shades(100, 130, seed=1), compress="DEFLATE")
        with pytest.raises(PnaError, match="with another raster"):
            segment_raster(by_brightness(), scene, out)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"tiling": TilingConfig(scales=(0.5, 1))}, "at its own size alone, got scales"),
            ({"polygons": "shp"}, "expected polygons as gpkg or geojson, got 'shp'"),
            ({"memory": "much"}, "expected an amount of memory such as 2GB.*got 'much'"),
            ({"memory": "10MB"}, "tiles of 100x128 need about .* allowed: allow more memory"),
            ({"memory": "10MB", "tiling": TILES}, "tiles of 24x32 need .* choose a smaller tile"),
        ],
    )
    def test_nothing_is_written(self, scene, tmp_path, options, message):
        with pytest.raises(PnaError, match=message):
            segment_raster(by_brightness(), scene, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    def test_polygons_without_the_place_they_need(self, tmp_path):
        points = [
            rasterio.control.GroundControlPoint(row, col, x=10 + col / 100, y=50 - row / 100)
            for row, col in ((0, 0), (0, 69), (59, 0), (59, 69))
        ]
        by_points = {"gcps": points, "crs": "EPSG:4326"}
        path = write_raster(tmp_path / "points.tif", shades(60, 70), place=by_points)
        with pytest.raises(PnaError, match=r"points\.tif: its place is given by points; warp it"):
            segment_raster(by_brightness(), path, tmp_path / "out", polygons="gpkg")
        local = rasterio.CRS.from_wkt('LOCAL_CS["mine",UNIT["metre",1]]')
        path = write_raster(tmp_path / "local.tif", shades(60, 70), place=PLACE | {"crs": local})
        with pytest.raises(PnaError, match=r"local\.tif: its coordinates cannot be turned into"):
            segment_raster(by_brightness(), path, tmp_path / "out", polygons="geojson")
        assert not (tmp_path / "out").exists()

    def test_no_file(self, tmp_path):
        with pytest.raises(MissingFileError, match="no raster at"):
            segment_raster(by_brightness(), tmp_path / "a.tif", tmp_path / "out")


def beyond_held(gigabytes):
    """Bytes that a run may take: other tests in this process may hold any amount already."""
    return int(1.25 * psutil.Process().memory_info().rss) + gigabytes * 10**9


class TestMemory:
    def test_amounts(self):
        assert parse_memory("2GB") == parse_memory("2 gb") == parse_memory("2000m") == 2 * 10**9
        assert parse_memory("1.5k") == 1500
        for text in ("", "GB", "-1GB", "0", "2XB"):
            with pytest.raises(PnaError, match="expected an amount of memory"):
                parse_memory(text)

    def test_more_memory_gives_larger_tiles_and_blocks(self):
        model = by_brightness().eval()
        whole = (50_000, 50_000)
        sizes = [plan_memory(model, CPU, beyond_held(more), whole) for more in (2, 7)]
        (tile, block), (larger_tile, larger_block) = sizes
        assert tile <= larger_tile <= (1024, 1024)
        assert block < larger_block <= (8192, 8192)

    def test_a_given_tile_is_kept(self):
        model = by_brightness().eval()
        tile, block = plan_memory(model, CPU, beyond_held(3), (9000, 9000), tile=(100, 200))
        assert tile == (100, 200)
        assert min(block) >= 200

    def test_a_tile_is_cut_to_the_raster(self):
        model = by_brightness().eval()
        tile, block = plan_memory(model, CPU, beyond_held(3), (60, 70), tile=(90_000, 90_000))
        assert tile == (90_000, 90_000)
        assert min(block) >= 1

    def test_a_model_is_measured_once(self, monkeypatch):
        model = by_brightness().eval()
        allowed = beyond_held(3)
        first = plan_memory(model, CPU, allowed, (9000, 9000))
        monkeypatch.setattr(memory, "_measure", None)
        assert plan_memory(model, CPU, allowed, (9000, 9000)) == first

    def test_results_and_bands_take_memory_too(self):
        model = by_brightness().eval()
        blocks = [
            plan_memory(model, CPU, beyond_held(3), (9000, 9000), block_bytes=n)[1]
            for n in (16, 300)
        ]
        assert blocks[1] < blocks[0]

    def test_no_gradients_are_kept(self, small, scene, tmp_path, monkeypatch):
        """They would keep every tile's activations until the block is done."""
        modes, original = [], run.segment.bands
        monkeypatch.setattr(
            run.segment,
            "bands",
            lambda *a, **k: modes.append(torch.is_inference_mode_enabled()) or original(*a, **k),
        )
        segment_raster(ColorSegmenter(), scene, tmp_path / "out", tiling=TILES)
        assert modes
        assert all(modes)


_LARGE = """
import resource, sys
import rasterio
import pna
report = pna.segment_raster(pna.load("voc-lite"), sys.argv[1], sys.argv[2], memory="2GB")
print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_1600_megapixels_fit_into_two_gigabytes(tmp_path):
    """Most of the raster holds no data; the network runs where there is some."""
    side, size = 40_000, 3_000
    options = {"width": side, "height": side, "driver": "GTiff", "dtype": "uint8", "nodata": 0}
    options |= {"tiled": True, "compress": "DEFLATE", "sparse_ok": True, **PLACE}
    with rasterio.open(tmp_path / "scene.tif", "w", count=3, **options) as file:
        values = np.maximum(shades(size, size), 1)
        file.write(values, window=((19_000, 19_000 + size), (30_000, 30_000 + size)))
    words = [sys.executable, "-c", _LARGE, str(tmp_path / "scene.tif"), str(tmp_path / "out")]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert int(done.stdout.split()[-1]) < 2e9
    with rasterio.open(tmp_path / "out" / "scene_labels.tif") as file:
        assert (file.height, file.width, file.crs) == (side, side, UTM)
        labels = file.read(1, window=((18_900, 22_100), (29_900, 33_100)))
    assert (labels[100:-100, 100:-100] < 21).all()
    labels[100:-100, 100:-100] = 255
    assert (labels == 255).all()
