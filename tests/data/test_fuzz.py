"""Files corrupted at random: each is read, or a `DataError` names it. Nothing else comes out."""

import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from pna.data import DataError
from pna.data.reading import read_color_mask, read_image, read_index_mask
from pna.labels import DAMAGE

FORMATS = {
    "jpg": {"quality": 60},
    "progressive.jpg": {"progressive": True},
    "png": {},
    "palette.png": {},
    "webp": {},
    "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "bmp": {},
    "gif": {},
    "jp2": {},
}


def write_sound(file, name):
    """An image with an EXIF block, where the format has one."""
    image = np.random.default_rng(0).integers(0, 256, (24, 33, 3), dtype=np.uint8)
    image[4:20, 4:28] = (255, 0, 0)
    image = Image.fromarray(image)
    if name in ("palette.png", "gif"):
        image = image.convert("P")
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {} if name.endswith(("bmp", "gif", "jp2")) else {"exif": exif}
    image.save(file, **FORMATS[name], **options)


def corrupt(content, random):
    """Some bytes changed, a stretch cut out, doubled, zeroed or filled with noise, or all of it."""
    content = bytearray(content)
    for _ in range(random.integers(1, 5)):
        # Half of the places lie in the header, where formats keep lengths and types.
        end = len(content) if random.random() < 0.5 else min(len(content), 200)
        start = int(random.integers(0, max(1, end)))
        length = int(random.integers(1, 30))
        noise = random.integers(0, 256, length, dtype=np.uint8).tobytes()
        stretch = bytes(content[start : start + length])
        kind = random.integers(0, 6)
        if kind == 0:
            content[start : start + 1] = noise[:1]
        elif kind == 1:
            content[start : start + length] = noise
        elif kind == 2:
            content[start : start + length] = b""
        elif kind == 3:
            content[start:start] = stretch
        elif kind == 4:
            content[start : start + length] = random.choice([b"\x00", b"\xff"]) * len(stretch)
        else:
            del content[start + length :]
    return bytes(content)


def with_right_checksums(png):
    """A PNG whose chunks' checksums fit again: or else Pillow looks no further."""
    parts, at = [png[:8]], 8
    while at + 8 <= len(png):
        length = int.from_bytes(png[at : at + 4])
        body = png[at + 4 : at + 8 + length]
        parts += [png[at : at + 4], body, zlib.crc32(body).to_bytes(4)]
        at += 12 + length
    return b"".join(parts)


def read_or_name(read, file):
    """Whether a file could be read; it may fail in one way only."""
    with warnings.catch_warnings():
        # Pillow's remarks on odd metadata; outside of tests they are no errors either.
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            read(file)
        except DataError as error:
            message = str(error)
        else:
            return True
    assert file.name in message
    return False


READERS = (read_image, read_index_mask, lambda file: read_color_mask(file, DAMAGE))


def fuzz(folder, name, numbers):
    """Corrupts by number, so that a failure can be repeated; returns how many could be read."""
    sound = folder / f"sound.{name}"
    write_sound(sound, name)
    content, num_read = sound.read_bytes(), 0
    for number in numbers:
        file = folder / f"corrupt-{number}.{name}"
        corrupted = corrupt(content, np.random.default_rng(number))
        file.write_bytes(with_right_checksums(corrupted) if name.endswith("png") else corrupted)
        num_read += sum([read_or_name(read, file) for read in READERS])
        file.unlink()
    return num_read


@pytest.mark.parametrize("name", FORMATS)
def test_corrupted_files_are_read_or_named(tmp_path, name):
    num_read = fuzz(tmp_path, name, range(20))
    assert num_read < 20 * len(READERS)  # the corruption is one


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_many_corrupted_files_are_read_or_named(tmp_path, name):
    """3,000 files in all, each read as image, index mask and color mask."""
    assert 0 < fuzz(tmp_path, name, range(1000, 1300)) < 300 * len(READERS)


def test_metadata_that_pillow_remarks_on_is_no_error(tmp_path):
    file = tmp_path / "a.tif"
    image = Image.new("RGB", (5, 4), "red")
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[0x0112] = 77  # no such orientation
    image.save(file, tiffinfo=info)
    assert read_image(file).shape == (4, 5, 3)
