"""Polygons as masks: drawn at their place, with their classes, or refused with the reason."""

import json
from pathlib import Path

import fiona
import numpy as np
import pytest
import rasterio
from rasterio.warp import transform_geom

from pna.data import DataError, create_dataset
from pna.data.polygons import read_polygon_mask
from pna.labels import LabelSpace, generic
from rasters import PLACE, UTM, shades, write_raster

SHARED = Path(__file__).parents[3] / "shared" / "data" / "samples" / "geotiff"
ROOFS = LabelSpace("roofs", ("ground", "roof", "tree"), ((0, 0, 0), (255, 0, 0), (0, 255, 0)))
LONGITUDE_LATITUDE = "OGC:CRS84"


def box(rows, columns):
    """A rectangle of whole pixels, in the coordinates of `PLACE`."""
    corners = [
        rasterio.transform.xy(PLACE["transform"], rows[j], columns[i], offset="ul")
        for i, j in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))
    ]
    return {"type": "Polygon", "coordinates": [[[float(x) for x in corner] for corner in corners]]}


def in_degrees(shape):
    return transform_geom(UTM, LONGITUDE_LATITUDE, shape)


def write_geojson(path, *features, crs=None):
    """Write (geometry, properties) pairs."""
    collection = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "geometry": shape, "properties": values}
            for shape, values in features
        ],
    }
    if crs is not None:
        collection["crs"] = {"type": "name", "properties": {"name": crs}}
    path.write_text(json.dumps(collection))
    return path


@pytest.fixture
def image(tmp_path):
    return write_raster(tmp_path / "image.tif", shades(20, 30))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "labels.geojson"


class TestDrawing:
    def test_in_longitude_and_latitude(self, image, file):
        write_geojson(
            file,
            (in_degrees(box((2, 8), (3, 12))), {"class": "roof"}),
            (in_degrees(box((10, 20), (20, 30))), {"class": "tree"}),
        )
        expected = np.zeros((20, 30), np.uint8)
        expected[2:8, 3:12] = 1
        expected[10:20, 20:30] = 2
        np.testing.assert_array_equal(read_polygon_mask(file, image, ROOFS), expected)

    def test_in_the_coordinates_that_the_file_names(self, image, file):
        write_geojson(file, (box((2, 8), (3, 12)), {"class": 1}), crs="urn:ogc:def:crs:EPSG::32633")
        mask = read_polygon_mask(file, image, ROOFS)
        assert mask.sum() == 6 * 9
        assert mask[2:8, 3:12].all()

    def test_holes_stay_open_and_the_last_lies_on_top(self, image, file):
        ring = box((0, 10), (0, 10))
        ring["coordinates"] += box((4, 6), (4, 6))["coordinates"]
        write_geojson(
            file,
            (in_degrees(ring), {"class": "roof"}),
            (in_degrees(box((8, 12), (0, 4))), {"class": "tree"}),
        )
        mask = read_polygon_mask(file, image, ROOFS)
        assert (mask[4:6, 4:6] == 0).all()
        assert (mask[8:12, :4] == 2).all()
        assert (mask == 1).sum() == 100 - 4 - 8

    def test_several_parts_are_one_feature(self, image, file):
        parts = [in_degrees(box((0, 2), (0, 2))), in_degrees(box((10, 12), (10, 12)))]
        shape = {"type": "MultiPolygon", "coordinates": [part["coordinates"] for part in parts]}
        write_geojson(file, (shape, {"class": "roof"}))
        assert (read_polygon_mask(file, image, ROOFS) == 1).sum() == 8

    @pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
    def test_geopackage_in_pixels_of_an_image_without_a_place(self, tmp_path):
        image = write_raster(tmp_path / "image.tif", shades(20, 30), place={})
        square = [[(2, 3), (6, 3), (6, 8), (2, 8), (2, 3)]]
        schema = {"geometry": "Polygon", "properties": {"class": "str"}}
        with fiona.open(tmp_path / "a.gpkg", "w", driver="GPKG", schema=schema) as target:
            target.write(
                {
                    "geometry": {"type": "Polygon", "coordinates": square},
                    "properties": {"class": "roof"},
                }
            )
        mask = read_polygon_mask(tmp_path / "a.gpkg", image, ROOFS)
        assert mask[3:8, 2:6].all()
        assert mask.sum() == 5 * 4

    def test_no_polygons_are_background(self, image, file):
        write_geojson(file)
        assert not read_polygon_mask(file, image, generic(2)).any()
        assert not read_polygon_mask(file, image, ROOFS, name="cover").any()

    def test_a_feature_without_a_shape_is_passed_over(self, image, file):
        write_geojson(
            file, (None, {"class": "tree"}), (in_degrees(box((0, 2), (0, 2))), {"class": "roof"})
        )
        assert (read_polygon_mask(file, image, ROOFS) == 1).sum() == 4


