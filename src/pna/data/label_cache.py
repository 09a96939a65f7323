"""Converted label maps, kept as PNGs: reading one is faster than converting a mask again.

The key of a label map is a hash of the mask file's bytes and of the conversion, so a mask or a
class that has changed finds no old result, and nothing ever needs to be cleared. Files are written
beside their place and renamed: processes that share a folder never meet half of one.
"""

import hashlib
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pna.data.errors import DataError
from pna.data.reading import read_index_mask


class LabelCache:
    """A folder of label maps.

    Args:
        folder: Where they are kept; made when the first one is.
        conversion: Names, in full, how a mask becomes labels.
    """

    def __init__(self, folder: Path, conversion: str) -> None:
        self.folder = folder
        self.conversion = f"{version('pna')} {conversion}\0"  # a release may correct a conversion

    def get(self, mask: Path, convert: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Returns the labels of a mask (H, W), kept or converted now.

        Args:
            mask: The mask as it is stored.
            convert: Makes labels (H, W), uint8, of it.

        Raises:
            DataError: If the mask can't be read, or as `convert` does.
            OSError: If the folder can't be written.
        """
        file = self._place(mask)
        try:
            return read_index_mask(file).astype(np.uint8)
        except DataError:  # not there yet, or damaged: convert it
            labels = convert()
        image = Image.fromarray(labels)
        write_kept(file, lambda beside: image.save(beside, format="PNG", compress_level=1))
        return labels

    def _place(self, mask: Path) -> Path:
        try:
            content = mask.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the mask {mask}: {error}; replace the file") from error
        digest = hashlib.blake2b(self.conversion.encode(), digest_size=20)
        digest.update(content)
        key = digest.hexdigest()
        return self.folder / key[:2] / f"{key}.png"  # folders of thousands of files are slow


def write_kept(file: Path, write: Callable[[Path], None]) -> None:
    """Write a file of a cache beside its place, then rename it; its folder is made if missing.

    Raises:
        OSError: If it can't be written; nothing is left of it.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(beside)
            beside.replace(file)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"the cache {file.parent.parent} could not be written ({error.strerror or error}): "
            "make room, or leave the cache out, which changes no picture",
        ) from error
