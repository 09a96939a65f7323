"""Masks in numpy's files: `.npy`, and `.npz` with one array."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from pna.data.errors import DataError
from pna.data.images import UInt8Array
from pna.data.masks.arrays import MaskArray, check_floats, check_labels
from pna.data.masks.forms import MaskFile
from pna.data.masks.kinds import ReadAs, read_gray
from pna.data.reading import checked_labels
from pna.labels import LabelSpace, voc_color

ARRAY_SUFFIXES = (".npy", ".npz")
_MOST_BYTES = 2**31
"""Of the arrays in an `.npz`: a small file may hold any number of zeros."""


@dataclass(frozen=True, eq=False)
class ArrayForm:
    """The form of a numpy file.

    Attributes:
        suffix: Ending of the file's name.
        dtype: Of the array in the file.
        levels: The value of each class, or of background and foreground; None if the array is
            stored as it is.
        top: The value of full foreground in a soft mask of integers.
        key: Name of the array in an `.npz`.
        others: Arrays of text beside it, such as the names of the classes.
    """

    suffix: str
    dtype: np.dtype[Any]
    levels: npt.NDArray[np.int64] | None = None
    top: int = 255
    key: str = ""
    others: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def write(self, array: MaskArray, path: Path, image: UInt8Array | None = None) -> None:
        """Write a mask; arguments as in `MaskForm.write`."""
        stored = array
        if self.levels is not None:
            stored = self.levels[array.astype(np.uint8)]
        elif np.issubdtype(array.dtype, np.floating) and np.issubdtype(self.dtype, np.integer):
            stored = np.rint(array.astype(np.float64) * self.top)
        stored = stored.astype(self.dtype)
        arrays: dict[str, Any] = {self.key: stored, **self.others}
        with path.open("wb") as file:  # to a path numpy would add an ending of its own
            if self.suffix == ".npy":
                np.save(file, stored)
            else:
                np.savez_compressed(file, **arrays)

    def resized(self, size: tuple[int, int]) -> "ArrayForm":
        """Return the form itself: nothing in it has the mask's size."""
        return self


def read_array_mask(path: Path, kind: ReadAs | None, colors: LabelSpace | None) -> MaskFile:
    """Read a mask from a numpy file; arguments and errors as in `read_mask`."""
    array, form = _load(path)
    source = f"mask {path}"
    is_stack = array.ndim == 3 and np.issubdtype(array.dtype, np.floating)
    if array.size == 0 or not (array.ndim == 2 or is_stack):
        raise DataError(
            f"{source} has shape {array.shape} of {array.dtype}: expected (H, W), or (K, H, W) "
            "floats, the probabilities of K classes"
        )
    is_bool, is_integer = array.dtype == np.bool_, np.issubdtype(array.dtype, np.integer)
    fitting: tuple[ReadAs | None, ...]
    if is_bool:
        fitting, expected = (None, "binary"), "numbers"
    elif is_integer:
        fitting, expected = (None, "soft", "binary", "labels"), "an image"
    else:
        fitting, expected = (None, "soft"), "integers"
    if kind not in fitting:
        if kind in ("colors", "alpha"):
            expected = "an image"
        raise DataError(
            f"{source} holds {array.dtype}: expected {expected} for the kind {kind}; leave it out"
        )
    if is_bool:
        return MaskFile(path, array, "binary", form)
    if not is_integer:
        check_floats(array, source)
        return MaskFile(path, array, "soft", form, _named(form, array))
    check_labels(array, source)
    is_byte = array.dtype == np.uint8 or (array.dtype != np.uint16 and array.max() <= 255)
    top = 255 if is_byte else 65535
    if kind is None and array.dtype != np.uint8:
        # Gray levels are bytes; integers of any other type are label numbers.
        is_binary = {*np.unique(array)} in ({0, 255}, {0, 1}, {0}, {255})
        kind = "binary" if is_binary else "labels"
    mask = read_gray(array, top, kind=kind, source=source)
    form = replace(form, levels=mask.levels, top=top)
    if mask.kind != "labels" or colors is None:
        return MaskFile(path, mask.array, mask.kind, form, guess=mask.guess)
    checked_labels(array, path, colors)
    return MaskFile(path, mask.array, "labels", form, colors, mask.guess)


def _load(path: Path) -> tuple[npt.NDArray[Any], ArrayForm]:
    try:
        loaded = np.load(path, allow_pickle=False)  # a pickle may run any code
        if isinstance(loaded, np.ndarray):
            return _native(loaded), ArrayForm(".npy", loaded.dtype)
        with loaded:
            inflated = sum(entry.file_size for entry in loaded.zip.infolist())
            if inflated > _MOST_BYTES:
                raise DataError(
                    f"mask {path} unpacks to {inflated} bytes, of at most {_MOST_BYTES}: save it "
                    "by numpy.save as .npy"
                )
            arrays = {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DataError(
            f"cannot read the mask {path}: {error}; expected a numpy array: save it by numpy.save"
        ) from error
    # `pna segment --scores` puts the names of the classes beside the scores.
    others = {key: array for key, array in arrays.items() if array.dtype.kind in "US"}
    keys = [key for key in arrays if key not in others]
    if len(keys) != 1:
        raise DataError(
            f"mask {path} holds {len(keys)} arrays ({', '.join(keys) or 'none'}): expected one; "
            "save the mask in a file of its own"
        )
    array = arrays[keys[0]]
    return _native(array), ArrayForm(".npz", array.dtype, key=keys[0], others=others)


def _native(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return an array in the machine's byte order, which torch needs."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _named(form: ArrayForm, array: MaskArray) -> LabelSpace | None:
    """Return the classes of probabilities, if their names lie beside them."""
    for names in form.others.values():
        if array.ndim == 3 and names.shape == (len(array),):
            colors = tuple(voc_color(index) for index in range(len(array)))
            return LabelSpace(form.key, tuple(map(str, names)), colors)
    return None