class TestClasses:
    def test_two_classes_need_no_property(self, image, file):
        write_geojson(file, (in_degrees(box((0, 2), (0, 2))), {"id": 7}))
        assert read_polygon_mask(file, image, generic(2)).sum() == 4

    def test_a_property_by_its_name(self, image, file):
        write_geojson(file, (in_degrees(box((0, 2), (0, 2))), {"class": "x", "cover": "tree"}))
        mask = read_polygon_mask(file, image, ROOFS, name="cover")
        assert (mask == 2).sum() == 4

    @pytest.mark.parametrize("value", [2, 2.0, "2"], ids=repr)
    def test_an_index_in_any_type(self, image, file, value):
        write_geojson(file, (in_degrees(box((0, 2), (0, 2))), {"class": value}))
        assert (read_polygon_mask(file, image, ROOFS) == 2).sum() == 4

    def test_255_is_ignored(self, image, file):
        write_geojson(file, (in_degrees(box((0, 2), (0, 2))), {"class": 255}))
        assert (read_polygon_mask(file, image, ROOFS) == 255).sum() == 4

    @pytest.mark.parametrize("value", ["shed", 3, -1, None, 1.5])
    def test_an_unknown_class_is_named(self, image, file, value):
        write_geojson(file, (in_degrees(box((0, 2), (0, 2))), {"class": value}))
        with pytest.raises(DataError, match=r"labels\.geojson: feature 0 has class .*roofs"):
            read_polygon_mask(file, image, ROOFS)

    def test_three_classes_need_a_property(self, image, file):
        write_geojson(file, (in_degrees(box((0, 2), (0, 2))), {"id": 7, "kind": "roof"}))
        with pytest.raises(DataError, match="say which of id, kind does"):
            read_polygon_mask(file, image, ROOFS)

    def test_a_property_that_is_not_there(self, image, file):
        write_geojson(file, (in_degrees(box((0, 2), (0, 2))), {"kind": "roof"}))
        with pytest.raises(DataError, match="no property 'cover'; they have kind"):
            read_polygon_mask(file, image, ROOFS, name="cover")


