"""Saving made label maps as MATLAB files."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HEADER = b"MATLAB 5.0 MAT-file"
HEADER_SIZE = 116  # bytes of free text


def save_mat(file: Path, variables: Mapping[str, Any]) -> None:
    """Saves variables, and structs as dicts; the same bytes for the same variables.

    Args:
        file: Made anew, its folder too.
        variables: Arrays, strings, or dicts of them.
    """
    from scipy.io import savemat

    buffer = io.BytesIO()
    savemat(buffer, dict(variables), do_compression=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    # scipy writes the time into the header.
    file.write_bytes(HEADER.ljust(HEADER_SIZE) + buffer.getvalue()[HEADER_SIZE:])
