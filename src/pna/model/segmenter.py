"""The wiring: image -> encoder -> coarse head -> refinement -> logits at the image's size.

The model owns normalization and padding, so any image in [0, 1] of any size goes in, and logits
of the same size come out. `Segmenter` computes features and coarse prediction by an encoder and a
coarse head; `pna.cascade` takes them from a network that exists already.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.bands import Band
from pna.errors import PnaError, UnsupportedError
from pna.labels import LabelSpace
from pna.model.config import CascadeConfig, InferenceSize, ModelConfig
from pna.model.encoder import Encoder
from pna.model.pna.head import PNAHead
from pna.model.refiner import Refiner, RefinerOutput
from pna.model.resize import resize
from pna.model.saving import push, save


class SegmenterOutput(NamedTuple):
    """Output of every segmenter.

    Attributes:
        logits: (B, K, H, W) at the image's size, from the last stage that ran.
        coarse: (B, K, h, w) logits P0 at the stride of the coarse head.
        stages: P1, ..., Pn, each (B, K, h, w) at its own stride; empty unless training or asked
            for.
        aux: Further outputs for losses, while training: "aux", the auxiliary head's (B, K, h, w),
            and the tensors of the refiner's own losses.
    """

    logits: Tensor
    coarse: Tensor
    stages: list[Tensor]
    aux: dict[str, Tensor]


class StageSimilarity(NamedTuple):
    """Attention weights of the cell under a pixel, at one stage (paper, figure 1).

    Attributes:
        stage: 1 is the coarsest.
        stride: Pixels per cell of the map that is gathered from; no whole number where it does not
            divide the padded image.
        row, col: The cell under the pixel.
        rows, cols: (first, end) of its window, in cells; may reach into the padding.
        weights: (heads, window height, window width), each head sums to 1.
    """

    stage: int
    stride: float
    row: int
    col: int
    rows: tuple[int, int]
    cols: tuple[int, int]
    weights: Tensor


class RefinerInput(NamedTuple):
    """Features and coarse prediction, before refinement.

    Attributes:
        features: (B, C, h, w) per level, fine to coarse.
        coarse: (B, K, h, w) logits P0.
        aux: Further outputs for losses; empty unless training.
    """

    features: list[Tensor]
    coarse: Tensor
    aux: dict[str, Tensor]


class BaseSegmenter(nn.Module, ABC):
    """A segmentation network without its source of features and coarse prediction.

    Args:
        labels: The K classes.
        mean: Mean per channel of the images, for values in [0, 1]; RGB, but around a network of
            other channels.
        std: Standard deviation per channel, likewise.

    Attributes:
        refiner: Refines the coarse logits; None leaves them as they are. Subclasses set it.
        config: The configuration that rebuilds the model; a model without one cannot be saved.
        padding: How images are padded to multiples of `divisor`: "replicate" repeats the edge,
            "mean" continues with the mean color.
        inference_size: Size that `Predictor` and `evaluate` resize images to; None keeps their own.
            `forward` never resizes.
        bands: The channels of the images; None are red, green and blue, or unknown.
    """

    mean: Tensor
    std: Tensor
    refiner: Refiner | None
    config: ModelConfig | CascadeConfig | None
    padding: Literal["replicate", "mean"] = "replicate"
    inference_size: InferenceSize | None = None
    bands: tuple[Band, ...] | None = None

    def __init__(self, labels: LabelSpace, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.labels = labels
        # Not in the state dict: they are settings, and `config.json` holds them.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    @abstractmethod
    def strides(self) -> tuple[int, ...]:
        """Image pixels per cell of each level of features, fine to coarse."""

    @property
    @abstractmethod
    def divisor(self) -> int:
        """Images are padded to multiples of this."""

    @property
    @abstractmethod
    def origin(self) -> str:
        """The source of features and coarse prediction, in words."""

    @abstractmethod
    def encoder_parameters(self) -> frozenset[str]:
        """Return the names of the trainable parameters that the features depend on.

        They may train at a learning rate of their own.
        """

    @abstractmethod
    def encode(self, images: Tensor) -> RefinerInput:
        """Compute features, coarse logits and auxiliary outputs of normalized images (B, 3, H, W).

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

    def forward(self, images: Tensor, *, stages: bool = False) -> SegmenterOutput:
        """Segment a batch.

        Args:
            images: (B, C, H, W) in [0, 1], not normalized, any H, W >= 1; C is 3, RGB, but around
                a network of other channels.
            stages: Also return every stage's logits; in training they are always returned.

        Raises:
            PnaError: The images have another shape or type.
        """
        check_images(images, self.mean.shape[0])
        self._warn_of_range(images)
        padded = self._pad(images)
        # Features (B, C_i, H / s_i, W / s_i), coarse logits (B, K, h, w); H and W padded.
        features, coarse, aux = self.encode(self._normalize(padded))
        refined = RefinerOutput([], {})
        if self.refiner is not None:
            refined = (
                self.refiner.forward_training(features, coarse, images=padded)
                if self.training
                else RefinerOutput(self.refiner(features, coarse, images=padded), {})
            )
        # In training a baseline may return no stage; the coarse prediction is then the output.
        finest = refined.stages[-1] if refined.stages else coarse
        returned = refined.stages if self.training or stages else []
        logits = self.upsample(finest, images.shape[-2:])
        return SegmenterOutput(logits, coarse, returned, aux | refined.aux)

    def _warn_of_range(self, images: Tensor) -> None:
        """Warn of images that were normalized before, or are in 0..255."""
        # On a GPU reading a value would wait for all queued work, so the CPU alone is checked. A
        # network without normalization takes whatever range it was trained with.
        is_traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
        if is_traced or images.device.type != "cpu" or bool((self.std == 1).all()):
            return
        low, high = (float(value) for value in images.detach().aminmax())
        if low < -0.1 or high > 1.5:
            warnings.warn(
                f"expected images in [0, 1], got values from {low:.3g} to {high:.3g}: the model "
                "normalizes them itself, so leave a normalization of your own out, and divide "
                "images of 0 to 255 by 255",
                stacklevel=3,
            )

    def _pad(self, images: Tensor) -> Tensor:
        if self.training:
            # A channels-last image crashes torch's backward pass as channels-last weights do: see
            # `pna.model.presets.assemble`.
            images = images.contiguous()
        H, W = images.shape[-2:]
        height, width = self.padded_size((H, W))
        # F.pad would copy it. While exporting with free sizes the comparison would pin them.
        if not torch.compiler.is_exporting() and (height, width) == (H, W):
            return images
        if self.padding == "mean":
            # Exactly zero once normalized.
            right = self.mean.expand(len(images), -1, H, width - W)
            bottom = self.mean.expand(len(images), -1, height - H, width)
            return torch.cat([torch.cat([images, right], dim=3), bottom], dim=2)
        # Repeat the border: a constant would add an edge along it.
        return F.pad(images, (0, width - W, 0, height - H), mode="replicate")

    def _normalize(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def upsample(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Resize the logits of any stage to the image. Losses and scores both use this function.

        Args:
            logits: (B, K, h, w) of the coarse head, a stage or the auxiliary head.
            size: (H, W) of the image that was segmented.

        Returns:
            (B, K, H, W): resized to the padded image, then cut back.
        """
        # Resized to the padded size, for which cells and pixels line up, and cut afterwards.
        H, W = size
        return resize(logits, self.padded_size(size))[..., :H, :W]

    def padded_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Return (H, W) of an image of that size once it is padded, right and bottom."""
        # Whole divisors, rounded up: of this form compilers see that strides divide a free size.
        H, W = ((side + self.divisor - 1) // self.divisor * self.divisor for side in size)
        return H, W

    @torch.inference_mode()
    def resize_images(self, images: Tensor) -> Tensor:
        """Resize images to the `inference_size`; without one they stay as they are.

        Args:
            images: (B, C, H, W) float in [0, 1] or uint8 in [0, 255].

        Returns:
            Images of the same type, rounded to whole levels of 255 where they were resized: those
            that the models were tested on were resized as bytes.
        """
        size = self.inference_size
        if size is None or size.of(images.shape[-2:]) == tuple(images.shape[-2:]):
            return images
        # Whole levels before, too: halves are common in between, and a rounding error decides them.
        levels = (255 * images.float()).round() if images.is_floating_point() else images.float()
        levels = F.interpolate(
            levels,
            size.of(images.shape[-2:]),
            mode="bilinear",
            align_corners=False,
            antialias=size.antialias,
        )
        levels = levels.round().clamp(0, 255)
        return (levels / 255).to(images.dtype) if images.is_floating_point() else levels.byte()

    def similarity(self, images: Tensor, point: tuple[int, int]) -> list[StageSimilarity]:
        """Return the attention weights of one pixel at each stage (paper, figure 1).

        Where logits are gathered these are the weights that gather them, from the grid of the
        stage before; otherwise those of the embedded prediction.

        Args:
            images: (1, 3, H, W), RGB in [0, 1].
            point: (x, y) of a pixel.

        Raises:
            UnsupportedError: The model is not refined by PNA.
            PnaError: The point lies outside of the image.
        """
        check_images(images, self.mean.shape[0])
        if not isinstance(self.refiner, PNAHead):
            raise UnsupportedError("this model is not refined by PNA: it has no similarity to show")
        (x, y), (H, W) = point, images.shape[-2:]
        if not (0 <= x < W and 0 <= y < H):
            raise PnaError(f"expected a point (x, y) inside {W}x{H} pixels, got ({x}, {y})")
        padded = self._pad(images)
        features, coarse, _ = self.encode(self._normalize(padded))
        # Padding is at the right and bottom only, so a pixel keeps its place from the top left.
        height, width = padded.shape[-2:]
        place = ((y + 0.5) / height, (x + 0.5) / width)
        similarities = self.refiner.similarity(features, coarse, place, images=padded)
        return [
            StageSimilarity(m, height / found.size[0], *found[:5])
            for m, found in enumerate(similarities, 1)
            if found is not None
        ]

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write weights (safetensors) and configuration (JSON); see `pna.model.saving.save`."""
        save(self, folder, dtype=dtype)

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Upload to the Hugging Face hub; returns the address. See `pna.model.saving.push`."""
        return push(self, repository, private=private)


class Segmenter(BaseSegmenter):
    """An encoder and a coarse head, with or without refinement.

    Args:
        encoder: Returns features, fine to coarse; has `channels`, `strides`, `divisor`, `mean`,
            `std`.
        coarse: Features -> coarse logits (B, K, h, w) at its own stride.
        labels: The K classes.
        neck: Features -> the features, fine to coarse, that coarse head and refiner share; without
            one they share the encoder's.
        refiner: Refines the coarse logits; None leaves them as they are.
        auxiliary: A second head on the encoder's features, for training only.
        padding: How images are padded to the encoder's divisor; see `BaseSegmenter`.
        inference_size: Size that `Predictor` and `evaluate` resize images to.
        config: The configuration that rebuilds the model; needed to save it.
    """

    def __init__(
        self,
        encoder: Encoder,
        coarse: nn.Module,
        labels: LabelSpace,
        *,
        neck: nn.Module | None = None,
        refiner: Refiner | None = None,
        auxiliary: nn.Module | None = None,
        padding: Literal["replicate", "mean"] = "replicate",
        inference_size: InferenceSize | None = None,
        config: ModelConfig | None = None,
    ) -> None:
        super().__init__(labels, mean=encoder.mean, std=encoder.std)
        self.padding = padding
        self.inference_size = inference_size
        self.encoder = encoder
        self.neck = neck
        self.coarse = coarse
        self.refiner = refiner
        self.auxiliary = auxiliary
        self.config = config
        self.bands = None if config is None else config.options.bands

    @property
    def strides(self) -> tuple[int, ...]:
        """Image pixels per cell of each level of features, fine to coarse."""
        return self.encoder.strides

    @property
    def divisor(self) -> int:
        """Images are padded to multiples of this: the coarsest stride, or 1 for no padding."""
        return self.encoder.divisor

    @property
    def origin(self) -> str:
        """The source of features and coarse prediction, in words."""
        return f"encoder {self.encoder.name}"

    def encoder_parameters(self) -> frozenset[str]:
        """Return the names of the encoders' trainable parameters; a baseline has a second one."""
        encoders: dict[str, nn.Module] = {"encoder": self.encoder}  # of whatever class it is
        encoders |= {name: m for name, m in self.named_modules() if isinstance(m, Encoder)}
        named = (pair for prefix, m in encoders.items() for pair in m.named_parameters(prefix))
        return frozenset(name for name, p in named if p.requires_grad)

    def encode(self, images: Tensor) -> RefinerInput:
        """Compute features, coarse logits and auxiliary outputs of images (B, 3, H, W)."""
        encoded: list[Tensor] = self.encoder(images)
        features = encoded if self.neck is None else self.neck(encoded)
        aux = {}
        if self.training and self.auxiliary is not None:
            aux["aux"] = self.auxiliary(encoded)  # before the neck: it trains the encoder
        return RefinerInput(features, self.coarse(features), aux)


def check_images(images: Tensor, channels: int) -> None:
    """Refuse a batch of images that is not (B, C, H, W) in floating point, none of them 0.

    Raises:
        PnaError: The images have another shape or type.
    """
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape:
        rgb = ", RGB" if channels == 3 else ""
        raise PnaError(f"expected images (B, {channels}, H, W){rgb}, got {tuple(images.shape)}")
    if not images.is_floating_point():
        raise PnaError(f"expected images in [0, 1], floating point, got {images.dtype}")
