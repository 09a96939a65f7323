"""Masks in files: every kind of file is read as what it is, and comes back as it was."""

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from pna.data import DataError, DataWarning
from pna.data.masks.files import read_mask, write_mask
from pna.errors import MissingFileError, PnaError
from pna.labels import DAMAGE, VOC, LabelSpace, generic

H, W = 37, 53
ROWS, COLUMNS = np.mgrid[:H, :W]
DISK = (ROWS - 18) ** 2 + (COLUMNS - 20) ** 2 < 150
LABELS = (DISK + 2 * (COLUMNS > 40)).astype(np.uint8)  # 0, 1, 2
SOFT = np.clip(255 * (0.5 + (12 - np.hypot(ROWS - 18, COLUMNS - 20)) / 12), 0, 255).astype(np.uint8)
COLORS = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 255)], np.uint8)[LABELS]


def save(path, pixels, **options):
    """Write pixels, or an image, as an image file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def palette_image(labels=LABELS, palette=(0, 0, 0, 9, 8, 7, 255, 255, 0)):
    image = Image.fromarray(labels)
    image.putpalette(list(palette))
    return image


def with_alpha(colors, alpha):
    return np.dstack([colors, np.broadcast_to(np.uint8(alpha), colors.shape[:2])])


def anti_aliased(colors):
    """Colors scaled down smoothly, with mixed ones along the edges."""
    return np.asarray(
        Image.fromarray(colors).resize((4 * W, 4 * H), 0).resize((W - 8, H - 5), Image.BICUBIC)
    )


def reread(path):
    with Image.open(path) as image:
        image.load()
        return image


GRAY = np.uint8(255) * DISK
FILES = {
    # name: (file, pixels, options of save, kind, type, distinct values)
    "1 bit": ("a.png", DISK, {}, "binary", bool),
    "1 bit TIFF": ("a.tif", DISK, {"compression": "group4"}, "binary", bool),
    "0 and 255": ("a.png", GRAY, {}, "binary", bool),
    "0 and 1": ("a.png", DISK.astype(np.uint8), {}, "binary", bool),
    "two labels": ("a.png", np.uint8(19) * DISK, {}, "labels", np.uint8),
    "palette": ("a.png", palette_image(), {}, "labels", np.uint8),
    "transparent palette": (
        "a.png",
        palette_image(),
        {"transparency": bytes([0, 255, 128])},
        "labels",
        np.uint8,
    ),
    "binary palette": (
        "a.png",
        palette_image(GRAY, [v for v in range(256) for _ in "rgb"]),
        {},
        "binary",
        bool,
    ),
    "palette BMP": ("a.bmp", palette_image(), {}, "labels", np.uint8),
    "gray labels": ("a.PNG", LABELS, {}, "labels", np.uint8),
    "gray steps": ("a.png", (LABELS * 127.5).astype(np.uint8), {}, "labels", np.uint8),
    "soft": ("a.png", SOFT, {}, "soft", np.float32),
    "soft BMP": ("a.bmp", SOFT, {}, "soft", np.float32),
    "16-bit labels": ("a.png", LABELS.astype(np.uint16) * 24001, {}, "labels", np.uint8),
    "16-bit binary": ("a.tiff", np.uint16(65535) * DISK, {}, "binary", bool),
    "16-bit soft": ("a.png", SOFT.astype(np.uint16) * 257, {}, "soft", np.float32),
    "32-bit labels": ("a.tif", LABELS.astype(np.int32) * 70000, {}, "labels", np.uint8),
    "float TIFF": ("a.tif", SOFT.astype(np.float32) / 300, {}, "soft", np.float32),
    "colors": ("a.png", COLORS, {}, "colors", np.uint8),
    "colors WebP": ("a.webp", COLORS, {"lossless": True}, "colors", np.uint8),
    "colors LZW": ("a.tif", COLORS, {"compression": "tiff_lzw"}, "colors", np.uint8),
    "opaque colors": ("a.png", with_alpha(COLORS, 255), {}, "colors", np.uint8),
    "colors with opacity": (
        "a.png",
        with_alpha(COLORS, np.array([0, 200, 255], np.uint8)[LABELS]),
        {},
        "colors",
        np.uint8,
    ),
    "gray as RGB": ("a.png", np.dstack([GRAY] * 3), {}, "binary", bool),
    "soft as RGBA": ("a.png", with_alpha(np.dstack([SOFT] * 3), 255), {}, "soft", np.float32),
    "gray with alpha": ("a.png", np.dstack([GRAY, 99 + 0 * GRAY]), {}, "binary", bool),
}


@pytest.fixture(params=FILES.values(), ids=FILES)
def case(request, tmp_path):
    """A file, and how it is read."""
    name, pixels, options, kind, dtype = request.param
    return save(tmp_path / name, pixels, **options), kind, dtype


def test_every_file_is_read_and_comes_back(case, tmp_path):
    file, kind, dtype = case
    mask = read_mask(file)
    assert (mask.kind, mask.array.dtype, mask.array.shape) == (kind, dtype, (H, W))
    assert mask.form.suffix == file.suffix
    write_mask(mask, mask.array, tmp_path / f"b{file.suffix}")
    before, after = reread(file), reread(tmp_path / f"b{file.suffix}")
    np.testing.assert_array_equal(np.array(after), np.array(before))
    assert (after.mode, after.format, after.getpalette()) == (
        before.mode,
        before.format,
        before.getpalette(),
    )
    for key in ("transparency", "compression"):
        assert after.info.get(key) == before.info.get(key)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, f"b{file.suffix}"]


def test_a_changed_mask_is_written_in_the_files_own_values(case, tmp_path):
    """Every class moves by three columns, in whatever values the file has for it."""
    file, _, _ = case
    mask = read_mask(file)
    write_mask(mask, np.roll(mask.array, 3, axis=1), tmp_path / f"b{file.suffix}")
    before, after = np.array(reread(file)), np.array(reread(tmp_path / f"b{file.suffix}"))
    np.testing.assert_array_equal(after, np.roll(before, 3, axis=1))


@pytest.mark.filterwarnings("ignore:mask .* has no edge to refine:UserWarning")
@pytest.mark.parametrize("kind", ["binary", "labels", "colors", "soft", "alpha"])
@pytest.mark.parametrize("colors", [None, generic(3)], ids=["no table", "table"])
def test_any_file_as_any_kind(case, kind, colors, tmp_path):
    """It is read and written, and is the same mask again, or it is refused by name."""
    file, *_ = case
    mask = error = None
    try:
        mask = read_mask(file, kind=kind, colors=colors)
    except DataError as raised:
        error = str(raised)
    if error is not None:
        assert file.name in error
        return
    write_mask(mask, mask.array, tmp_path / f"b{mask.form.suffix}")
    again = read_mask(tmp_path / f"b{mask.form.suffix}", kind=kind, colors=colors)
    np.testing.assert_array_equal(again.array, mask.array)
    assert again.kind == mask.kind


class TestGuess:
    """What the file does not state is guessed, and said."""

    @pytest.mark.parametrize("name", ["1 bit", "0 and 255", "0 and 1", "palette", "gray as RGB"])
    def test_nothing_is_said_where_nothing_is_guessed(self, name, tmp_path):
        file, pixels, options, *_ = FILES[name]
        assert read_mask(save(tmp_path / file, pixels, **options)).guess is None

    def test_levels_that_fill_areas_are_labels(self, tmp_path):
        guess = read_mask(save(tmp_path / "a.png", LABELS)).guess
        assert guess == (
            "3 gray levels (0, 1, 2), which fill areas: taken for label numbers; if they are "
            "shares of foreground, give the kind soft"
        )

    def test_levels_along_edges_are_soft(self, tmp_path):
        guess = read_mask(save(tmp_path / "a.png", SOFT)).guess
        assert guess.startswith(f"{len(np.unique(SOFT))} gray levels (0, ")
        assert guess.endswith(
            "most of them along edges: taken for a soft mask; if they are label numbers, give the "
            "kind labels"
        )

    def test_many_labels_are_labels(self, tmp_path):
        tiles = (ROWS // 5 * 11 + COLUMNS // 5).astype(np.uint8)
        mask = read_mask(save(tmp_path / "a.png", tiles))
        assert mask.kind == "labels"
        np.testing.assert_array_equal(mask.array, tiles)

    def test_thin_classes_are_labels(self, tmp_path):
        """A crack of one pixel has no pixel that equals its neighbors."""
        cracks = np.zeros((H, W), np.uint8)
        cracks[ROWS == COLUMNS] = 1
        cracks[5] = 255
        mask = read_mask(save(tmp_path / "a.png", cracks))
        assert mask.kind == "labels"
        assert "255 for ignored pixels" in mask.guess

    def test_gray_steps_up_to_white_ignore_nothing(self, tmp_path):
        steps = (LABELS * 127.5).astype(np.uint8)  # 0, 127, 255
        mask = read_mask(save(tmp_path / "a.png", steps))
        np.testing.assert_array_equal(mask.array, LABELS)
        assert "ignored" not in mask.guess

    def test_an_anti_aliased_mask_is_soft(self, tmp_path):
        gray = anti_aliased(np.dstack([GRAY] * 3))[..., 0]
        assert read_mask(save(tmp_path / "a.png", np.ascontiguousarray(gray))).kind == "soft"

    def test_a_gray_jpeg_is_soft_and_becomes_png(self, tmp_path):
        mask = read_mask(save(tmp_path / "a.jpg", GRAY, quality=80))
        assert mask.kind == "soft"
        assert "whose compression blurs edges: taken for a soft mask" in mask.guess
        assert np.mean((mask.array > 0.1) & (mask.array < 0.9)) < 0.05
        assert mask.form.suffix == ".png"
        write_mask(mask, mask.array, tmp_path / "b.png")
        np.testing.assert_array_equal(
            np.array(reread(tmp_path / "b.png")), np.rint(255 * mask.array)
        )

    def test_gray_saved_as_a_color_jpeg(self, tmp_path):
        mask = read_mask(save(tmp_path / "a.jpeg", np.dstack([GRAY] * 3)))
        assert (mask.kind, mask.array.shape) == ("soft", (H, W))

    def test_the_number_of_colors_is_said(self, tmp_path):
        mask = read_mask(save(tmp_path / "a.png", COLORS))
        assert mask.guess == "3 colors, each taken for a class; a table of the colors names them"
        assert mask.labels.classes == ("#000000", "#00ffff", "#ff0000")

    def test_void_of_a_palette_is_ignored(self, tmp_path):
        labels = np.where(DISK, 255, 0).astype(np.uint8)
        with pytest.warns(DataWarning, match="one class fills it"):
            mask = read_mask(save(tmp_path / "a.png", palette_image(labels, VOC.palette())))
        assert mask.kind == "labels"
        np.testing.assert_array_equal(mask.array, labels)


class TestKind:
    """A kind that is given is taken, or refused with a reason."""

    def test_soft_instead_of_labels(self, tmp_path):
        mask = read_mask(save(tmp_path / "a.png", LABELS * np.uint8(100)), kind="soft")
        assert mask.guess is None
        np.testing.assert_allclose(np.unique(mask.array), [0, 100 / 255, 200 / 255], rtol=1e-6)

    def test_labels_instead_of_soft(self, tmp_path):
        mask = read_mask(save(tmp_path / "a.png", SOFT), kind="labels")
        np.testing.assert_array_equal(mask.array, SOFT)

    def test_binary_cuts_at_one_half(self, tmp_path):
        mask = read_mask(save(tmp_path / "a.jpg", GRAY, quality=80), kind="binary")
        np.testing.assert_array_equal(mask.array, DISK)
        write_mask(mask, mask.array, tmp_path / "b.png")
        np.testing.assert_array_equal(np.array(reread(tmp_path / "b.png")), GRAY)

    def test_grays_as_colors(self, tmp_path):
        """Concrete damage has a gray class: its mask may hold no other color."""
        gray = np.where(DISK[..., None], np.uint8(128), np.uint8(0)) * np.ones(3, np.uint8)
        mask = read_mask(save(tmp_path / "a.png", gray), colors=DAMAGE)
        assert mask.kind == "colors"
        assert np.unique(mask.array).tolist() == [0, 4]
        assert read_mask(tmp_path / "a.png", kind="colors").labels.num_classes == 2

    @pytest.mark.parametrize(
        ("name", "kind", "message"),
        [
            ("palette", "soft", "has a palette and 3 indices: expected gray levels"),
            ("palette", "binary", "has a palette and 3 indices: expected two of them"),
            ("palette", "colors", "has mode P: expected RGB or RGBA for colors"),
            ("gray labels", "colors", "has mode L: expected RGB or RGBA for colors"),
            ("gray labels", "alpha", "has mode L: expected an alpha channel"),
            ("1 bit", "soft", "has 1 bit: expected gray levels"),
            ("float TIFF", "labels", "holds floating-point numbers: expected integers"),
            ("colors", "soft", "is in color: expected gray levels for the kind soft"),
            ("32-bit labels", "soft", "holds levels up to 140000: a soft mask of this type has 0"),
        ],
    )
    def test_a_kind_that_does_not_fit(self, name, kind, message, tmp_path):
        file, pixels, options, *_ = FILES[name]
        with pytest.raises(DataError, match=rf"^mask .*{file} {message}"):
            read_mask(save(tmp_path / file, pixels, **options), kind=kind)

    def test_no_kind(self, tmp_path):
        with pytest.raises(PnaError, match=r"^no kind of mask 'index': expected binary, labels"):
            read_mask(save(tmp_path / "a.png", GRAY), kind="index")


class TestAlpha:
    """A cut-out: the photo where the object is, and nothing elsewhere."""

    PHOTO = np.dstack([ROWS, COLUMNS, 7 * ROWS]).astype(np.uint8)

    def cutout(self, path, alpha=GRAY):
        return save(path, with_alpha(np.where(alpha[..., None] > 0, self.PHOTO, 0), alpha))

    def test_colors_of_pixels_that_appear_come_from_the_image(self, tmp_path):
        mask = read_mask(self.cutout(tmp_path / "a.png"), kind="alpha")
        assert mask.kind == "binary"
        np.testing.assert_array_equal(mask.array, DISK)
        moved = np.roll(DISK, 4, axis=0)
        write_mask(mask, moved, tmp_path / "b.png", image=self.PHOTO)
        written = np.array(reread(tmp_path / "b.png"))
        np.testing.assert_array_equal(written[..., 3], 255 * moved)
        np.testing.assert_array_equal(written[moved, :3], self.PHOTO[moved])
        write_mask(mask, moved, tmp_path / "c.png")
        appeared = np.array(reread(tmp_path / "c.png"))[moved & ~DISK]
        assert not appeared[:, :3].any()

    def test_gray_with_soft_alpha(self, tmp_path):
        file = save(tmp_path / "a.png", np.dstack([SOFT, SOFT]))
        mask = read_mask(file, kind="alpha")
        assert (mask.kind, mask.guess) == ("soft", None)
        write_mask(mask, mask.array, tmp_path / "b.png", image=self.PHOTO)
        np.testing.assert_array_equal(np.array(reread(tmp_path / "b.png"))[..., 1], SOFT)

    def test_without_the_kind_it_is_named(self, tmp_path):
        message = r"has \d+ colors: .* It has transparent parts: .*, give the kind alpha"
        with pytest.raises(DataError, match=message):
            read_mask(self.cutout(tmp_path / "a.png"))
        white = with_alpha(np.full((H, W, 3), 255, np.uint8), GRAY)
        with pytest.raises(DataError, match="that does not follow its classes: if it is a cut-out"):
            read_mask(save(tmp_path / "b.png", white))

    def test_an_image_of_another_size(self, tmp_path):
        mask = read_mask(self.cutout(tmp_path / "a.png"), kind="alpha")
        with pytest.raises(PnaError, match=r"expected an image \(37, 53, 3\), as large as the"):
            write_mask(mask, mask.array, tmp_path / "b.png", image=self.PHOTO[1:])


class TestColors:
    SPACE = LabelSpace(
        "three", ("ground", "roof", "water"), ((0, 0, 0), (255, 0, 0), (0, 255, 255))
    )

    def test_a_table_names_the_classes(self, tmp_path):
        mask = read_mask(save(tmp_path / "a.png", COLORS), colors=self.SPACE)
        np.testing.assert_array_equal(mask.array, LABELS)
        assert (mask.labels, mask.guess) == (self.SPACE, None)

    def test_ignored_pixels_have_the_color_of_void(self, tmp_path):
        colors = COLORS.copy()
        colors[:4] = 224, 224, 192
        mask = read_mask(save(tmp_path / "a.png", colors))
        assert (mask.array[:4] == 255).all()
        assert mask.labels.num_classes == 3
        write_mask(mask, mask.array, tmp_path / "b.png")
        np.testing.assert_array_equal(np.array(reread(tmp_path / "b.png")), colors)

    def test_an_anti_aliased_mask_is_refused_with_its_cause(self, tmp_path):
        blurred = anti_aliased(COLORS)
        number = len(np.unique(blurred.reshape(-1, 3), axis=0))
        message = (
            rf"has {number} colors: expected one for each class, at most 255; most stand along"
        )
        with pytest.raises(DataError, match=message):
            read_mask(save(tmp_path / "a.png", blurred))

    def test_a_jpeg_is_refused_with_its_cause(self, tmp_path):
        file = save(tmp_path / "a.jpg", np.kron(COLORS, np.ones((5, 5, 1), np.uint8)), quality=90)
        message = r"it is a JPEG, whose compression makes .* \(--colors FILE\).* \(--kind\)"
        with pytest.raises(DataError, match=message):
            read_mask(file)

    def test_a_photo_is_refused_with_its_cause(self, tmp_path):
        photo = np.random.default_rng(0).integers(0, 256, (H, W, 3), dtype=np.uint8)
        with pytest.raises(DataError, match="it looks like a photo"):
            read_mask(save(tmp_path / "a.png", photo))

    def test_many_even_colors_are_refused(self, tmp_path):
        tiles = np.arange(300).reshape(15, 20).repeat(4, axis=0).repeat(4, axis=1)
        colors = np.dstack([tiles // 20, tiles % 20, 0 * tiles]).astype(np.uint8)
        with pytest.raises(DataError, match="has 300 colors.*; all of them fill areas"):
            read_mask(save(tmp_path / "a.png", colors))

    @pytest.mark.parametrize("suffix", [".jpg", ".png"])
    def test_with_a_table_each_pixel_takes_the_nearest(self, suffix, tmp_path):
        large = np.kron(COLORS, np.ones((8, 8, 1), np.uint8))
        if suffix == ".png":
            large = np.asarray(Image.fromarray(large).resize((8 * W - 9, 8 * H - 7), Image.BICUBIC))
        mask = read_mask(save(tmp_path / f"a{suffix}", large), colors=self.SPACE)
        expected = np.asarray(Image.fromarray(LABELS).resize(large.shape[1::-1], Image.NEAREST))
        assert (mask.array != expected).mean() < 0.01
        assert "have colors that the table 'three' lacks: each taken for the nearest" in mask.guess

    def test_a_table_that_lacks_a_class(self, tmp_path):
        table = LabelSpace("two", ("ground", "roof"), ((0, 0, 0), (255, 0, 0)))
        message = r"% of its pixels are far from every color of the table 'two', .*\(0, 255, 255\)"
        with pytest.raises(DataError, match=message):
            read_mask(save(tmp_path / "a.png", COLORS), colors=table)

    def test_a_table_names_label_numbers(self, tmp_path):
        for pixels in (LABELS, palette_image()):
            mask = read_mask(save(tmp_path / "a.png", pixels), colors=generic(3))
            assert (mask.kind, mask.labels) == ("labels", generic(3))
            with pytest.raises(DataError, match=r"has labels \[2\]: allowed are 0\.\.1"):
                read_mask(tmp_path / "a.png", colors=generic(2))

    def test_a_palette_of_mixed_colors(self, tmp_path):
        image = Image.fromarray(anti_aliased(COLORS)).quantize(40)
        with pytest.raises(DataError, match=r"has a palette of \d+ colors, most of them along edg"):
            read_mask(save(tmp_path / "a.png", image))
        assert read_mask(tmp_path / "a.png", kind="labels").kind == "labels"


class TestArrays:
    """Numpy's files."""

    def round_trip(self, file, mask):
        write_mask(mask, mask.array, file.with_stem("b"))
        return np.load(file.with_stem("b"))

    @pytest.mark.parametrize(
        ("array", "kind", "dtype"),
        [
            (DISK, "binary", bool),
            (LABELS.astype(np.int64), "labels", np.uint8),
            (LABELS.astype(">i4") * 1000, "labels", np.uint8),
            (GRAY.astype(np.int64), "binary", bool),
            (GRAY, "binary", bool),
            (SOFT, "soft", np.float32),
            (SOFT / 255.0, "soft", np.float64),
            ((SOFT / 255).astype(np.float16), "soft", np.float16),
            (np.stack([SOFT / 255, 1 - SOFT / 255]).astype(np.float32), "soft", np.float32),
        ],
    )
    def test_comes_back(self, array, kind, dtype, tmp_path):
        np.save(tmp_path / "a.npy", array)
        mask = read_mask(tmp_path / "a.npy")
        assert (mask.kind, mask.array.dtype, mask.size) == (kind, dtype, (H, W))
        written = self.round_trip(tmp_path / "a.npy", mask)
        assert written.dtype == array.dtype
        np.testing.assert_array_equal(written, array)

    def test_one_array_with_the_names_of_its_classes(self, tmp_path):
        """The file of `pna segment --scores`."""
        scores = np.stack([SOFT / 255, 1 - SOFT / 255]).astype(np.float16)
        np.savez_compressed(tmp_path / "a.npz", scores=scores, classes=["cat", "ground"])
        mask = read_mask(tmp_path / "a.npz")
        assert mask.labels.classes == ("cat", "ground")
        written = self.round_trip(tmp_path / "a.npz", mask)
        np.testing.assert_array_equal(written["scores"], scores)
        assert written["classes"].tolist() == ["cat", "ground"]

    def test_soft_integers(self, tmp_path):
        np.save(tmp_path / "a.npy", np.uint16(257) * SOFT.astype(np.uint16))
        mask = read_mask(tmp_path / "a.npy", kind="soft")
        np.testing.assert_allclose(mask.array, SOFT / 255, atol=1e-6)
        assert self.round_trip(tmp_path / "a.npy", mask).max() == 65535

    def test_bool_is_binary(self, tmp_path):
        np.save(tmp_path / "a.npy", DISK)
        assert read_mask(tmp_path / "a.npy", kind="binary").kind == "binary"
        for kind in ("soft", "labels"):
            with pytest.raises(
                DataError, match=f"holds bool: expected numbers for the kind {kind}"
            ):
                read_mask(tmp_path / "a.npy", kind=kind)

    def test_arrays_that_inflate_beyond_memory(self, tmp_path, monkeypatch):
        np.savez_compressed(tmp_path / "a.npz", mask=np.zeros((1000, 1000), np.uint8))
        monkeypatch.setattr("pna.data.masks.npy._MOST_BYTES", 500_000)
        with pytest.raises(DataError, match=r"a\.npz unpacks to 1000\d+ bytes, of at most 500000"):
            read_mask(tmp_path / "a.npz")

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (LABELS.astype(int) - 1, r"holds negative values \[-1\].*use 255 for ignored"),
            (SOFT.astype(np.float32), r"holds values in \[0, 255\].*or divide gray levels by 255"),
            (SOFT / 2.0 + 0.3, r"holds values in \[0.3, 127.8\].*divide by 255"),
            (SOFT / 50.0 - 2, r"holds values in \[-2, 3.1\].*take the sigmoid of logits"),
            (np.where(DISK, np.nan, 0), r"holds NaN or infinity, first at \[6, 18\]"),
            (np.ones((3, H, W)) / 4, r"shape \(3, 37, 53\) and sums in \[0.75, 0.75\].*softmax"),
            (np.dstack([DISK, ~DISK]) / 1.0, r"its last axis adds up to 1: transpose it"),
            (SOFT[None] / 255.0, r"save the foreground of a soft mask as \(H, W\), array\[0\]"),
            (COLORS, r"has shape \(37, 53, 3\) of uint8: expected \(H, W\), or \(K, H, W\)"),
            (np.zeros((0, 4)), r"has shape \(0, 4\)"),
            (
                np.arange(H * W).reshape(H, W) % 300,
                r"has 300 different values: expected at most 255 classes",
            ),
        ],
    )
    def test_what_is_no_mask(self, array, message, tmp_path):
        np.save(tmp_path / "a.npy", array)
        with pytest.raises(DataError, match=rf"^mask .*a\.npy .*{message}"):
            read_mask(tmp_path / "a.npy")

    def test_several_arrays(self, tmp_path):
        np.savez(tmp_path / "a.npz", image=COLORS, mask=LABELS)
        with pytest.raises(DataError, match=r"a\.npz holds 2 arrays \(image, mask\): expected one"):
            read_mask(tmp_path / "a.npz")

    @pytest.mark.parametrize("suffix", [".npy", ".npz"])
    def test_a_damaged_file(self, suffix, tmp_path):
        (tmp_path / f"a{suffix}").write_bytes(b"PK broken")
        with pytest.raises(DataError, match=rf"^cannot read the mask .*a\{suffix}: .*numpy.save"):
            read_mask(tmp_path / f"a{suffix}")

    def test_objects_are_not_unpickled(self, tmp_path):
        np.save(tmp_path / "a.npy", np.array([[object()]]), allow_pickle=True)
        with pytest.raises(DataError, match=r"^cannot read the mask .*a\.npy"):
            read_mask(tmp_path / "a.npy")

    @pytest.mark.parametrize(("kind", "expected"), [("labels", "integers"), ("alpha", "an image")])
    def test_a_kind_that_does_not_fit(self, kind, expected, tmp_path):
        np.save(tmp_path / "a.npy", SOFT / 255.0)
        with pytest.raises(DataError, match=f"holds float64: expected {expected} for the kind"):
            read_mask(tmp_path / "a.npy", kind=kind)