class TestRefusals:
    def test_polygons_elsewhere(self, image, file):
        write_geojson(file, (in_degrees(box((500, 600), (500, 600))), {"class": "roof"}))
        with pytest.raises(DataError, match=r"none of its 1 polygons meets .*image\.tif"):
            read_polygon_mask(file, image, ROOFS)

    def test_metres_that_are_taken_for_degrees(self, image, file):
        write_geojson(file, (box((0, 5), (0, 5)), {"class": "roof"}))
        with pytest.raises(DataError, match="no longitude and latitude.*a_srs"):
            read_polygon_mask(file, image, ROOFS)

    @pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
    def test_an_image_without_a_place(self, tmp_path, file):
        image = write_raster(tmp_path / "image.tif", shades(20, 30), place={})
        write_geojson(file, (in_degrees(box((0, 5), (0, 5))), {"class": "roof"}))
        with pytest.raises(DataError, match=r"image\.tif does not say where on the earth"):
            read_polygon_mask(file, image, ROOFS)

    def test_lines(self, image, file):
        line = {"type": "LineString", "coordinates": box((0, 5), (0, 5))["coordinates"][0]}
        write_geojson(file, (in_degrees(line), {"class": "roof"}))
        with pytest.raises(DataError, match="feature 0 is a LineString.*buffer"):
            read_polygon_mask(file, image, ROOFS)

    def test_a_coordinate_that_is_no_number(self, image, file):
        shape = in_degrees(box((0, 5), (0, 5)))
        ring = list(shape["coordinates"][0])
        ring[1] = (float("nan"), ring[1][1])
        shape["coordinates"] = [ring]
        write_geojson(file, (shape, {"class": "roof"}))
        with pytest.raises(DataError, match="feature 0 has a coordinate that is no number"):
            read_polygon_mask(file, image, ROOFS)

    def test_several_layers(self, tmp_path, image):
        schema = {"geometry": "Polygon", "properties": {"class": "str"}}
        for layer in ("roofs", "trees"):
            with fiona.open(
                tmp_path / "a.gpkg", "w", driver="GPKG", schema=schema, layer=layer, crs=UTM
            ):
                pass
        with pytest.raises(DataError, match="expected one layer, got roofs, trees"):
            read_polygon_mask(tmp_path / "a.gpkg", image, ROOFS)

    @pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"type": "FeatureCollection"}'])
    def test_damaged_files(self, image, file, content):
        file.write_text(content)
        with pytest.raises(DataError, match=r"labels\.geojson"):
            read_polygon_mask(file, image, ROOFS)

    def test_missing_files(self, tmp_path, image, file):
        with pytest.raises(DataError, match="no polygons at"):
            read_polygon_mask(file, image, ROOFS)
        with pytest.raises(DataError, match=r"no raster at .*other\.tif"):
            read_polygon_mask(file, tmp_path / "other.tif", ROOFS)


class TestFolder:
    @pytest.fixture
    def root(self, tmp_path):
        for name in ("images", "masks"):
            (tmp_path / name).mkdir()
        for name, rows in (("a", (0, 5)), ("b", (5, 15))):
            write_raster(tmp_path / "images" / f"{name}.tif", shades(20, 30))
            write_geojson(
                tmp_path / "masks" / f"{name}.geojson",
                (in_degrees(box(rows, (0, 10))), {"kind": "roof"}),
            )
        return tmp_path

    def test_samples_have_images_and_drawn_labels(self, root):
        dataset = create_dataset(
            "folder", root, labels=ROOFS, masks="polygons", class_property="kind"
        )
        assert [int((sample.labels == 1).sum()) for sample in dataset] == [50, 100]
        assert dataset[0].image.shape == (3, 20, 30)

    def test_options_of_other_masks_are_refused(self, root):
        with pytest.raises(DataError, match="ignore is for masks of pixels"):
            create_dataset("folder", root, labels=ROOFS, masks="polygons", ignore=0)
        with pytest.raises(DataError, match="class_property is for masks='polygons'"):
            create_dataset("folder", root, labels=ROOFS, class_property="kind")

    def test_a_missing_file_is_named(self, root):
        (root / "masks" / "b.geojson").unlink()
        with pytest.raises(DataError, match="no mask for 'b'"):
            create_dataset("folder", root, labels=ROOFS, masks="polygons", class_property="kind")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the samples are not beside the checkout")
class TestRealFootprints:
    def test_footprints_match_the_owners_mask(self):
        image = SHARED / "sample_geotiff.tif"
        mask = read_polygon_mask(SHARED / "geotiff_labels.geojson", image, generic(2))
        with rasterio.open(image) as raster:
            assert mask.shape == raster.shape
        assert 0.01 < mask.mean() < 0.9

    def test_projected_footprints_without_a_reference_system_are_refused(self):
        with pytest.raises(DataError, match="no longitude and latitude"):
            read_polygon_mask(
                SHARED / "geotiff_custom_proj_labels.geojson",
                SHARED / "sample_geotiff_custom_proj.tif",
                generic(2),
            )
