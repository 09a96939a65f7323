"""Masks with the form of their files: what a file needs beside the mask to be written again."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from pna.data.images import UInt8Array
from pna.data.masks.arrays import MaskArray
from pna.data.masks.kinds import Kind
from pna.labels import IGNORE_INDEX, LabelSpace

# Formats without loss, with the endings of their files; masks of all others are written as PNG.
IMAGE_SUFFIXES = {"PNG": (".png",), "TIFF": (".tif", ".tiff"), "BMP": (".bmp",), "WEBP": (".webp",)}

# Model, projection and missing values of a GeoTIFF: without them a map has no place on Earth.
_GEO_TAGS = (33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113)
_LOSSLESS_TIFF = ("tiff_lzw", "tiff_adobe_deflate", "packbits", "group3", "group4")


class MaskForm(Protocol):
    """How a mask array becomes a file of the kind that was read."""

    @property
    def suffix(self) -> str:
        """Ending of the file's name."""

    @property
    def levels(self) -> npt.NDArray[np.int64] | None:
        """The value in the file of each label; None if they are the labels."""

    def write(self, array: MaskArray, path: Path, image: UInt8Array | None = None) -> None:
        """Write a mask.

        Args:
            array: Of the kind, type and size that was read.
            path: The file.
            image: (H, W, 3); gives the colors of pixels of a cut-out that were transparent.
        """

    def resized(self, size: tuple[int, int]) -> "MaskForm":
        """Return the form of the mask at another size (height, width)."""


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class MaskFile:
    """A mask that was read from a file.

    Attributes:
        path: The file.
        array: The mask: (H, W) bool, (H, W) uint8 labels, (H, W) floats in [0, 1], or (K, H, W)
            probabilities. Labels are the numbers in the file, or, where these are larger than 255
            or are gray steps up to white, count them.
        kind: "binary", "labels", "colors" (labels of colors) or "soft".
        form: Everything needed to write the same kind of file again.
        labels: Names and colors of the classes, where the file or a table has them.
        guess: A sentence on what was taken for what, where the file does not state it, else None.
    """

    path: Path
    array: MaskArray
    kind: Kind
    form: MaskForm
    labels: LabelSpace | None = None
    guess: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = self.array.shape[-2:]
        return height, width

    @property
    def has_edges(self) -> bool:
        """Whether there is something to refine: two pixels differ, ignored ones aside."""
        array = self.array
        if np.issubdtype(array.dtype, np.integer):
            labels = array[array != IGNORE_INDEX]
            return labels.size > 0 and bool(labels.min() != labels.max())
        return bool((array != array[..., :1, :1]).any())