class TestErrors:
    def test_no_file(self, tmp_path):
        with pytest.raises(MissingFileError, match=r"^no mask at .*nowhere\.png"):
            read_mask(tmp_path / "nowhere.png")

    @pytest.mark.parametrize("name", ["a.png", "a.tif", "a.txt"])
    def test_not_an_image(self, name, tmp_path):
        (tmp_path / name).write_bytes(b"no image")
        message = rf"^cannot read the mask .*{name}: .*expected an image, \.npy or \.npz: replace"
        with pytest.raises(DataError, match=message):
            read_mask(tmp_path / name)

    def test_half_a_file(self, tmp_path):
        content = save(tmp_path / "a.png", SOFT).read_bytes()
        (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
        with pytest.raises(DataError, match=r"^cannot read the mask .*a\.png: "):
            read_mask(tmp_path / "a.png")

    @pytest.mark.parametrize("suffix", [".gif", ".tif", ".png", ".webp"])
    def test_animated(self, suffix, tmp_path):
        others = [Image.fromarray(LABELS), Image.fromarray(GRAY)]
        file = save(tmp_path / f"a{suffix}", GRAY, save_all=True, append_images=others)
        with pytest.raises(DataError, match="is animated or has pages, 3 images in all: expected"):
            read_mask(file)

    def test_16_bit_color(self, tmp_path):
        # Pillow writes none: two bytes a channel, unfiltered, by hand.
        import struct
        import zlib

        def chunk(name, data):
            check = zlib.crc32(name + data)
            return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)

        head = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
        pixels = zlib.compress(b"\0" + bytes(12))
        file = tmp_path / "a.png"
        file.write_bytes(
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", head)
            + chunk(b"IDAT", pixels)
            + chunk(b"IEND", b"")
        )
        with pytest.raises(DataError, match="has color channels of 16 bits: expected 8"):
            read_mask(file)

    def test_cmyk(self, tmp_path):
        file = save(tmp_path / "a.tif", Image.fromarray(COLORS).convert("CMYK"))
        with pytest.raises(DataError, match="has mode CMYK: expected RGB or RGBA"):
            read_mask(file)

    def test_negative_labels(self, tmp_path):
        file = save(tmp_path / "a.tif", LABELS.astype(np.int32) - 1)
        with pytest.raises(DataError, match=r"holds negative values \[-1\]"):
            read_mask(file)

    def test_nan(self, tmp_path):
        file = save(tmp_path / "a.tif", np.where(DISK, np.nan, 0).astype(np.float32))
        with pytest.raises(DataError, match="holds NaN or infinity"):
            read_mask(file)

    def test_too_many_labels(self, tmp_path):
        tiles = np.arange(300).reshape(15, 20).repeat(4, axis=0).repeat(4, axis=1)
        file = save(tmp_path / "a.png", tiles.astype(np.uint16))
        with pytest.raises(DataError, match="has 300 different values: expected at most 255"):
            read_mask(file)

    def test_all_ignored(self, tmp_path):
        file = save(tmp_path / "a.png", palette_image(0 * LABELS + 255, VOC.palette()))
        with pytest.raises(DataError, match="holds 255 alone, which stands for ignored pixels"):
            read_mask(file)
        void = np.full((H, W, 3), (224, 224, 192), np.uint8)
        with pytest.raises(DataError, match=r"no pixel but those of the color \(224, 224, 192\)"):
            read_mask(save(tmp_path / "b.png", void))

    @pytest.mark.parametrize(
        ("pixels", "fill"),
        [
            (0 * GRAY, "it is empty"),
            (0 * GRAY + 255, "all of it is foreground"),
            (0 * GRAY + 7, "one class fills it"),
            (0 * COLORS, "it is empty"),
            (COLORS[:4, :4], "it is empty"),
            (0 * DISK > 0, "it is empty"),
        ],
    )
    def test_without_an_edge(self, pixels, fill, tmp_path):
        file = save(tmp_path / "a.png", pixels)
        with pytest.warns(
            DataWarning, match=rf"^mask .*a\.png has no edge to refine: {fill}; it st"
        ):
            mask = read_mask(file)
        write_mask(mask, mask.array, tmp_path / "b.png")
        np.testing.assert_array_equal(np.array(reread(tmp_path / "b.png")), np.array(reread(file)))


