"""An ONNX file as a mask refiner."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pna.errors import PnaError
from pna.export.session import CPU, Session
from pna.files import file_digest
from pna.refinement.network import Box


class OnnxMaskRefiner:
    """A mask refiner in an ONNX file, run by ONNX Runtime.

    The file refines one mask at a time, so K masks cost K times as much as one.

    Args:
        file: Written by `pna export mask-refiner`.
        device: Where ONNX Runtime runs it: "cpu", "cuda" or "cuda:N".

    Attributes:
        file: The file.
        device: The CPU: where images and masks are handed over.
        divisor: 64, pixels per coarsest cell at half size: edges may move by a cell.

    Raises:
        MissingFileError: There is no such file.
        PnaError: It is no file of a mask refiner, or onnxruntime does not run it.
    """

    device = CPU
    divisor = 64

    def __init__(self, file: Path, device: torch.device = CPU) -> None:
        self._session = Session(file, device)
        self.file = file
        task = self._session.description.task
        if task != "mask refinement":
            raise PnaError(f"{file}: expected a mask refiner, got one for {task}")

    @property
    def fingerprint(self) -> str:
        """A digest of the file."""
        return file_digest(self.file)

    def refine(self, images: Tensor, masks: Tensor, boxes: Sequence[Box] | None = None) -> Tensor:
        """Refine masks: see `MaskRefiner.refine`. Boxes are left aside: each mask is run whole."""
        runs = [self._session.run([images, mask]) for mask in torch.split(masks, 1, dim=1)]
        return torch.cat([refined for (refined,) in runs], dim=1)
