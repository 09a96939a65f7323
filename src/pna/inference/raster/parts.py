"""Finished blocks in files beside the result, so that a run that was killed goes on."""

import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout

from pna.data.images import UInt8Array
from pna.errors import PnaError
from pna.files import write_atomically, write_text_atomically
from pna.inference.raster.blocks import Block
from pna.inference.runs import read_run

Size = tuple[int, int]


class Parts:
    """The folder of the finished blocks of one run.

    Args:
        folder: Made if it is not there.
        run: What the blocks depend on, as JSON. A folder of another run is refused.
        choose_sizes: Returns tile and block of a new run. One that goes on keeps its own.

    Attributes:
        tile: Height and width of a tile in pixels.
        block: Height and width of a block, at most.

    Raises:
        PnaError: The folder holds blocks of another run, or another process works on it.
    """

    def __init__(
        self, folder: Path, run: Mapping[str, Any], choose_sizes: Callable[[], tuple[Size, Size]]
    ) -> None:
        self.folder = folder = folder.absolute()  # other processes may stand elsewhere
        made = not folder.parent.exists()
        folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder.with_name(f"{folder.name}.lock"))
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise PnaError(
                f"another process works on {folder}: wait for it, or choose another folder for the "
                "results"
            ) from None
        try:
            self._read_or_begin(run, choose_sizes)
        except BaseException:
            self.close()
            if made:  # nothing is written where nothing could begin
                folder.parent.rmdir()
            raise

    def __getstate__(self) -> dict[str, Any]:
        # The lock is of the process that plans and finishes the run; others write blocks alone.
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def _read_or_begin(
        self, run: Mapping[str, Any], choose_sizes: Callable[[], tuple[Size, Size]]
    ) -> None:
        file = self.folder / "run.json"
        if (before := read_run(file, run)) is not None:
            self.tile, self.block = tuple(before["tile"]), tuple(before["block"])
            return
        self.tile, self.block = choose_sizes()
        self.folder.mkdir(exist_ok=True)
        about = {"run": run, "tile": self.tile, "block": self.block}
        write_text_atomically(file, json.dumps(about, indent=1))

    def close(self) -> None:
        """Let other processes work on the folder."""
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)

    def has(self, block: Block) -> bool:
        """Return whether a block is finished; one that a fault of the machine cut off is not."""
        return zipfile.is_zipfile(self._file(block))

    def write(self, block: Block, labels: UInt8Array, scores: UInt8Array | None) -> None:
        """Keep a finished block.

        Args:
            block: The block.
            labels: (h, w).
            scores: (K, h, w), probabilities in 255ths, or None.
        """
        arrays: dict[str, npt.NDArray[Any]] = {"labels": labels}
        if scores is not None:
            arrays["scores"] = scores

        def save(beside: Path) -> None:
            np.savez_compressed(beside, allow_pickle=False, **arrays)

        write_atomically(self._file(block), save)

    def read(self, block: Block, name: str) -> UInt8Array:
        """Return "labels" or "scores" of a finished block."""
        with np.load(self._file(block)) as arrays:
            found: UInt8Array = arrays[name]
            return found

    def _file(self, block: Block) -> Path:
        return self.folder / f"block-{block.index:06d}.npz"
