"""Text in pictures: one font, one way to measure it, one way to fit it."""

from functools import cache

from PIL import Image, ImageDraw, ImageFont

INK = (32, 36, 42)
PAPER = (255, 255, 255)


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font, which looks alike on every machine, at a size in pixels."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """Return the width of a line of text in pixels."""
    return round(font(size).getlength(text))


def fit_text(text: str, width: int, size: int) -> str:
    """Shorten a line until it is at most `width` pixels wide, marking the cut with dots."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..."


def write_centred(image: Image.Image, text: str, centre: tuple[int, int], size: int) -> None:
    """Write a line with the middle of its letters at `centre` (x, y)."""
    ImageDraw.Draw(image).text(centre, text, fill=INK, font=font(size), anchor="mm")
