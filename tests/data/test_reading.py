import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pna.data import DataError
from pna.data.reading import (
    checked_labels,
    read_color_mask,
    read_colors,
    read_image,
    read_index_mask,
    translate,
)
from pna.labels import DAMAGE, generic

GRADIENT = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
INDICES = np.arange(48, dtype=np.uint8).reshape(6, 8) % 4


def test_a_image_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate a quarter to the right
    Image.fromarray(GRADIENT).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.rot90(GRADIENT, -1))


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK"])
def test_a_image_of_any_8_bit_mode_becomes_rgb(tmp_path, mode):
    file = tmp_path / "a.tif"
    Image.fromarray(GRADIENT).convert(mode).save(file)
    image = read_image(file)
    assert image.shape == (6, 8, 3)
    assert image.dtype == np.uint8


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of a TIFF cut in its directory
@given(share=st.floats(0, 0.9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
def test_a_truncated_file_is_named(tmp_path_factory, suffix, share):
    file = tmp_path_factory.getbasetemp() / f"truncated{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (24, 32), dtype=np.uint8)
    Image.fromarray(noise).convert("RGB" if suffix == ".webp" else "L").save(file)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(DataError, match=f"truncated{suffix}"):
        read_image(file)
    with pytest.raises(DataError, match=f"cannot read the mask .*truncated{suffix}"):
        read_index_mask(file)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"cannot read the mask .*gone\.png"):
        read_index_mask(tmp_path / "gone.png")


def test_indices_are_read_from_palette_and_grayscale(tmp_path):
    mask = Image.fromarray(INDICES)
    mask.save(tmp_path / "gray.png")
    mask.putpalette(generic(4).palette())
    mask.save(tmp_path / "palette.png")
    for name in ("gray.png", "palette.png"):
        np.testing.assert_array_equal(read_index_mask(tmp_path / name), INDICES)


def test_a_one_bit_mask_holds_classes_0_and_1(tmp_path):
    Image.fromarray(INDICES > 1).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_index_mask(tmp_path / "a.png"), INDICES > 1)


def test_a_color_mask_read_as_indices_is_an_error(tmp_path):
    Image.fromarray(GRADIENT).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png has mode RGB: expected class indices"):
        read_index_mask(tmp_path / "a.png")


def test_color_masks_match_exactly(tmp_path):
    rgb = DAMAGE.decode(INDICES)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_color_mask(tmp_path / "a.png", DAMAGE), INDICES)
    rgb[0, 0] = (1, 2, 3)
    Image.fromarray(rgb).save(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"b\.png: unknown colors: \(1, 2, 3\) at 1 pixels"):
        read_color_mask(tmp_path / "b.png", DAMAGE)


def test_labels_outside_the_classes_are_an_error(tmp_path):
    values = np.array([[0, 4, 255, 300]])
    with pytest.raises(DataError, match=r"a\.png has labels \[4, 300\]: allowed are 0\.\.3 \(gen"):
        checked_labels(values, tmp_path / "a.png", generic(4))


def test_16_bit_masks_hold_classes_too(tmp_path):
    Image.fromarray(INDICES.astype(np.uint16)).save(tmp_path / "a.png")
    values = read_index_mask(tmp_path / "a.png")
    labels = checked_labels(values, tmp_path / "a.png", generic(4))
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, INDICES)


def turned(array, orientation):
    """An image that a viewer shows as `array`, stored as a camera held on its side would."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.ascontiguousarray(np.rot90(array, {6: 1, 8: -1, 3: 2}[orientation])))
    image.info["exif"] = exif.tobytes()
    return image


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_mask_is_turned_by_its_own_exif_tag(tmp_path, orientation):
    image = turned(INDICES, orientation)
    image.save(tmp_path / "a.png", exif=image.info["exif"])
    np.testing.assert_array_equal(read_index_mask(tmp_path / "a.png"), INDICES)


def test_a_palette_mask_keeps_its_indices_when_turned(tmp_path):
    image = turned(INDICES, 6)
    image.putpalette(generic(4).palette())
    image.save(tmp_path / "a.png", exif=image.info["exif"])
    with Image.open(tmp_path / "a.png") as stored:
        assert stored.mode == "P"
    np.testing.assert_array_equal(read_index_mask(tmp_path / "a.png"), INDICES)


@pytest.mark.parametrize("mode", ["LA", "PA"])
def test_transparency_of_an_index_mask_is_left_out(tmp_path, mode):
    mask = Image.fromarray(INDICES)
    if mode == "PA":
        mask.putpalette(generic(4).palette())
    mask = mask.convert(mode)
    mask.putalpha(100)
    file = tmp_path / "a.tif"
    mask.save(file)
    with Image.open(file) as stored:
        assert "A" in stored.getbands()
    np.testing.assert_array_equal(read_index_mask(file), INDICES)


def test_transparency_of_a_color_mask_is_left_out(tmp_path):
    mask = Image.fromarray(DAMAGE.decode(INDICES))
    mask.putalpha(0)
    mask.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_color_mask(tmp_path / "a.png", DAMAGE), INDICES)
    np.testing.assert_array_equal(read_colors(tmp_path / "a.png"), DAMAGE.decode(INDICES))


@pytest.mark.parametrize("mode", ["RGBA", "CMYK", "F"])
def test_indices_are_not_guessed_from_other_modes(tmp_path, mode):
    Image.fromarray(GRADIENT).convert(mode).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=rf"a\.tif has mode {mode}: expected class indices"):
        read_index_mask(tmp_path / "a.tif")


def test_one_pixel_is_enough(tmp_path):
    Image.new("L", (1, 1), 3).save(tmp_path / "a.png")
    assert read_index_mask(tmp_path / "a.png").tolist() == [[3]]
    assert read_image(tmp_path / "a.png").tolist() == [[[3, 3, 3]]]


def test_a_mask_beyond_the_limit_says_how_to_allow_it(tmp_path, monkeypatch):
    Image.new("1", (10, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    message = r"mask .*a\.png: .*limit (of|is) 60.*set the environment variable PNA_MAX_"
    with pytest.raises(DataError, match=message):
        read_index_mask(tmp_path / "a.png")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_values_are_translated(tmp_path, dtype):
    values = np.array([[0, 7], [33, 7]], dtype=dtype)
    labels = translate(values, {0: 255, 7: 0, 33: 1}, tmp_path / "a.png", what="label ids")
    assert labels.dtype == np.uint8
    assert labels.tolist() == [[255, 0], [1, 0]]


@pytest.mark.parametrize(
    ("values", "named"), [([0, 9], r"\[9\]"), ([300, -1, 2], r"\[-1, 300\]"), ([3], r"\[3\]")]
)
def test_values_without_a_label_are_named(tmp_path, values, named):
    labels = {0: 0, 1: 1, 2: 2, 5: 3, 7: 4, 8: 5}
    message = rf"mask .*a\.png has label ids {named}: expected 0\.\.2, 5, 7\.\.8; replace"
    with pytest.raises(DataError, match=message):
        translate(np.array([values]), labels, tmp_path / "a.png", what="label ids")
