import pytest
from PIL import Image

from pna.data import DataError
from pna.data.pairs import Endings, collect_missing, match_pairs, read_list

SATELLITE = Endings("_sat.jpg", "_mask.png")


@pytest.fixture
def folders(tmp_path):
    """Two folders with the partners a, b, c."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for stem in "bca":
            Image.new("L", (8, 6)).save(tmp_path / folder / f"{stem}.png")
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
    Image.new("L", (8, 6)).save(folders / "images" / "a.bmp")
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


@pytest.fixture
def satellite(tmp_path):
    """Pictures and masks of 1, 2, 3 in one folder, told apart by their endings."""
    for stem in (2, 1, 3):
        for ending in (*SATELLITE, "_depth.png"):
            (tmp_path / f"{stem}{ending}").touch()
    return tmp_path


def test_endings_tell_pictures_and_masks_of_one_folder_apart(satellite):
    pairs = match_pairs(satellite, satellite, endings=SATELLITE)
    assert [pair.name for pair in pairs] == ["1", "2", "3"]
    assert pairs[0] == (satellite / "1_sat.jpg", satellite / "1_mask.png", "1")


def test_endings_are_matched_exactly(satellite):
    (satellite / "2_sat.jpg").rename(satellite / "2_SAT.jpg")
    with pytest.raises(DataError, match="no picture for '2'"):
        match_pairs(satellite, satellite, endings=SATELLITE)


def test_without_any_file_the_endings_are_named(tmp_path):
    with pytest.raises(DataError, match=r"expected files ending in _sat\.jpg and _mask\.png"):
        match_pairs(tmp_path, tmp_path, endings=SATELLITE)


def test_missing_partners_can_be_collected(folders):
    (folders / "images" / "a.png").unlink()
    (folders / "masks" / "c.png").unlink()
    with collect_missing() as missing:
        pairs = match_pairs(folders / "images", folders / "masks", ["a", "b", "c", "d"])
    assert [pair.name for pair in pairs] == ["b"]
    assert [message.split(":")[0] for message in missing] == [
        "no picture for 'a'",
        "no picture for 'd'",
        "no mask for 'c'",
        "no mask for 'd'",
    ]
    with pytest.raises(DataError, match="no picture for 'a'"):  # as ever, afterwards
        match_pairs(folders / "images", folders / "masks")


def test_collecting_ends_with_an_error(folders):
    with pytest.raises(ZeroDivisionError), collect_missing():
        _ = 1 // 0
    (folders / "masks" / "c.png").unlink()
    with pytest.raises(DataError, match="no mask for 'c'"):
        match_pairs(folders / "images", folders / "masks")
