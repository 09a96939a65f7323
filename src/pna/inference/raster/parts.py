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
from pna.export.onnx_segmenter import OnnxSegmenter
from pna.files import file_digest, write_atomically, write_text_atomically
from pna.inference.raster.blocks import Block
from pna.model.segmenter import BaseSegmenter
from pna.model.state import state_digest

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
        if file.exists():
            try:
                before = json.loads(file.read_text(encoding="utf-8"))
            except ValueError as error:
                raise PnaError(f"{file} is damaged: remove the folder to start anew") from error
            now = json.loads(json.dumps(run))  # tuples become lists
            if changed := [key for key in now if before["run"].get(key) != now[key]]:
                raise PnaError(
                    f"{self.folder} holds the finished part of another run, with another "
                    f"{', '.join(changed)}: finish that one by its own options, or remove the "
                    "folder"
                )
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


def fingerprint(model: BaseSegmenter) -> str:
    """Return a digest of a model's weights, or of the file that it runs from."""
    if isinstance(model, OnnxSegmenter):
        return file_digest(model.file)
    return state_digest(model.state_dict(), model.origin)
