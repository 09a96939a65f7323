import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from pna.data import DataWarning
from pna.data.images import apply_limit, read_image

GRADIENT = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


@pytest.fixture
def limit(monkeypatch):
    """Sets Pillow's limit for one test."""

    def set_limit(num_pixels):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", num_pixels)

    return set_limit


@pytest.mark.parametrize("size", [(13, 8), (20, 11)])  # Pillow warns of one, refuses the other
def test_a_image_beyond_the_limit_says_how_to_allow_it(tmp_path, limit, size):
    Image.new("1", size).save(tmp_path / "large.png")
    limit(100)
    with pytest.raises(
        ValueError, match=r"large\.png as an image: .*limit (of|is) [12]00.*PNA_MAX_PIXELS"
    ):
        read_image(tmp_path / "large.png")


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")  # as outside of tests
def test_the_limit_holds_where_pillow_only_warns(tmp_path, limit):
    Image.new("1", (13, 8)).save(tmp_path / "large.png")
    limit(100)
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(ValueError, match=r"it has 104 pixels, the limit is 100\. A small file"),
    ):
        read_image(tmp_path / "large.png")


def test_without_a_limit_any_size_is_read(tmp_path, limit):
    Image.new("1", (13, 8)).save(tmp_path / "large.png")
    limit(None)
    assert read_image(tmp_path / "large.png").shape == (8, 13, 3)


def test_the_variable_sets_the_limit(tmp_path):
    Image.new("L", (13, 8)).save(tmp_path / "a.png")
    code = f"from pna.data.images import *; read_image({str(tmp_path / 'a.png')!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PNA_MAX_PIXELS": "103", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "it has 104 pixels, the limit is 103" in done.stderr


@pytest.mark.parametrize("value", ["", "0", "-5", "1e6"])
def test_a_limit_that_makes_no_sense(value):
    with pytest.raises(ValueError, match=f"whole number of pixels, got {value!r}"):
        apply_limit(value)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_data_that_is_broken_is_left_aside(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    Image.fromarray(GRADIENT).save(file, exif=b"Exif\0\0nothing of the kind")
    assert read_image(file).shape == GRADIENT.shape


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB"])
def test_any_mode_is_turned_upright(tmp_path, mode):
    exif = Image.Exif()
    exif[0x0112] = 8
    image = Image.fromarray(np.full((6, 8), 60000, np.uint16)) if mode == "I;16" else None
    image = image or Image.new(mode, (8, 6), "white")
    image.putpixel((0, 0), 0)  # the top left corner is the bottom left one when upright
    image.save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")
    assert image.shape == (8, 6, 3)
    assert not image[-1, 0].any()
    assert image[0, 0].min() > 200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_one_pixel_of_any_mode(tmp_path, mode):
    Image.new(mode, (1, 1)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif").shape == (1, 1, 3)


def test_a_cmyk_jpeg_keeps_its_colors(tmp_path):
    red = Image.new("RGB", (8, 8), (220, 30, 40)).convert("CMYK")
    red.save(tmp_path / "print.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "print.jpg").astype(int) - (220, 30, 40)).max() < 8


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"can't read .*a\.png as an image"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("form", ["file", "array"])
def test_twelve_bits_in_sixteen_are_warned_of(tmp_path, form):
    """Only the owner knows whether a camera of 12 bits or a dark scene is in the file."""
    values = np.array([[0, 4095], [16, 300]], dtype=np.uint16)
    image = values
    if form == "file":
        image = tmp_path / "a.png"
        Image.fromarray(values).save(image)
    with pytest.warns(DataWarning, match="^a 16-bit image holds no value above 4095.* by 16 first"):
        assert read_image(image)[..., 0].tolist() == [[0, 15], [0, 1]]


def write_16_bit_color(file, value):
    """A PNG of 16 bits a channel, which Pillow reads and cannot write."""

    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)

    header = (2).to_bytes(4) * 2 + bytes([16, 2, 0, 0, 0])  # 2 x 2, 16 bits, color
    rows = (b"\0" + value.to_bytes(2) * 6) * 2
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("value", [300, 4095])
def test_twelve_bits_in_color_are_warned_of(tmp_path, value):
    write_16_bit_color(tmp_path / "a.png", value)
    with pytest.warns(DataWarning, match="^a 16-bit image holds no value above 4095"):
        assert (read_image(tmp_path / "a.png") == value >> 8).all()


@pytest.mark.parametrize("value", [0, 4096, 65535])
def test_other_color_of_sixteen_bits_is_read_without_a_word(tmp_path, value):
    write_16_bit_color(tmp_path / "a.png", value)
    assert (read_image(tmp_path / "a.png") == value >> 8).all()


def test_a_dark_image_of_eight_bits_is_read_without_a_word(tmp_path):
    Image.new("RGB", (4, 4), (3, 3, 3)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 3).all()


@pytest.mark.parametrize("brightest", [0, 4096, 65535])
def test_other_images_of_sixteen_bits_are_read_without_a_word(brightest):
    image = np.array([[0, brightest]], dtype=np.uint16)
    assert read_image(image)[0, 1, 0] == brightest >> 8


def test_a_link_to_nowhere_is_no_image(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match=r"no image at .*a\.png"):
        read_image(tmp_path / "a.png")
