"""An ONNX file as a segmenter: `Predictor`, the sliding window and the command line run it."""

from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from pna.errors import PnaError, UnsupportedError
from pna.export.session import CPU, Session
from pna.model.segmenter import BaseSegmenter, SegmenterOutput, StageSimilarity, check_images


class OnnxSegmenter(BaseSegmenter):
    """A segmentation model in an ONNX file, run by ONNX Runtime.

    It has no weights in PyTorch, and cannot be trained. Its logits lie on the CPU.

    Args:
        file: Written by `pna.export_model`.
        device: "cpu", "cuda" or "cuda:N".

    Attributes:
        file: The file.
        size: The height and width that it is fixed to; None takes any.

    Raises:
        MissingFileError: There is no such file.
        PnaError: It is no file of a segmentation model, or onnxruntime does not run it.
    """

    refiner = None
    config = None

    def __init__(self, file: Path, device: torch.device = CPU) -> None:
        session = Session(file, device)
        description = session.description
        if description.task != "segmentation" or description.labels is None:
            remedy = "pna refine" if description.task == "mask refinement" else "onnxruntime itself"
            raise PnaError(
                f"{file}: expected a segmentation model, got one for {description.task}: run it "
                f"by {remedy}"
            )
        super().__init__(description.labels, mean=description.mean, std=description.std)
        self._session = session
        self.file = file
        self.size = description.size
        self.inference_size = description.inference_size
        self.bands = description.bands

    @property
    def strides(self) -> tuple[int, ...]:
        """Empty: the features stay in the file."""
        return ()

    @property
    def divisor(self) -> int:
        """1: the file pads images itself."""
        return 1

    @property
    def origin(self) -> str:
        """The file, and the model that it was exported from, in words."""
        return f"{self.file} ({self._session.description.origin})"

    @property
    def num_stages(self) -> int:
        """Number of refinement stages whose logits the file returns."""
        return self._session.description.num_stages or 0

    def encoder_parameters(self) -> frozenset[str]:
        """Return no names: there is nothing to train."""
        return frozenset()

    def encode(self, images: Tensor) -> NoReturn:
        """Refuse: the features stay in the file."""
        raise PnaError(f"{self.file} returns logits alone: load the saved model instead")

    def forward(self, images: Tensor, *, stages: bool = False) -> SegmenterOutput:
        """Segment a batch; see `BaseSegmenter.forward`. Stages come at the size of the images.

        Raises:
            PnaError: The images have another shape or type, or another size than the file is fixed
                to, or the file returns no stages.
        """
        description, file = self._session.description, self.file
        if stages and description.num_stages is None:
            raise UnsupportedError(
                f"{file} returns its final logits alone, so it has no stages: export the model "
                "with stages (export_model(..., stages=True), on the command line --stages)"
            )
        check_images(images, len(self.mean))
        size = tuple(images.shape[-2:])
        if self.size is not None and size != self.size:
            H, W = self.size
            raise PnaError(
                f"{file} takes images of {H}x{W} pixels alone (height x width), got {size[0]}x"
                f"{size[1]}: resize them, or run larger ones in tiles of that size, "
                f"TilingConfig(tile=({H}, {W})), on the command line --tile {H},{W}"
            )
        self._warn_of_range(images)
        # A file of one size takes batches of one.
        parts = torch.split(images.float(), len(images) if self.size is None else 1)
        outputs = [self._session.run([part]) for part in parts]
        logits, *earlier = (torch.cat(maps) for maps in zip(*outputs, strict=True))
        if not stages or not earlier:
            return SegmenterOutput(logits, logits, [], {})
        coarse, *refined = earlier
        return SegmenterOutput(logits, coarse, [*refined, logits], {})

    def similarity(self, images: Tensor, point: tuple[int, int]) -> list[StageSimilarity]:
        """Refuse: the attention weights stay in the file."""
        raise UnsupportedError(
            f"{self.file} returns no attention weights: take the saved model for `similar`"
        )
