"""Rasters read window by window: which bands, which values, and where there is no data."""

import numpy as np
import pytest
import rasterio
from PIL import Image

from pna.data.gdal import describe
from pna.data.raster import Raster
from pna.errors import MissingFileError, PnaError
from rasters import PLACE, UTM, shades, write_raster

WINDOW = slice(3, 20), slice(5, 31)


def read(path, window=WINDOW, **options):
    with Raster(path, **options) as raster:
        return raster.read(window)


def crop(values, window=WINDOW):
    return values[:, window[0], window[1]]


class TestBands:
    def test_three_bands_are_red_green_and_blue(self, tmp_path):
        values = shades(30, 40)
        image, valid = read(write_raster(tmp_path / "a.tif", values))
        np.testing.assert_array_equal(image, crop(values))
        assert valid.all()

    def test_bands_are_taken_by_their_meaning(self, tmp_path):
        values = shades(30, 40, bands=4)
        path = write_raster(
            tmp_path / "a.tif", values, colors=("undefined", "blue", "green", "red")
        )
        np.testing.assert_array_equal(read(path)[0], crop(values)[[3, 2, 1]])

    def test_the_names_that_a_file_gives_come_first(self, tmp_path):
        values = shades(30, 40)
        path = write_raster(tmp_path / "a.tif", values)
        with rasterio.open(path, "r+") as file:
            for number, name in enumerate(("Blue", "Green", "Red"), start=1):
                file.set_band_description(number, name)
        np.testing.assert_array_equal(read(path)[0], crop(values)[::-1])

    def test_gray_becomes_three_equal_bands(self, tmp_path):
        values = shades(30, 40, bands=1)
        image, _ = read(write_raster(tmp_path / "a.tif", values))
        np.testing.assert_array_equal(image, crop(values)[[0, 0, 0]])

    def test_transparency_is_no_data(self, tmp_path):
        values = shades(30, 40, bands=4)
        values[3] = 255
        values[3, 10:, :] = 0
        path = write_raster(tmp_path / "a.tif", values, colors=("red", "green", "blue", "alpha"))
        image, valid = read(path)
        np.testing.assert_array_equal(image, crop(values)[:3])
        assert valid[:7].all()
        assert not valid[7:].any()

    def test_a_palette_becomes_its_colors(self, tmp_path):
        path = write_raster(tmp_path / "a.tif", np.tile(np.uint8([[[0, 7]]]), (1, 30, 20)))
        with rasterio.open(path, "r+") as file:
            file.write_colormap(1, {0: (1, 2, 3, 255), 7: (250, 9, 8, 255)})
        image, _ = read(path)
        assert image[:, 0, 1].tolist() == [1, 2, 3]
        assert image[:, 0, 0].tolist() == [250, 9, 8]
        for words in ({"bands": (1,)}, {"scale": (0, 7)}):
            with pytest.raises(PnaError, match=r"a\.tif: its band is of a palette"):
                read(path, **words)

    def test_bands_without_a_meaning_have_to_be_named(self, tmp_path):
        values = shades(30, 40, bands=5)
        path = write_raster(tmp_path / "a.tif", values, colors=("gray", *["undefined"] * 4))
        with rasterio.open(path, "r+") as file:
            file.set_band_description(4, "near infrared")
        with pytest.raises(PnaError, match=r"a\.tif: it has 5 bands.*4 near infrared.*--bands 3"):
            read(path)
        np.testing.assert_array_equal(read(path, bands=(4, 3, 1))[0], crop(values)[[3, 2, 0]])
        np.testing.assert_array_equal(read(path, bands=(2,))[0], crop(values)[[1, 1, 1]])
        for bands in ((0, 1, 2), (4, 5, 6), (1, 2)):
            with pytest.raises(PnaError, match="expected 1 or 3 bands from 1 to 5, got"):
                read(path, bands=bands)


