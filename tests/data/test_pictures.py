import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from pna.data.pictures import apply_limit, read_picture

GRADIENT = np.arange(6 * 8 * 3, dtype=np.uint8).reshape(6, 8, 3)


@pytest.fixture
def limit(monkeypatch):
    """Sets Pillow's limit for one test."""

    def set_limit(num_pixels):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", num_pixels)

    return set_limit


@pytest.mark.parametrize("size", [(13, 8), (20, 11)])  # Pillow warns of one, refuses the other
def test_a_picture_beyond_the_limit_says_how_to_allow_it(tmp_path, limit, size):
    Image.new("1", size).save(tmp_path / "large.png")
    limit(100)
    with pytest.raises(
        ValueError, match=r"large\.png as a picture: .*limit of [12]00 .*PNA_MAX_PIXELS"
    ):
        read_picture(tmp_path / "large.png")


@pytest.mark.filterwarnings("default::PIL.Image.DecompressionBombWarning")  # as outside of tests
def test_the_limit_holds_where_pillow_only_warns(tmp_path, limit):
    Image.new("1", (13, 8)).save(tmp_path / "large.png")
    limit(100)
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(ValueError, match=r"it has 104 pixels, the limit is 100\. A small file"),
    ):
        read_picture(tmp_path / "large.png")


def test_without_a_limit_any_size_is_read(tmp_path, limit):
    Image.new("1", (13, 8)).save(tmp_path / "large.png")
    limit(None)
    assert read_picture(tmp_path / "large.png").shape == (8, 13, 3)


def test_the_variable_sets_the_limit(tmp_path):
    Image.new("L", (13, 8)).save(tmp_path / "a.png")
    code = f"from pna.data.pictures import *; read_picture({str(tmp_path / 'a.png')!r})"
    outcomes = {}
    for value in ("103", "104", "many"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={"PNA_MAX_PIXELS": value, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        outcomes[value] = (done.returncode, done.stderr)
    assert outcomes["104"] == (0, "")
    assert "it has 104 pixels, the limit is 103" in outcomes["103"][1]
    assert "PNA_MAX_PIXELS: expected a whole number of pixels, got 'many'" in outcomes["many"][1]


@pytest.mark.parametrize("value", ["", "0", "-5", "1e6"])
def test_a_limit_that_makes_no_sense(value):
    with pytest.raises(ValueError, match=f"whole number of pixels, got {value!r}"):
        apply_limit(value)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_data_that_is_broken_is_left_aside(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    Image.fromarray(GRADIENT).save(file, exif=b"Exif\0\0nothing of the kind")
    assert read_picture(file).shape == GRADIENT.shape


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB"])
def test_any_mode_is_turned_upright(tmp_path, mode):
    exif = Image.Exif()
    exif[0x0112] = 8
    image = Image.fromarray(np.full((6, 8), 60000, np.uint16)) if mode == "I;16" else None
    image = image or Image.new(mode, (8, 6), "white")
    image.putpixel((0, 0), 0)  # the top left corner is the bottom left one when upright
    image.save(tmp_path / "a.png", exif=exif)
    picture = read_picture(tmp_path / "a.png")
    assert picture.shape == (8, 6, 3)
    assert not picture[-1, 0].any()
    assert picture[0, 0].min() > 200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_one_pixel_of_any_mode(tmp_path, mode):
    Image.new(mode, (1, 1)).save(tmp_path / "a.tif")
    assert read_picture(tmp_path / "a.tif").shape == (1, 1, 3)


def test_a_cmyk_jpeg_keeps_its_colors(tmp_path):
    red = Image.new("RGB", (8, 8), (220, 30, 40)).convert("CMYK")
    red.save(tmp_path / "print.jpg", quality=95)
    assert np.abs(read_picture(tmp_path / "print.jpg").astype(int) - (220, 30, 40)).max() < 8


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_picture_is_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"can't read .*a\.png as a picture"):
        read_picture(tmp_path / "a.png")


def test_a_link_to_nowhere_is_no_picture(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(FileNotFoundError, match=r"no picture at .*a\.png"):
        read_picture(tmp_path / "a.png")
