import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pna.data import DataError
from pna.data.reading import (
    checked_labels,
    match_pairs,
    read_color_mask,
    read_index_mask,
    read_list,
    read_picture,
)
from pna.labels import DAMAGE, generic

GRADIENT = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)
INDICES = np.arange(48, dtype=np.uint8).reshape(6, 8) % 4


@pytest.fixture
def folders(tmp_path):
    """Two folders with the partners a, b, c."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for stem in "bca":
            Image.fromarray(INDICES).save(tmp_path / folder / f"{stem}.png")
    return tmp_path


def test_pairs_are_matched_by_stem_and_sorted(folders):
    (folders / "images" / "b.png").rename(folders / "images" / "b.TIFF")
    (folders / "images" / "notes.txt").touch()
    (folders / "images" / ".b.png").touch()
    pairs = match_pairs(folders / "images", folders / "masks")
    assert [pair.name for pair in pairs] == ["a", "b", "c"]
    assert pairs[1].picture == folders / "images" / "b.TIFF"
    assert pairs[1].mask == folders / "masks" / "b.png"


def test_pairs_of_a_list_keep_its_order(folders):
    pairs = match_pairs(folders / "images", folders / "masks", ["c", "a"])
    assert [pair.name for pair in pairs] == ["c", "a"]


@pytest.mark.parametrize(("folder", "what"), [("images", "picture"), ("masks", "mask")])
def test_a_missing_partner_is_named(folders, folder, what):
    (folders / folder / "b.png").unlink()
    with pytest.raises(DataError, match=f"no {what} for 'b': pictures are in .*images, masks in"):
        match_pairs(folders / "images", folders / "masks")
    assert len(match_pairs(folders / "images", folders / "masks", ["a"])) == 1


def test_two_files_of_one_stem_are_an_error(folders):
    Image.fromarray(INDICES).save(folders / "images" / "a.bmp")
    with pytest.raises(DataError, match=r"two files of the stem 'a': a\.bmp and a\.png"):
        match_pairs(folders / "images", folders / "masks")


def test_a_missing_folder_is_named(folders):
    with pytest.raises(DataError, match=r"no folder .*annotations: it should hold masks"):
        match_pairs(folders / "images", folders / "annotations")


def test_empty_folders_are_an_error(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match=r"no pictures in .*images, no masks in"):
        match_pairs(tmp_path / "images", tmp_path / "masks")


def test_a_list_is_read_line_by_line(tmp_path):
    (tmp_path / "val.txt").write_bytes(b"one\r\n\ntwo words \n")
    assert read_list(tmp_path / "val.txt") == ["one", "two words"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the split list .*val.txt"),
        (b"\xff\xfe\x00", "cannot read the split list .*val.txt"),
        (b" \n", "val.txt is empty"),
        (b"a\nb\na\n", "val.txt names 'a' 2 times"),
    ],
)
def test_a_bad_list_is_an_error(tmp_path, content, message):
    if content is not None:
        (tmp_path / "val.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_list(tmp_path / "val.txt")


def test_a_picture_is_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate a quarter to the right
    Image.fromarray(GRADIENT).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png"), np.rot90(GRADIENT, -1))


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "CMYK"])
def test_a_picture_of_any_8_bit_mode_becomes_rgb(tmp_path, mode):
    file = tmp_path / "a.tif"
    Image.fromarray(GRADIENT).convert(mode).save(file)
    picture = read_picture(file)
    assert picture.shape == (6, 8, 3)
    assert picture.dtype == np.uint8


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of a TIFF cut in its directory
@given(share=st.floats(0, 0.9))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".tif"])
def test_a_truncated_file_is_named(tmp_path_factory, suffix, share):
    file = tmp_path_factory.getbasetemp() / f"truncated{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (24, 32), dtype=np.uint8)
    Image.fromarray(noise).convert("RGB" if suffix == ".webp" else "L").save(file)
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with pytest.raises(DataError, match=f"truncated{suffix}"):
        read_picture(file)
    with pytest.raises(DataError, match=f"cannot read the mask .*truncated{suffix}"):
        read_index_mask(file)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.jpg"):
        read_picture(tmp_path / "gone.jpg")
    with pytest.raises(DataError, match=r"cannot read the mask .*gone\.png"):
        read_index_mask(tmp_path / "gone.png")


def test_indices_are_read_from_palette_and_greyscale(tmp_path):
    mask = Image.fromarray(INDICES)
    mask.save(tmp_path / "grey.png")
    mask.putpalette(generic(4).palette())
    mask.save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
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
    with pytest.raises(DataError, match=r"b\.png: unknown colours: \(1, 2, 3\) at 1 pixels"):
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