class TestValues:
    def test_16_bits_need_a_scale(self, tmp_path):
        values = shades(30, 40, dtype="uint16", top=3000)
        path = write_raster(tmp_path / "a.tif", values)
        with pytest.raises(PnaError, match=r"a\.tif: its values are uint16, from .*--scale 0,4095"):
            Raster(path)
        image, _ = read(path, scale=(500, 2500))
        expected = ((crop(values).astype(np.float32) - 500) / 2000).clip(0, 1)
        assert image.dtype == np.float32
        np.testing.assert_allclose(image, expected, atol=1e-6)

    def test_no_hint_of_12_bits_where_there_are_more(self, tmp_path):
        path = write_raster(tmp_path / "a.tif", shades(30, 40, dtype="uint16", top=9000))
        with pytest.raises(PnaError) as error:
            Raster(path)
        assert "12 bits" not in str(error.value)

    @pytest.mark.parametrize("scale", [(5, 5), (7, 2), (0, float("nan"))])
    def test_a_wrong_scale(self, tmp_path, scale):
        path = write_raster(tmp_path / "a.tif", shades(30, 40, dtype="float32", top=1))
        with pytest.raises(PnaError, match="expected a scale of two numbers"):
            Raster(path, scale=scale)

    def test_what_is_not_a_number_is_no_data(self, tmp_path):
        values = shades(30, 40, dtype="float32", top=1)
        values[1, 10, 12] = np.nan
        image, valid = read(write_raster(tmp_path / "a.tif", values), scale=(0, 1))
        assert np.isfinite(image).all()
        assert not valid[7, 7]
        assert valid.sum() == valid.size - 1

    def test_nodata(self, tmp_path):
        values = shades(30, 40, dtype="int16", top=200)
        values[:, 12:, :] = -9999
        image, valid = read(write_raster(tmp_path / "a.tif", values, nodata=-9999), scale=(0, 200))
        assert valid[:9].all()
        assert not valid[9:].any()
        assert image.min() == 0

    def test_data_in_all_bands_or_none(self, tmp_path):
        values = shades(30, 40, dtype="int16", top=200)
        values[1, 12:] = -9999
        values[:, 14:] = -9999
        path = write_raster(tmp_path / "a.tif", values, nodata=-9999)
        assert read(path, scale=(0, 200))[1].sum() == 9 * 26
        # Of the bands that are read alone.
        assert read(path, bands=(1,), scale=(0, 200))[1].sum() == 11 * 26

    def test_transparent_colors_of_a_palette(self, tmp_path):
        image = Image.fromarray(np.tile(np.uint8([[0, 1]]), (30, 20)))
        image.putpalette([1, 2, 3, 250, 9, 8])
        path = tmp_path / "a.png"
        image.save(path, transparency=0)
        _, valid = read(path)
        assert valid[0, :2].tolist() == [True, False]

    def test_complex_numbers(self, tmp_path):
        path = write_raster(tmp_path / "a.tif", shades(30, 40).astype("complex64"))
        with pytest.raises(PnaError, match=r"a\.tif: its values are complex64; write amplitude"):
            Raster(path, scale=(0, 1))

    def test_only_nodata(self, tmp_path):
        values = np.full((3, 30, 40), -9999, np.int16)
        path = write_raster(tmp_path / "a.tif", values, nodata=-9999)
        with pytest.raises(PnaError, match="none that was looked at is valid: say which values"):
            Raster(path)


class TestFiles:
    def test_place(self, tmp_path):
        path = write_raster(tmp_path / "a.tif", shades(30, 40))
        with Raster(path) as raster:
            assert raster.place.crs.to_string() == UTM
            assert raster.place.transform == PLACE["transform"]
            assert (raster.height, raster.width) == (30, 40)
            assert raster.is_random_access
        assert describe(path) == (True, 1200)

    def test_plain_images(self, tmp_path):
        array = shades(30, 40).transpose(1, 2, 0)
        Image.fromarray(array).save(tmp_path / "a.png")
        assert describe(tmp_path / "a.png") == (False, 1200)
        with Raster(tmp_path / "a.png") as raster:
            assert not raster.is_random_access
            np.testing.assert_array_equal(raster.read(WINDOW)[0], crop(array.transpose(2, 0, 1)))

    def test_an_image_that_lies_on_its_side(self, tmp_path):
        image = Image.fromarray(shades(30, 40).transpose(1, 2, 0))
        exif = image.getexif()
        exif[274] = 6
        image.save(tmp_path / "a.jpg", exif=exif)
        with pytest.raises(PnaError, match=r"a\.jpg: its EXIF orientation is 6.*turn it upright"):
            Raster(tmp_path / "a.jpg")

    def test_reduced(self, tmp_path):
        path = write_raster(tmp_path / "a.tif", np.full((3, 30, 40), 9, np.uint8))
        with Raster(path) as raster:
            image, valid = raster.read_reduced(20)
            assert image.shape == (3, 15, 20)
            assert valid.shape == (15, 20)
            assert (image == 9).all()
            assert raster.read_reduced(999)[1].shape == (30, 40)

    def test_files_that_are_none(self, tmp_path):
        with pytest.raises(MissingFileError, match="no raster at"):
            Raster(tmp_path / "a.tif")
        (tmp_path / "a.tif").write_text("no raster")
        with pytest.raises(PnaError, match=r"can't read .*a\.tif as a raster"):
            Raster(tmp_path / "a.tif")
        assert describe(tmp_path / "a.tif") is None

    def test_a_damaged_file(self, tmp_path):
        path = write_raster(tmp_path / "a.tif", shades(300, 400), compress="DEFLATE")
        path.write_bytes(path.read_bytes()[:-20_000])
        with Raster(path) as raster, pytest.raises(PnaError, match=r"can't read .*a\.tif as a"):
            raster.read((slice(0, 300), slice(0, 400)))


@pytest.mark.data
def test_real_rasters(shared_data):
    folder = shared_data / "samples" / "geotiff"
    with pytest.raises(PnaError, match="its values are uint16"):
        Raster(folder / "sample_geotiff.tif")
    with Raster(folder / "sample_geotiff_custom_proj.tif", scale=(0, 3000)) as raster:
        image, valid = raster.read((slice(0, 512), slice(0, 512)))
        assert 0 < valid.mean() <= 1
        assert image.max() > 0
