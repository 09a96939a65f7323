"""Text in images: letters of any script that the machine has a font for, measured and fitted.

Pillow's own font is the same on every machine and has ASCII letters alone. A line with others is
drawn in the first font that has all of them: DejaVu (of the system, or the copy in matplotlib), or
one of the system's fonts for larger scripts. Letters that no font has are written out, "é" as "e"
and "中" as "\\u4e2d": an empty box for each would make two names look alike.
"""

import unicodedata
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

INK = (32, 36, 42)
PAPER = (255, 255, 255)

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Files in the system's font folders, which Pillow searches; beside each its letters.
_SYSTEM_FONTS = (
    "DejaVuSans.ttf",  # Linux: Latin, Greek, Cyrillic, Arabic, Armenian, Georgian, symbols
    "NotoSans-Regular.ttf",
    "Arial.ttf",  # macOS, Windows
    "Arial Unicode.ttf",  # macOS: nearly all
    "NotoSansCJK-Regular.ttc",  # Linux: Chinese, Japanese, Korean
    "wqy-zenhei.ttc",
    "msyh.ttc",  # Windows: Chinese
    "malgun.ttf",  # Windows: Korean
    "NotoSansDevanagari-Regular.ttf",
    "Nirmala.ttf",  # Windows: scripts of India
)


@cache
def font(size: int) -> Font:
    """Return Pillow's own font at a size in pixels."""
    return ImageFont.load_default(size)


def font_for(text: str, size: int) -> Font:
    """Return the first font that has all letters of a text; Pillow's own if there is none."""
    if text.isascii():
        return font(size)
    return next((one for one in _fonts(size) if all(_has(one, c) for c in text)), font(size))


def drawable(text: str) -> str:
    """Return a line that can be drawn: composed, without control characters and missing letters.

    Letters that no font of this machine has become their base letter ("é" "e") where that is ASCII,
    else their code ("\\u4e2d"), with a warning.

    Example:
        >>> drawable("a\\nb")
        'a\\\\nb'
    """
    # One code for "e" with an accent: the two-code form is drawn well by few fonts.
    text = unicodedata.normalize("NFC", text)
    unprintable = ("Cc", "Cs", "Zl", "Zp")  # line breaks, halves of broken file names, ...
    text = "".join(_code(c) if unicodedata.category(c) in unprintable else c for c in text)
    # One font for all: a line is drawn in a single one.
    if text.isascii() or any(all(_has(one, c) for c in text) for one in _fonts(16)):
        return text
    written = "".join(c if c.isascii() else _write_out(c) for c in text)
    warnings.warn(
        f"no font on this machine has all letters of {text!r}: drawn as {written!r}; install "
        "the DejaVu or Noto fonts",
        stacklevel=2,
    )
    return written


def text_width(text: str, size: int) -> int:
    """Return the width of a line of text in pixels."""
    return round(font_for(text, size).getlength(text))


def fit_text(text: str, width: int, size: int) -> str:
    """Make a line drawable, and shorten it with dots until it is at most `width` pixels wide."""
    text = drawable(text)
    if text_width(text, size) <= width:
        return text
    # Letter by letter: widths differ between letters, and names are short.
    while text and text_width(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def write(
    image: Image.Image, text: str, position: tuple[int, int], size: int, *, anchor: str = "mm"
) -> None:
    """Write a line that is drawable.

    Args:
        image: To write on.
        text: From `fit_text` or `drawable`.
        position: (x, y) in pixels.
        size: Height of the letters in pixels.
        anchor: Part of the text at `position`, as Pillow names them: "mm" is its middle, "lm" the
            middle of its left edge.
    """
    ImageDraw.Draw(image).text(position, text, fill=INK, font=font_for(text, size), anchor=anchor)


def _write_out(letter: str) -> str:
    base = unicodedata.normalize("NFKD", letter)[0]
    return base if base.isascii() else _code(letter)


def _code(letter: str) -> str:
    return letter.encode("unicode_escape").decode()


def _fonts(size: int) -> Iterator[Font]:
    yield font(size)
    for path in _other_fonts():
        yield _load(path, size)


@cache
def _other_fonts() -> tuple[str, ...]:
    """List the files of the fonts that this machine has, in the order of preference."""
    files = []
    for name in _SYSTEM_FONTS:
        try:
            files.append(str(ImageFont.truetype(name, 16).path))
        except OSError:
            continue
    # matplotlib (an optional dependency) carries DejaVu; its folder is known without an import.
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if bundled.is_file():
            files.append(str(bundled))
    return tuple(files)


@cache
def _load(path: str, size: int) -> Font:
    return ImageFont.truetype(path, size)


@cache
def _has(one: Font, letter: str) -> bool:
    """Return whether a font has a letter."""
    # Pillow offers no query. A letter that is missing has the shape of a code that is no letter.
    if letter.isspace():
        return True
    missing = "\uffff"
    return bytes(one.getmask(letter)) != bytes(one.getmask(missing))
