"""Wires the boxes: picture -> encoder -> coarse head -> refinement -> logits at the picture's size.

The model owns normalisation and padding, so any picture in [0, 1] of any size goes in, and logits
of the same size come out. Where features and coarse prediction come from is what `Segmenter` adds
to `BaseSegmenter`; around a network that exists already it is `pna.cascade`'s matter.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.labels import LabelSpace
from pna.model.aggregation.head import PNAHead
from pna.model.config import CascadeConfig, ModelConfig
from pna.model.encoder import TimmEncoder
from pna.model.refiner import Refined, Refiner, Scene
from pna.model.resize import resize


class SegmenterOutput(NamedTuple):
    """What a segmenter returns, always.

    Attributes:
        logits: (B, K, H, W) at the picture's size, from the last stage that ran.
        coarse: (B, K, h, w) logits P0 at the stride of the coarse head.
        stages: P1, ..., Pn, each (B, K, h, w) at its own stride; empty unless training or asked
            for.
        aux: Further outputs for losses, while training: "aux", the auxiliary head's (B, K, h, w),
            and what the refiner's own loss needs.
    """

    logits: Tensor
    coarse: Tensor
    stages: list[Tensor]
    aux: dict[str, Tensor]


class StageSimilarity(NamedTuple):
    """Which cells the cell under a pixel gathers from, at one stage (paper, figure 1).

    Attributes:
        stage: 1 is the coarsest.
        stride: Pixels per cell.
        row, col: The cell that asks.
        rows, cols: (first, end) of its window, in cells; may reach into the padding.
        weights: (heads, window height, window width), each head sums to 1.
    """

    stage: int
    stride: int
    row: int
    col: int
    rows: tuple[int, int]
    cols: tuple[int, int]
    weights: Tensor


class Prediction(NamedTuple):
    """What there is before refinement.

    Attributes:
        features: (B, C, h, w) per level, fine to coarse.
        coarse: (B, K, h, w) logits P0.
        aux: Further outputs for losses; empty unless training.
    """

    features: list[Tensor]
    coarse: Tensor
    aux: dict[str, Tensor]


class BaseSegmenter(nn.Module, ABC):
    """All of a segmentation network but where features and coarse prediction come from.

    Args:
        labels: The K classes.
        mean: Mean per RGB channel of the pictures, for values in [0, 1].
        std: Standard deviation per RGB channel, likewise.

    Attributes:
        refiner: Refines the coarse logits; None leaves them as they are. Subclasses set it.
        config: What the model was built from; None cannot be saved.
    """

    mean: Tensor
    std: Tensor
    refiner: Refiner | None
    config: ModelConfig | CascadeConfig | None

    def __init__(self, labels: LabelSpace, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.labels = labels
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    @property
    @abstractmethod
    def strides(self) -> tuple[int, ...]:
        """Picture pixels per cell of each level of features, fine to coarse."""

    @property
    @abstractmethod
    def divisor(self) -> int:
        """Pictures are padded to multiples of this."""

    @property
    @abstractmethod
    def origin(self) -> str:
        """Where features and coarse prediction come from, in words."""

    @abstractmethod
    def encoder_parameters(self) -> frozenset[str]:
        """Names of the trainable parameters that the features depend on.

        They may train at a learning rate of their own.
        """

    @abstractmethod
    def predict(self, pictures: Tensor) -> Prediction:
        """Features, coarse logits and auxiliary outputs of normalised pictures (B, 3, H, W).

        H and W are multiples of `divisor`.
        """

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.labels.num_classes

    @property
    def num_stages(self) -> int:
        """Number of refinement stages."""
        return self.refiner.num_stages if self.refiner is not None else 0

    def forward(
        self, pictures: Tensor, *, stages: bool = False, stop_at: int | None = None
    ) -> SegmenterOutput:
        """Segment a batch.

        Args:
            pictures: (B, 3, H, W), RGB in [0, 1], any H, W >= 1.
            stages: Also return every stage's logits; they are always there while training.
            stop_at: Number of refinement stages to run, from 1; all by default.

        Raises:
            ValueError: The pictures have another shape or type, or there is no stage to stop at.
        """
        _check_pictures(pictures)
        if stop_at is not None and self.refiner is None:
            raise ValueError(f"got {stop_at=}, but this model has no refinement stages")
        padded = self._pad(pictures)
        features, coarse, aux = self.predict(self._normalise(padded))
        refined = Refined([], {})
        if self.refiner is not None:
            refined = self.refiner.refine(Scene(padded, features, coarse), stop_at=stop_at)
        finest = refined.stages[-1] if refined.stages else coarse
        aux = aux | refined.aux
        returned = refined.stages if self.training or stages else []
        return SegmenterOutput(self.upsample(finest, pictures.shape[-2:]), coarse, returned, aux)

    def _pad(self, pictures: Tensor) -> Tensor:
        H, W = pictures.shape[-2:]
        height, width = self.padded_size((H, W))
        if (height, width) == (H, W):
            return pictures  # F.pad would copy it
        return F.pad(pictures, (0, width - W, 0, height - H), mode="replicate")

    def _normalise(self, pictures: Tensor) -> Tensor:
        return (pictures - self.mean) / self.std

    def upsample(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Bring the logits of any stage to the picture: the one way, for losses and scores alike.

        Args:
            logits: (B, K, h, w) of the coarse head, a stage or the auxiliary head.
            size: (H, W) of the picture that was segmented.

        Returns:
            (B, K, H, W): resized to the padded picture, then cut back.
        """
        H, W = size
        return resize(logits, self.padded_size(size))[..., :H, :W]

    def padded_size(self, size: Sequence[int]) -> tuple[int, int]:
        """(H, W) of a picture of that size once it is padded, right and bottom."""
        H, W = size
        return H + -H % self.divisor, W + -W % self.divisor

    @torch.inference_mode()
    def similarity(self, pictures: Tensor, point: tuple[int, int]) -> list[StageSimilarity]:
        """Say which neighbours a pixel gathers from, at each stage (paper, figure 1).

        With `residual="aggregate"` these are the weights that the logits themselves are gathered
        with; otherwise those of the embedded prediction.

        Args:
            pictures: (1, 3, H, W), RGB in [0, 1].
            point: (x, y) of a pixel.

        Raises:
            ValueError: The model has no refinement, or the point lies outside of the picture.
        """
        _check_pictures(pictures)
        if not isinstance(self.refiner, PNAHead):
            raise ValueError("this model is not refined by PNA, so it has no similarity to show")
        (x, y), (H, W) = point, pictures.shape[-2:]
        if not (0 <= x < W and 0 <= y < H):
            raise ValueError(f"expected a point (x, y) inside {W}x{H} pixels, got ({x}, {y})")
        features = self.predict(self._normalise(self._pad(pictures))).features
        cells = [(y // stride, x // stride) for stride in self.strides]
        found = self.refiner.similarity(features, cells)
        coarse_to_fine = zip(reversed(self.strides), found, strict=True)
        return [
            StageSimilarity(m, stride, *similarity)
            for m, (stride, similarity) in enumerate(coarse_to_fine, 1)
        ]

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write weights (safetensors) and configuration (JSON); see `pna.checkpoints.save`."""
        from pna.model import checkpoints

        checkpoints.save(self, folder, dtype=dtype)

    @classmethod
    def from_pretrained(cls, path_or_name: str | Path) -> "BaseSegmenter":
        """Read a model from a folder, a bundled name or a hub repository; see `pna.load`."""
        from pna.model import checkpoints

        return checkpoints.load(path_or_name)

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Upload to the Hugging Face hub; returns the address. See `pna.checkpoints.push`."""
        from pna.model import checkpoints

        return checkpoints.push(self, repository, private=private)


class Segmenter(BaseSegmenter):
    """An encoder and a coarse head, with or without refinement.

    Args:
        encoder: Returns features, fine to coarse; has `channels`, `strides`, `divisor`, `mean`,
            `std`.
        coarse: Features -> coarse logits (B, K, h, w) at its own stride.
        labels: The K classes.
        neck: Features -> the features, fine to coarse, that coarse head and refiner look at;
            without one they look at the encoder's.
        refiner: Refines the coarse logits; None leaves them as they are.
        auxiliary: A second head on the encoder's features, for training only.
        config: What this model was built from; needed to save it.
    """

    def __init__(
        self,
        encoder: TimmEncoder,
        coarse: nn.Module,
        labels: LabelSpace,
        *,
        neck: nn.Module | None = None,
        refiner: Refiner | None = None,
        auxiliary: nn.Module | None = None,
        config: ModelConfig | None = None,
    ) -> None:
        super().__init__(labels, mean=encoder.mean, std=encoder.std)
        self.encoder = encoder
        self.neck = neck
        self.coarse = coarse
        self.refiner = refiner
        self.auxiliary = auxiliary
        self.config = config

    @property
    def strides(self) -> tuple[int, ...]:
        """Picture pixels per cell of each level of features, fine to coarse."""
        return self.encoder.strides

    @property
    def divisor(self) -> int:
        """Pictures are padded to multiples of this, the coarsest stride."""
        return self.encoder.divisor

    @property
    def origin(self) -> str:
        """Where features and coarse prediction come from, in words."""
        return f"encoder {self.encoder.name}"

    def encoder_parameters(self) -> frozenset[str]:
        """Names of the encoder's trainable parameters."""
        named = self.encoder.named_parameters(prefix="encoder")
        return frozenset(name for name, p in named if p.requires_grad)

    def predict(self, pictures: Tensor) -> Prediction:
        """Features, coarse logits and auxiliary outputs of normalised pictures (B, 3, H, W)."""
        features: list[Tensor] = self.encoder(pictures)
        seen = features if self.neck is None else self.neck(features)
        coarse = self.coarse(seen)
        aux = {}
        if self.training and self.auxiliary is not None:
            aux["aux"] = self.auxiliary(features)
        return Prediction(seen, coarse, aux)


def _check_pictures(pictures: Tensor) -> None:
    if pictures.ndim != 4 or pictures.shape[1] != 3 or 0 in pictures.shape:
        raise ValueError(f"expected pictures (B, 3, H, W), RGB, got {tuple(pictures.shape)}")
    if not pictures.is_floating_point():
        raise ValueError(f"expected pictures in [0, 1], floating point, got {pictures.dtype}")
