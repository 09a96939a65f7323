"""Decoded pictures, kept as plain arrays up to a bound: reading one is faster than decoding again.

The key of a picture is a hash of its file's bytes, so a file that has changed finds no old picture.
What doesn't fit under the bound is decoded each time: training reads all pictures in turn, where
throwing the oldest out to make room would find nothing but misses.
"""

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pna.data.errors import DataError
from pna.data.label_cache import write_kept

_REMEASURED = 32  # pictures that one process keeps before it looks at what the others have kept


class PictureCache:
    """A folder of decoded pictures.

    Args:
        folder: Where they are kept; made when the first one is. Processes may share it.
        gigabytes: Most that it holds, in 10^9 bytes; each process that fills it may go beyond by 32
            pictures.

    Raises:
        ValueError: If the bound is not above 0.
    """

    def __init__(self, folder: Path, gigabytes: float) -> None:
        if not gigabytes > 0:
            raise ValueError(f"expected a cache of more than 0 gigabytes, got {gigabytes}")
        self.folder = folder
        self.most = int(1e9 * gigabytes)
        # Another release, or another decoder, may make something else of a file.
        self._conversion = f"{version('pna')} {version('pillow')} picture\0".encode()
        self._held, self._until_measured = 0, 0

    def get(self, picture: Path, decode: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Returns a picture (H, W, 3), kept or decoded now.

        Args:
            picture: The file.
            decode: Makes the array, uint8, of it.

        Raises:
            DataError: If the file can't be read, or as `decode` does.
            OSError: If the folder can't be written.
        """
        file = self._place(picture)
        try:
            kept: NDArray[np.uint8] = np.load(file, allow_pickle=False)
        except (OSError, ValueError, EOFError):  # not there yet, or damaged: decode it
            pass
        else:
            return kept
        decoded = decode()
        if self._has_room(decoded.nbytes):
            write_kept(file, lambda beside: _save(beside, decoded))
        return decoded

    def _place(self, picture: Path) -> Path:
        try:
            content = picture.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the picture {picture}: {error}; replace it") from error
        digest = hashlib.blake2b(self._conversion, digest_size=20)
        digest.update(content)
        key = digest.hexdigest()
        return self.folder / key[:2] / f"{key}.npy"

    def _has_room(self, num_bytes: int) -> bool:
        if self._until_measured == 0:
            self._held = sum(file.stat().st_size for file in self.folder.glob("*/*.npy"))
            self._until_measured = _REMEASURED
        if self._held + num_bytes > self.most:
            return False  # for good: nothing is ever thrown out
        self._held += num_bytes
        self._until_measured -= 1
        return True


def _save(file: Path, array: NDArray[np.uint8]) -> None:
    with file.open("wb") as opened:  # given a name, numpy would add its own ending
        np.save(opened, array, allow_pickle=False)
