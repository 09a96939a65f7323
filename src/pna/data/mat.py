"""Label maps in MATLAB's files, which SBD and COCO-Stuff 10k are published in."""

import importlib.util
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pna.data.errors import DataError

# What scipy raises for a damaged file depends on where it breaks off.
_UNREADABLE = (
    *(OSError, ValueError, TypeError, LookupError, EOFError, NotImplementedError),
    *(zlib.error, struct.error),
)


def require_scipy(wanted_for: str) -> None:
    """Raise an error that names the remedy before thousands of files fail without scipy.

    Raises:
        DataError: If scipy isn't installed.
    """
    if importlib.util.find_spec("scipy") is None:
        raise DataError(
            f"{wanted_for} is published in MATLAB's files, which scipy reads; it isn't installed: "
            "pip install 'pna[mat]'"
        )


def read_mat_mask(file: Path, *keys: str) -> NDArray[np.integer]:
    """Read a label map (H, W) from a `.mat` file.

    Args:
        file: A MATLAB file, version 4 to 7.
        keys: The variable, then the fields of the struct in it.

    Raises:
        DataError: If the file is missing or damaged, or holds no label map under these keys.
    """
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(file, variable_names=[keys[0]])
    except (*_UNREADABLE, MatReadError) as error:
        raise DataError(f"cannot read the mask {file}: {error}; replace the file") from error
    values: Any = found.get(keys[0])
    for field in keys[1:]:  # a struct is an array (1, 1) with named fields
        has_field = values is not None and field in (values.dtype.names or ())
        values = values[field][0, 0] if has_field else None
    if values is None:
        raise DataError(
            f"mask {file} has no {'.'.join(keys)}: expected a label map of that name; "
            "is it a file of this data set?"
        )
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.number):
        raise DataError(
            f"mask {file}: expected {'.'.join(keys)} to be a label map (height, width), got shape "
            f"{values.shape} of {values.dtype}; replace the file"
        )
    with np.errstate(invalid="ignore"):  # not a number becomes one, which the comparison finds
        labels = values.astype(np.int64)  # MATLAB's numbers are floating-point by default
    if not np.array_equal(labels, values):
        raise DataError(
            f"mask {file}: expected whole numbers in {'.'.join(keys)}; replace the file"
        )
    whole: NDArray[np.integer] = labels
    return whole
