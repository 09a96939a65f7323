"""`read_image`: whatever a file, an image or an array holds becomes upright 8-bit RGB."""

import numpy as np
import pytest
from PIL import Image

from pna.data.images import read_image
from pna.errors import MissingFileError, PnaError


def half_bright(height=12, width=16):
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, width // 2 :] = 255
    return image


def test_exif_rotation(tmp_path):
    image = np.zeros((4, 6, 3), dtype=np.uint8)
    image[0, :] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png")
    assert upright.shape == (6, 4, 3)
    assert np.array_equal(upright, np.rot90(image, -1))


def test_rgb_array_is_copied():
    image = half_bright()
    read = read_image(image)
    read[:] = 7
    assert np.array_equal(image, half_bright())


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGBA", "LA"])
def test_modes(mode):
    image = Image.fromarray(half_bright()).convert(mode)
    read = read_image(image)
    assert read.shape == (12, 16, 3)
    assert read.dtype == np.uint8
    assert np.abs(read.astype(int) - half_bright()).max() <= 2


def test_transparency_is_laid_over_white():
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    rgba[0, 1] = (0, 0, 0, 128)
    read = read_image(rgba)
    assert read[0, 0].tolist() == [10, 20, 30]
    assert read[0, 1].tolist() == [127, 127, 127]
    assert read[1, 1].tolist() == [255, 255, 255]


def test_transparent_palette(tmp_path):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=0)
    assert read_image(tmp_path / "a.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]


def test_16_bit_gray(tmp_path):
    values = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", values):
        assert read_image(image)[0, :, 0].tolist() == [0, 0, 1, 255]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((2, 2, 3)),
            "can't read the array given as an image: expected uint8 values .* got float64",
        ),
        (np.zeros((2, 2, 5), np.uint8), r"can't read the array .* got shape \(2, 2, 5\)"),
        (np.zeros((0, 2, 3), np.uint8), r"can't read the array .* got shape \(0, 2, 3\)"),
        (
            Image.fromarray(np.zeros((2, 2), np.float32)),
            "can't read the image given as an image: it holds floating-point values",
        ),
        (
            Image.fromarray(np.full((2, 2), 70000, np.int32)),
            r"can't read the image given as an image: its values lie in \[70000, 70000\]",
        ),
    ],
)
def test_errors(image, message):
    with pytest.raises(PnaError, match=rf"^{message}"):
        read_image(image)


def test_missing_file(tmp_path):
    with pytest.raises(MissingFileError, match=r"^no image at .*nowhere\.png"):
        read_image(tmp_path / "nowhere.png")


def test_broken_files_are_named(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no image")
    cut = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:500])
    for path in (text, cut, tmp_path):
        with pytest.raises(PnaError, match=rf"^can't read .*{path.name} as an image"):
            read_image(path)
