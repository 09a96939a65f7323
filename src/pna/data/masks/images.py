"""Masks in image files: from Pillow's modes to the arrays that refinement takes."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pna.data import images
from pna.data.errors import DataError
from pna.data.masks.arrays import MaskArray, check_floats, check_labels
from pna.data.masks.colors import ColorMask, read_color_mask
from pna.data.masks.forms import ImageForm, MaskFile, create_form
from pna.data.masks.kinds import Kind, ReadAs, count_values, read_gray
from pna.data.reading import checked_labels
from pna.labels import IGNORE_COLOR, IGNORE_INDEX, LabelSpace

_LOSSY = ("JPEG", "MPO")


@dataclass(frozen=True)
class _Request:
    """What is known of a mask before its pixels are read."""

    path: Path
    kind: ReadAs | None
    colors: LabelSpace | None
    is_lossy: bool

    def refuse(self, message: str) -> DataError:
        return DataError(f"mask {self.path} {message}")


def read_image_mask(path: Path, kind: ReadAs | None, colors: LabelSpace | None) -> MaskFile:
    """Read a mask from an image file; arguments and errors as in `read_mask`."""
    try:
        with images.open_image(path) as opened:
            request = _Request(path, kind, colors, opened.format in _LOSSY)
            _check_file(opened, request)
            form = create_form(opened, path)
            decoded = images.turn_upright(opened)
    except DataError:
        raise
    except images.UNREADABLE as error:
        raise DataError(
            f"cannot read the mask {path}: {error}; expected an image, .npy or .npz: replace the "
            "file"
        ) from error
    if kind == "alpha":
        return _read_alpha(decoded, form, request)
    if kind == "colors" or len(decoded.getbands()) > 1:
        return _read_channels(decoded, form, request)
    if form.mode == "P":
        form = replace(form, palette=decoded.getpalette())
        return _read_palette(np.array(decoded), form, request)
    return _read_single(np.array(decoded), form, request)


def _check_file(opened: Image.Image, request: _Request) -> None:
    num_frames = getattr(opened, "n_frames", 1)
    if num_frames > 1:
        raise request.refuse(
            f"is animated or has pages, {num_frames} images in all: expected one; save the mask as "
            "a file of its own"
        )
    # Pillow decodes color of 16 bits to its upper 8, and cannot write 16.
    if ";16" in str(getattr(opened, "tile", "")) and not opened.mode.startswith("I"):
        raise request.refuse("has color channels of 16 bits: expected 8; save it with 8 bits")


def _read_alpha(decoded: Image.Image, form: ImageForm, request: _Request) -> MaskFile:
    if form.mode not in ("RGBA", "LA"):
        raise request.refuse(
            f"has mode {form.mode}: expected an alpha channel for the kind alpha (RGBA, or gray "
            "with alpha); leave the kind out, or save the cut-out with its transparency"
        )
    cutout = np.array(decoded)  # (H, W, C)
    alpha = cutout[..., -1]
    # Opacities are shares by nature, so there is nothing to guess.
    kind: Kind = "soft" if ((alpha > 0) & (alpha < 255)).any() else "binary"
    mask = read_gray(alpha, 255, kind=kind, source=f"mask {request.path}")
    return MaskFile(
        request.path, mask.array, kind, replace(form, levels=mask.levels, cutout=cutout)
    )


def _read_channels(decoded: Image.Image, form: ImageForm, request: _Request) -> MaskFile:
    """Read a mask of several channels: colors, or gray levels stored as colors."""
    known = ("RGB", "RGBA") if request.kind == "colors" else ("RGB", "RGBA", "LA")
    if form.mode not in known:
        raise request.refuse(
            f"has mode {form.mode}: expected RGB or RGBA for colors, a gray or palette image for "
            "any other kind; leave the kind out, or save the mask as PNG"
        )
    channels = np.array(decoded)  # (H, W, C)
    alpha = channels[..., -1] if form.mode in ("RGBA", "LA") else None
    colors = channels if alpha is None else channels[..., :-1]
    # Gray stays gray after compression, but for rounding.
    first = colors[..., 0].astype(np.int16)
    spread = max(int(abs(first - band).max()) for band in np.moveaxis(colors, 2, 0))
    is_gray = spread <= (2 if request.is_lossy else 0)
    has_table = request.kind is None and request.colors is not None
    if form.mode == "LA" or (is_gray and request.kind != "colors" and not has_table):
        mask_file = _read_single(np.ascontiguousarray(colors[..., 0]), form, request)
    elif request.kind in (None, "colors"):
        mask = _read_colors(colors, alpha, request)
        form = replace(form, colors=mask.labels)
        mask_file = MaskFile(request.path, mask.array, "colors", form, mask.labels, mask.guess)
    else:
        raise request.refuse(
            f"is in color: expected gray levels for the kind {request.kind}; leave the kind out to "
            "take each color for a class"
        )
    if alpha is None:
        return mask_file
    opacity = _opacity(alpha, mask_file.array, request)
    assert isinstance(mask_file.form, ImageForm)
    return replace(mask_file, form=replace(mask_file.form, alpha=opacity))


def _read_colors(
    colors: images.UInt8Array, alpha: images.UInt8Array | None, request: _Request
) -> ColorMask:
    """Read colors (H, W, 3); of a cut-out, which has those of a photo, the error names the kind."""
    try:
        return read_color_mask(colors, request.colors, path=request.path, is_lossy=request.is_lossy)
    except DataError as error:
        if alpha is None or alpha.min() == alpha.max():
            raise
        raise DataError(
            f"{error}. It has transparent parts: if it is a cut-out, whose alpha channel is the "
            "mask, give the kind alpha"
        ) from None


def _opacity(
    alpha: images.UInt8Array, array: MaskArray, request: _Request
) -> images.UInt8Array | int:
    """Return the one opacity of all pixels, or the opacity of each class (256,)."""
    if alpha.min() == alpha.max():
        return int(alpha[0, 0])
    if not np.issubdtype(array.dtype, np.floating):
        table = np.full(256, 255, np.uint8)
        classes = array.astype(np.uint8)
        table[classes] = alpha  # of each class the last of its pixels
        if (table[classes] == alpha).all():
            return table
    raise request.refuse(
        "has transparency that does not follow its classes: if it is a cut-out, whose alpha "
        "channel is the mask, give the kind alpha; else save it without transparency"
    )


def _read_palette(indices: images.UInt8Array, form: ImageForm, request: _Request) -> MaskFile:
    """Read palette indices: labels, or two of them as a binary mask."""
    assert form.palette is not None
    kind = request.kind
    counted = count_values(indices)
    found = counted.values.tolist()
    if kind is None and counted.is_blurred:
        raise request.refuse(
            f"has a palette of {len(found)} colors, most of them along edges alone: expected one "
            "for each class, and it was scaled or compressed; if its indices are label numbers all "
            "the same, give the kind labels"
        )
    if kind == "soft" or (kind == "binary" and len(found) > 2):
        raise request.refuse(
            f"has a palette and {len(found)} indices: expected "
            f"{'gray levels' if kind == 'soft' else 'two of them'} for the kind {kind}; leave the "
            "kind out to take indices for label numbers"
        )
    # Only in Pascal VOC's palette does 255 stand for ignored pixels beside background alone.
    is_void = tuple(form.palette[3 * IGNORE_INDEX :]) == IGNORE_COLOR
    if kind == "binary" or (kind is None and set(found) == {0, IGNORE_INDEX} and not is_void):
        mask = read_gray(indices, 255, kind="binary", source=f"mask {request.path}")
        return MaskFile(request.path, mask.array, "binary", replace(form, levels=mask.levels))
    if request.colors is not None:
        indices = checked_labels(indices, request.path, request.colors)
    return MaskFile(request.path, indices, "labels", form, request.colors)


def _read_single(values: npt.NDArray[Any], form: ImageForm, request: _Request) -> MaskFile:
    """Read a mask of one channel that is no palette: 1 bit, gray levels, or floats."""
    kind, source = request.kind, f"mask {request.path}"
    assert kind not in ("alpha", "colors")
    if form.mode == "F":
        if kind not in (None, "soft"):
            raise request.refuse(
                f"holds floating-point numbers: expected integers for the kind {kind}; leave the "
                "kind out, or save label numbers as integers"
            )
        check_floats(values, source)
        return MaskFile(request.path, values, "soft", form)
    if form.mode == "1":
        if kind == "soft":
            raise request.refuse("has 1 bit: expected gray levels for the kind soft")
        return MaskFile(request.path, values.astype(np.bool_), "binary", form)
    top = 255
    if form.mode.startswith("I"):
        top = 65535
        check_labels(values, source)
        # Older releases of Pillow read 16 bits of PNG into 32.
        is_short = form.mode.startswith("I;16") or form.format == "PNG"
        form = replace(form, mode="I;16" if is_short else "I")
        values = values.astype(np.uint16 if is_short else np.int64)
    if kind is None and request.colors is not None and not {*np.unique(values)} <= {0, 255}:
        kind = "labels"  # the table names their classes
    mask = read_gray(values, top, kind=kind, source=source, is_lossy=request.is_lossy)
    form = replace(form, levels=mask.levels, top=top)
    if mask.kind == "labels" and request.colors is not None:
        checked_labels(values, request.path, request.colors)
        return MaskFile(request.path, mask.array, "labels", form, request.colors, mask.guess)
    return MaskFile(request.path, mask.array, mask.kind, form, guess=mask.guess)