class TestWrite:
    def test_an_array_of_another_kind(self, tmp_path):
        mask = read_mask(save(tmp_path / "a.png", GRAY))
        for array in (SOFT, DISK[1:], np.stack([DISK, DISK])):
            with pytest.raises(
                PnaError, match=r"was read as \(37, 53\) of bool: expected the same"
            ):
                write_mask(mask, array, tmp_path / "b.png")
        assert not (tmp_path / "b.png").exists()

    def test_a_file_of_another_kind(self, tmp_path):
        mask = read_mask(save(tmp_path / "a.jpg", GRAY))
        with pytest.raises(PnaError, match=r"b\.jpg: expected a file that ends in \.png"):
            write_mask(mask, mask.array, tmp_path / "b.jpg")

    def test_a_gif_becomes_a_png_of_its_palette(self, tmp_path):
        mask = read_mask(save(tmp_path / "a.gif", palette_image()))
        assert mask.form.suffix == ".png"
        write_mask(mask, mask.array, tmp_path / "b.png")
        before, after = reread(tmp_path / "a.gif"), reread(tmp_path / "b.png")
        np.testing.assert_array_equal(after.convert("RGB"), before.convert("RGB"))

    def test_a_jpeg_named_png(self, tmp_path):
        save(tmp_path / "a.jpg", GRAY).rename(tmp_path / "a.png")
        assert "compression blurs" in read_mask(tmp_path / "a.png").guess

    def test_a_mask_is_turned_upright(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera was turned: rotate a quarter to the right
        mask = read_mask(save(tmp_path / "a.png", palette_image(), exif=exif))
        np.testing.assert_array_equal(mask.array, np.rot90(LABELS, -1))
        write_mask(mask, mask.array, tmp_path / "b.png")
        assert reread(tmp_path / "b.png").getexif().get(0x0112) is None

    def test_a_map_keeps_its_place_on_earth(self, tmp_path):
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[33550], tags[33922] = (0.5, 0.5, 0.0), (0.0, 0.0, 0.0, 600000.0, 5900000.0, 0.0)
        tags[34735] = (1, 1, 0, 1, 3072, 0, 1, 25833)
        tags.tagtype.update({33550: 12, 33922: 12, 34735: 3})
        mask = read_mask(save(tmp_path / "a.tif", GRAY, tiffinfo=tags))
        write_mask(mask, mask.array, tmp_path / "b.tif")
        written = reread(tmp_path / "b.tif").tag_v2
        for number in (33550, 33922, 34735):
            assert written[number] == tags[number]
        assert mask.form.resized((5, 6)).geo_tags == {}
