"""A mask of another size than its image: what went wrong, and resizing it."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from pna.data.errors import DataError, DataWarning
from pna.data.masks.arrays import MaskArray
from pna.data.masks.files import MaskFile

_SAME_ASPECT = 0.01


def fit_to_image(
    mask_file: MaskFile, size: tuple[int, int], image: str | Path, *, resize: bool = False
) -> MaskFile:
    """Return a mask of the size of its image.

    Args:
        mask_file: The mask.
        size: Height and width of the image.
        image: Name of the image in messages.
        resize: Resize a mask of another size: classes by the nearest pixel, shares smoothly.

    Raises:
        DataError: If the sizes differ and the mask is not to be resized, or if width and height
            are swapped.

    Warns:
        DataWarning: If resizing changes the aspect.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data.masks.files import read_mask
        >>> file = Path(mkdtemp()) / "mask.png"
        >>> Image.fromarray(np.array([[0, 255]], np.uint8)).save(file)
        >>> mask = fit_to_image(read_mask(file), (2, 4), "photo.jpg", resize=True)
        >>> mask.array.astype(int).tolist()
        [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    if mask_file.size == size:
        return mask_file
    (height, width), (rows, columns) = size, mask_file.size
    sizes = (
        f"mask {mask_file.path} has {columns} x {rows} pixels, its image {image} {width} x {height}"
    )
    is_same = _is_near(columns * height, rows * width)
    if not is_same and _is_near(rows * height, columns * width):
        raise DataError(
            f"{sizes}: width and height are swapped. Probably the image has an EXIF orientation, "
            "which is applied when it is read, and the mask was drawn without it: turn the mask by "
            "a quarter"
        )
    if not resize and is_same:
        raise DataError(
            f"{sizes}: expected the same size. The aspect is the same, so the mask would fit after "
            "resizing: give --resize (resize=True)"
        )
    if not resize:
        raise DataError(
            f"{sizes}: expected the same size, and the aspects differ too ({columns / rows:.3f} "
            f"and {width / height:.3f}). Check that the two belong together; if the mask covers "
            "the whole image and was stretched, give --resize (resize=True)"
        )
    if not is_same:
        warnings.warn(f"{sizes}: resizing changes the aspect", DataWarning, stacklevel=2)
    return replace(
        mask_file, array=_resized(mask_file.array, size), form=mask_file.form.resized(size)
    )


def _is_near(first: int, second: int) -> bool:
    return abs(first / second - 1) <= _SAME_ASPECT


def _resized(array: MaskArray, size: tuple[int, int]) -> MaskArray:
    """Resize a mask (H, W) or (K, H, W) to a height and a width."""
    if array.ndim == 3:
        return np.stack([_resized(one, size) for one in array])
    if not np.issubdtype(array.dtype, np.floating):
        nearest = Image.fromarray(array.astype(np.uint8)).resize(
            size[::-1], Image.Resampling.NEAREST
        )
        return np.asarray(nearest).astype(array.dtype)
    smooth = Image.fromarray(array.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
    # Interpolation stays within [0, 1] but for rounding.
    return np.asarray(smooth).clip(0, 1).astype(array.dtype)
