"""Finished blocks in files beside the result, so that a run that was killed goes on."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pna.data.images import UInt8Array
from pna.errors import PnaError
from pna.export.onnx_segmenter import OnnxSegmenter
from pna.files import write_atomically, write_text_atomically
from pna.inference.raster.blocks import Block
from pna.model.segmenter import BaseSegmenter

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
        PnaError: The folder holds blocks of another run.
    """

    def __init__(
        self, folder: Path, run: Mapping[str, Any], choose_sizes: Callable[[], tuple[Size, Size]]
    ) -> None:
        self.folder = folder
        file = folder / "run.json"
        if file.exists():
            before = json.loads(file.read_text(encoding="utf-8"))
            now = json.loads(json.dumps(run))  # tuples become lists
            if changed := [key for key in now if before["run"].get(key) != now[key]]:
                raise PnaError(
                    f"{folder} holds the finished part of another run, with another "
                    f"{', '.join(changed)}: finish that one by its own options, or remove the "
                    "folder"
                )
            self.tile, self.block = tuple(before["tile"]), tuple(before["block"])
            return
        self.tile, self.block = choose_sizes()
        folder.mkdir(parents=True, exist_ok=True)
        about = {"run": run, "tile": self.tile, "block": self.block}
        write_text_atomically(file, json.dumps(about, indent=1))

    def has(self, block: Block) -> bool:
        """Return whether a block is finished."""
        return self._file(block).exists()

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
        with model.file.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    digest = hashlib.sha256(model.origin.encode())
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype}".encode())
        # As bytes: NumPy has no bfloat16.
        values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]
