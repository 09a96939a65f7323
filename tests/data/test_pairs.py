import re
import unicodedata

import pytest
from PIL import Image

from pna.data import DataError, DataWarning
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
    assert pairs[1].image == folders / "images" / "b.TIFF"
    assert pairs[1].mask == folders / "masks" / "b.png"


def test_pairs_of_a_list_keep_its_order(folders):
    pairs = match_pairs(folders / "images", folders / "masks", ["c", "a"])
    assert [pair.name for pair in pairs] == ["c", "a"]


@pytest.mark.parametrize(("folder", "what"), [("images", "image"), ("masks", "mask")])
def test_a_missing_partner_is_named(folders, folder, what):
    (folders / folder / "b.png").unlink()
    with pytest.raises(DataError, match=f"no {what} for 'b': images are in .*images, masks in"):
        match_pairs(folders / "images", folders / "masks")
    assert len(match_pairs(folders / "images", folders / "masks", ["a"])) == 1


def test_masks_may_have_suffixes_of_their_own(folders):
    for stem in "abc":
        (folders / "masks" / f"{stem}.png").rename(folders / "masks" / f"{stem}.NPY")
    with pytest.raises(DataError, match="no mask for 'a' "):
        match_pairs(folders / "images", folders / "masks")
    pairs = match_pairs(folders / "images", folders / "masks", mask_suffixes=(".png", ".npy"))
    assert [pair.mask.name for pair in pairs] == ["a.NPY", "b.NPY", "c.NPY"]


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
    with pytest.raises(DataError, match=r"no images in .*images, no masks in"):
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
    """Images and masks of 1, 2, 3 in one folder, told apart by their endings."""
    for stem in (2, 1, 3):
        for ending in (*SATELLITE, "_depth.png"):
            (tmp_path / f"{stem}{ending}").touch()
    return tmp_path


def test_endings_tell_images_and_masks_of_one_folder_apart(satellite):
    pairs = match_pairs(satellite, satellite, endings=SATELLITE)
    assert [pair.name for pair in pairs] == ["1", "2", "3"]
    assert pairs[0] == (satellite / "1_sat.jpg", satellite / "1_mask.png", "1")


def test_endings_are_matched_exactly(satellite):
    (satellite / "2_sat.jpg").rename(satellite / "2_SAT.jpg")
    with pytest.raises(DataError, match="no image for '2'"):
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
        "no image for 'a'",
        "no image for 'd'",
        "no mask for 'c'",
        "no mask for 'd'",
    ]
    with pytest.raises(DataError, match="no image for 'a'"):  # as ever, afterwards
        match_pairs(folders / "images", folders / "masks")


def test_collecting_ends_with_an_error(folders):
    with pytest.raises(ZeroDivisionError), collect_missing():
        _ = 1 // 0
    (folders / "masks" / "c.png").unlink()
    with pytest.raises(DataError, match="no mask for 'c'"):
        match_pairs(folders / "images", folders / "masks")


class TestSimilarFiles:
    """A partner that is there under another name is named beside the one that is missing."""

    def missing(self, root, **options):
        with pytest.raises(DataError) as caught:
            match_pairs(root / "images", root / "masks", **options)
        return str(caught.value)

    def test_an_ending_that_is_not_read(self, folders):
        (folders / "masks" / "a.png").rename(folders / "masks" / "a.gif")
        message = self.missing(folders)
        assert message.startswith("no mask for 'a': images are in ")
        assert message.endswith(
            f"; {folders / 'masks'} holds a.gif: rename or convert it, expected the stem 'a' and "
            "one of .jpg .jpeg .png .bmp .tif .tiff .webp"
        )

    def test_a_suffix_on_the_mask(self, folders):
        (folders / "masks" / "a.png").rename(folders / "masks" / "a_mask.png")
        message = self.missing(folders)
        assert message.startswith("no image for 'a_mask': ")
        assert f"; {folders / 'images'} holds a.png: rename" in message

    def test_other_labels_than_the_ending(self, satellite):
        (satellite / "2_mask.png").rename(satellite / "2_maskIds.png")
        with pytest.raises(DataError) as caught:
            match_pairs(satellite, satellite, endings=SATELLITE)
        assert str(caught.value).endswith(
            f"{satellite} holds 2_depth.png, 2_maskIds.png: rename or convert it, "
            "expected 2_mask.png"
        )

    def test_a_longer_word_or_the_partner_of_another_is_not_similar(self, folders):
        for place in ("images", "masks"):
            Image.new("L", (8, 6)).save(folders / place / "a 2.png")
        (folders / "masks" / "ab.txt").touch()
        (folders / "masks" / "a.png").unlink()
        assert self.missing(folders).endswith("; add it, or leave the stem out")

    def test_collected_messages_name_them_too(self, folders):
        (folders / "masks" / "a.png").rename(folders / "masks" / "a.gif")
        with collect_missing() as missing:
            match_pairs(folders / "images", folders / "masks")
        assert "holds a.gif" in missing[0]

    def test_without_any_image_other_endings_are_counted(self, folders):
        for file in [*(folders / "images").iterdir(), *(folders / "masks").iterdir()]:
            file.rename(file.with_suffix(".gif"))
        message = self.missing(folders)
        assert "; found files with other endings: 6 of .gif; folders inside" in message

    def test_without_any_image_folders_are_named(self, folders):
        for folder in (folders / "images", folders / "masks"):
            for file in list(folder.iterdir()):
                (folder / "train").mkdir(exist_ok=True)
                file.rename(folder / "train" / file.name)
        message = self.missing(folders)
        assert message.endswith("; found folders: train; folders inside them are not searched")

    def test_a_list_of_file_names(self, folders):
        message = self.missing(folders, stems=["a.png", "b.png"])
        assert message.startswith("no image for 'a.png' (nor for 1 others): ")
        assert message.endswith("; stems have no ending: expected 'a' in the list")

    def test_pairs_that_are_not_read_are_warned_of(self, folders):
        for place in ("images", "masks"):
            (folders / place / "a.png").rename(folders / place / "a.gif")
        message = (
            f"^1 pairs are left out, such as {re.escape(str(folders / 'images' / 'a.gif'))} and"
        )
        with pytest.warns(DataWarning, match=message):
            pairs = match_pairs(folders / "images", folders / "masks")
        assert [pair.name for pair in pairs] == ["b", "c"]


COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Straße café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("image", "mask"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_accents_may_be_composed_either_way(folders, image, mask):
    """macOS stores "é" as two characters, other systems as one."""
    assert image != mask
    (folders / "images" / "a.png").rename(folders / "images" / f"{image}.png")
    (folders / "masks" / "a.png").rename(folders / "masks" / f"{mask}.png")
    pairs = match_pairs(folders / "images", folders / "masks")
    assert pairs[0].name == COMPOSED
    assert pairs[0].image.is_file()
    assert pairs[0].mask.is_file()
    (folders / "val.txt").write_text(mask, encoding="utf-8")
    chosen = match_pairs(folders / "images", folders / "masks", read_list(folders / "val.txt"))
    assert chosen == pairs[:1]
    assert match_pairs(folders / "images", folders / "masks", [image]) == pairs[:1]


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "val.txt").write_bytes(b"\xef\xbb\xbfa\r\nb\r\n")
    assert read_list(tmp_path / "val.txt") == ["a", "b"]