@dataclass(frozen=True, eq=False)
class ImageForm:
    """The form of an image file.

    Attributes:
        format: Pillow's name of the file format.
        suffix: Ending of the file's name.
        mode: Pillow's mode of the file that was read.
        levels: The gray level of each class, or of background and foreground; None if the labels
            themselves are stored.
        top: The gray level of full foreground in a soft mask.
        colors: The color table of a color-coded mask.
        palette: Of a palette image, RGB after RGB.
        alpha: (256,) the opacity of each class, or one for all pixels; None without alpha.
        cutout: (H, W, C) the channels of an image whose alpha is the mask.
        options: Arguments of Pillow's `save`.
        geo_tags: TIFF tags by number: type and value.
    """

    format: str
    suffix: str
    mode: str
    levels: npt.NDArray[np.int64] | None = None
    top: int = 255
    colors: LabelSpace | None = None
    palette: list[int] | None = None
    alpha: UInt8Array | int | None = None
    cutout: UInt8Array | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    geo_tags: Mapping[int, tuple[int, Any]] = field(default_factory=dict)

    def write(self, array: MaskArray, path: Path, image: UInt8Array | None = None) -> None:
        """Write a mask; arguments as in `MaskForm.write`."""
        encoded = Image.fromarray(self._encode(array, image))
        if self.palette is not None:
            encoded.putpalette(self.palette)
        options = dict(self.options)
        if self.geo_tags:
            tags = TiffImagePlugin.ImageFileDirectory_v2()
            for number, (kind, value) in self.geo_tags.items():
                tags.tagtype[number] = kind
                tags[number] = value
            options["tiffinfo"] = tags
        encoded.save(path, format=self.format, **options)

    def resized(self, size: tuple[int, int]) -> "ImageForm":
        """Return the form of the mask at another size (height, width)."""
        cutout = self.cutout
        if cutout is not None:
            # The nearest: a mean with the black of transparent pixels would darken the outline.
            bands = [
                Image.fromarray(band).resize(size[::-1], Image.Resampling.NEAREST)
                for band in np.moveaxis(cutout, 2, 0)
            ]
            cutout = np.stack([np.asarray(band) for band in bands], axis=2)
        # A place on Earth is given for pixels of one size.
        return replace(self, cutout=cutout, geo_tags={})

    def _encode(self, array: MaskArray, image: UInt8Array | None) -> npt.NDArray[Any]:
        """Return the pixels of the file: (H, W) or (H, W, C)."""
        if self.colors is not None:
            pixels: npt.NDArray[Any] = self.colors.decode(array)
        else:
            pixels = self._gray_levels(array)
        if self.cutout is not None:
            return self._cut_out(pixels, image)
        if self.mode in ("RGB", "RGBA") and pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        if self.alpha is None:
            return pixels
        alpha = self.alpha if isinstance(self.alpha, int) else self.alpha[array.astype(np.uint8)]
        alphas = np.broadcast_to(np.uint8(alpha) if isinstance(alpha, int) else alpha, array.shape)
        return np.dstack([pixels, alphas])

    def _gray_levels(self, array: MaskArray) -> npt.NDArray[Any]:
        """Return the values (H, W) that a gray or palette file stores."""
        if self.mode == "F":
            return array.astype(np.float32)
        if self.mode == "1":
            return array.astype(np.bool_)
        if np.issubdtype(array.dtype, np.floating):
            # In float64: a level of 16 bits would lose its last bit in a smaller type.
            values = np.rint(array.astype(np.float64) * self.top)
        else:
            values = array if self.levels is None else self.levels[array.astype(np.uint8)]
        types = {"I;16": np.uint16, "I": np.int32}
        return values.astype(types.get(self.mode, np.uint8))

    def _cut_out(self, alpha: npt.NDArray[Any], image: UInt8Array | None) -> npt.NDArray[Any]:
        """Return the cut-out with a new alpha channel."""
        assert self.cutout is not None
        colors, before = self.cutout[..., :-1], self.cutout[..., -1]
        if image is not None:
            gray = np.asarray(Image.fromarray(image).convert("L"))[..., None]
            shown = image if colors.shape[2] == 3 else gray
            # Editors blacken what is transparent: the file lacks the color of a pixel that appears.
            colors = np.where((before == 0)[..., None], shown, colors)
        return np.dstack([colors, alpha.astype(np.uint8)])


def create_form(opened: Image.Image, path: Path) -> ImageForm:
    """Describe the file of an image that was opened; its mask is added by `dataclasses.replace`.

    Args:
        opened: As `pna.data.images.open_image` returns it: of the file, not converted.
        path: The file.
    """
    kind = opened.format if opened.format in IMAGE_SUFFIXES else "PNG"
    suffix = path.suffix if path.suffix.lower() in IMAGE_SUFFIXES[kind] else IMAGE_SUFFIXES[kind][0]
    options: dict[str, Any] = {}
    if kind == "PNG" and "transparency" in opened.info:
        options["transparency"] = opened.info["transparency"]
    if kind == "WEBP":
        options = {"lossless": True, "exact": True}  # exact: colors under transparency, too
    geo_tags = {}
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        compression = opened.info.get("compression", "raw")
        if compression != "raw":
            is_kept = compression in _LOSSLESS_TIFF
            options["compression"] = compression if is_kept else "tiff_adobe_deflate"
        tags = opened.tag_v2
        geo_tags = {n: (tags.tagtype[n], tags[n]) for n in _GEO_TAGS if n in tags}
    return ImageForm(kind, suffix, opened.mode, options=options, geo_tags=geo_tags)
