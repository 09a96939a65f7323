"""The network that refines masks of any classes: an image and its masks in, better masks out.

    image ─ encoder ─> features at strides 32, 16, 8, 4 ─┬─ of the pixels themselves: 2, 1
      │                                                  │
      └──── colors ──────────────────────┐               │   once for all classes
                                         v               v
    masks ─ average to each stride ─> stage 1..6: gather the coarser logits, correct them

A stage knows no classes. It gathers the coarser logits of all masks by one set of weights from the
image, and corrects each mask by the same small network, on the part of the image where the mask
lies. So the number of classes is free, and a further class costs a fraction of the first.

The stages are those of `pna.model.pna` ("mixer", gathered logits), with one difference: a stage
also sees the given mask at its own stride, and mixes it with what it gathered by a weight that it
predicts, so detail of a mask that is right passes unchanged.

To refine, the network runs at full and at half size; the result is the mean of the two
probabilities. On images unlike those of its training the two agree less, so it is less sure there.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.model.encoder import EncoderWeights, TimmEncoder, create_encoder
from pna.model.pna.layers import Pointwise
from pna.model.pna.nam import LogitGathering, Neighborhood
from pna.model.pna.stage import ImageStem, MixerBlock
from pna.model.resize import average, resize
from pna.model.state import state_digest

MOST_SURE = 4.0
"""Masks enter as logits in [-4, 4]: nothing that is given is surer than 98 %."""
_LEAST = 1 / (1 + float(torch.tensor(MOST_SURE).exp()))
"""Their probability: a number, since a graph cannot hold the conversion of a tensor to one."""

_WIDTHS = (8, 16, 32, 48, 64, 96)
"""Channels of the stages at strides 1 to 32."""
_DEPTHS = (1, 1, 1, 1, 2, 2)
"""Blocks of the stages at strides 1 to 32."""
_WINDOW = 5
"""Side of the neighborhoods, in cells of the coarser stage."""

_REDUCTIONS = (1, 2)
"""Of the image's sides, for each run; each divides the last."""

Box = tuple[slice, slice]
"""Rows and columns, in cells of many pixels: of `divisor` for whoever refines."""


class StageResult(NamedTuple):
    """Output of one stage.

    Attributes:
        logits: (B, K, H, W) of the foreground of each mask.
        neighborhood: What the coarser logits were gathered with; None in the first stage.
    """

    logits: Tensor
    neighborhood: Neighborhood | None


class RefinesMasks(Protocol):
    """A network as parts of images are refined by it: `MaskRefiner`, or one in a file."""

    @property
    def divisor(self) -> int:
        """Sides of images must be multiples of this."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it takes images and masks."""
        ...

    @property
    def fingerprint(self) -> str:
        """Of its weights: what another network refines does not go on with this one."""
        ...

    def refine(self, images: Tensor, masks: Tensor, boxes: Sequence[Box] | None = None) -> Tensor:
        """Refine masks: see `MaskRefiner.refine`."""
        ...


class PixelStem(nn.Module):
    """Features of the pixels themselves, at stride 1.

    Args:
        channels: Channels of the result.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to (B, C, H, W)."""
        return F.gelu(self.conv(images - 0.5))


class MaskStage(nn.Module):
    """Gather the coarser logits, see the given mask, correct.

    Args:
        in_channels: Channels C of the features.
        width: Channels D of the stage.
        handed_on: Channels that the coarser stage hands on; None for the first stage, which gathers
            nothing.
        window: Side of the neighborhood in cells of the coarser logits, odd.
        depth: Number of blocks.
    """

    def __init__(
        self, in_channels: int, width: int, handed_on: int | None, window: int, depth: int
    ) -> None:
        super().__init__()
        self.embed_feature = Pointwise(in_channels, width)
        self.embed_mask = Pointwise(4, width)
        self.receive = None if handed_on is None else Pointwise(handed_on, width, bias=False)
        self.carry = None if handed_on is None else LogitGathering(width, window)
        self.blocks = nn.Sequential(*(MixerBlock(width, 2.0) for _ in range(depth)))
        self.classifier = Pointwise(width, 2)
        # A stage starts by believing the mask and what was gathered alike, and corrects nothing.
        nn.init.normal_(self.classifier.weight, std=1e-3)
        nn.init.zeros_(self.classifier.bias)

    def gather(
        self, f: Tensor, coarse: Tensor, image: Tensor
    ) -> tuple[Tensor, Neighborhood | None]:
        """Gather logits (B, h, w, K) to the grid of the features (B, H, W, D)."""
        assert self.carry is not None
        carried, neighborhood = self.carry(f, coarse, image)
        return carried, neighborhood

    def correct(
        self, f: Tensor, given: Tensor, carried: Tensor, handed_on: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Correct the logits of one mask.

        Args:
            f: (B, H, W, D) embedded features.
            given: (B, H, W, 1) logits of the given mask at this stride.
            carried: (B, H, W, 1) logits gathered from the coarser stage.
            handed_on: (B, h, w, D') of the coarser stage.

        Returns:
            Logits (B, H, W, 1), and features (B, H, W, D) to hand on.
        """
        # Both as they are and as probabilities: how sure they are matters, and so does the side.
        both = torch.cat([given, carried], -1)
        x = f + self.embed_mask(torch.cat([both / MOST_SURE, both.sigmoid() - 0.5], -1))
        if self.receive is not None:
            assert handed_on is not None
            received = self.receive(handed_on).permute(0, 3, 1, 2)
            x = x + resize(received, f.shape[1:3]).permute(0, 2, 3, 1)
        x = self.mix(x)
        correction, trust = self.classifier(x).split(1, -1)
        return torch.lerp(carried, given, trust.sigmoid()) + correction, x

    def mix(self, x: Tensor) -> Tensor:
        """Map (B, H, W, D) to (B, H, W, D)."""
        return cast(Tensor, self.blocks(x))


class MaskRefiner(nn.Module):
    """Refine masks of any number of classes on one image.

    Args:
        encoder: A pyramid of strides 4, 8, 16 and 32.
        stems: Features of the image itself at strides 1 and 2.
        stages: Coarse to fine, one for each stride from 32 to 1.
    """

    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(
        self, encoder: TimmEncoder, stems: Sequence[nn.Module], stages: Sequence[MaskStage]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("mean", torch.tensor(encoder.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(encoder.std)[:, None, None])
        # Divides the last logits, so that a probability of 0.8 is right in 80 of 100 pixels.
        self.register_buffer("temperature", torch.ones(()))
        self.stems = nn.ModuleList(stems)
        self.stages = nn.ModuleList(stages)

    @property
    def divisor(self) -> int:
        """Sides of images must be multiples of this: pixels per coarsest cell at half size."""
        return self.encoder.divisor * _REDUCTIONS[-1]

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.mean.device

    @property
    def fingerprint(self) -> str:
        """A digest of its weights."""
        return state_digest(self.state_dict())

    def refine(self, images: Tensor, masks: Tensor, boxes: Sequence[Box] | None = None) -> Tensor:
        """Refine masks: calibrated probabilities (B, K, H, W) of the foreground of each.

        Args:
            images: (B, 3, H, W) RGB in [0, 1], sides multiples of `divisor`.
            masks: (B, K, H, W) probabilities of the foreground.
            boxes: Where each mask is corrected, in cells of `divisor`; everywhere by default.
                Elsewhere it stays.
        """
        return mean_probability(self.logits_at_sizes(images, masks, boxes), self.temperature)

    def logits_at_sizes(
        self, images: Tensor, masks: Tensor, boxes: Sequence[Box] | None = None
    ) -> Tensor:
        """Refine masks at full and at half size: logits (2, B, K, H, W), not calibrated.

        Args:
            images: As for `refine`, and so the rest.
            masks: Likewise.
            boxes: Likewise.
        """
        H, W = images.shape[-2:]
        logits = []
        for reduction in _REDUCTIONS:
            size = (H // reduction, W // reduction)
            cells = _REDUCTIONS[-1] // reduction  # of this run in a cell of `divisor`
            own = (
                None if boxes is None else [(_finer(y, cells), _finer(x, cells)) for y, x in boxes]
            )
            results = self(average(images, size), average(masks, size), own)
            logits.append(resize(results[-1].logits, (H, W)))
        return torch.stack(logits)

    def forward(
        self, images: Tensor, masks: Tensor, boxes: Sequence[Box] | None = None
    ) -> list[StageResult]:
        """Refine masks at the size they have.

        Args:
            images: (B, 3, H, W) RGB in [0, 1], sides multiples of the coarsest stride.
            masks: (B, K, H, W) probabilities of the foreground.
            boxes: Where each mask is corrected, in cells of that stride; everywhere by default.
                Elsewhere it stays.

        Returns:
            The result of each stage, coarse to fine; the last has the size of the images.
        """
        K = masks.shape[1]
        maps = [stem(images) for stem in self.stems]
        maps += self.encoder((images - self.mean) / self.std)
        whole = (slice(None), slice(None))
        boxes = [whole] * K if boxes is None else boxes
        results: list[StageResult] = []
        handed_on: list[Tensor | None] = [None] * K
        logits: Tensor | None = None  # (B, h, w, K)
        for stage, feature in zip(self.stages, reversed(maps), strict=True):
            assert isinstance(stage, MaskStage)
            size = feature.shape[-2:]
            cells = (
                size[0] * self.encoder.divisor // images.shape[-2]
            )  # of this stage in a coarsest one
            f = stage.embed_feature(feature.permute(0, 2, 3, 1))
            given = to_logits(average(masks, size)).permute(0, 2, 3, 1)
            neighborhood = None
            carried = given
            if logits is not None:
                image = average(images, size).permute(0, 2, 3, 1)
                carried, neighborhood = stage.gather(f, logits, image)
            logits = given.clone()
            for k, box in enumerate(boxes):
                rows, cols = (_finer(part, cells) for part in box)
                part = (slice(None), rows, cols, slice(k, k + 1))
                corrected, handed_on[k] = stage.correct(
                    f[:, rows, cols], given[part], carried[part], handed_on[k]
                )
                logits[part] = corrected
            results.append(StageResult(logits.permute(0, 3, 1, 2), neighborhood))
        return results


def mean_probability(logits: Tensor, temperature: Tensor | float) -> Tensor:
    """Turn the logits (n, ...) of n runs into one probability (...).

    Example:
        >>> mean_probability(torch.tensor([[3.0, 3.0], [3.0, -3.0]]), 1.0)
        tensor([0.9526, 0.5000])
    """
    return (logits / temperature).sigmoid().mean(0)


def to_logits(probabilities: Tensor) -> Tensor:
    """Turn probabilities of masks into logits in [-4, 4]."""
    return probabilities.clamp(_LEAST, 1 - _LEAST).logit()


def _finer(part: slice, cells: int) -> slice:
    return part if part.start is None else slice(part.start * cells, part.stop * cells)


def create_mask_refiner(*, encoder_weights: EncoderWeights | None = "imagenet") -> MaskRefiner:
    """Build the network on EfficientNet-Lite0.

    Args:
        encoder_weights: "imagenet" starts its encoder from pretrained weights, None at random.
    """
    encoder = create_encoder("tf_efficientnet_lite0", weights=encoder_weights)
    stems = [PixelStem(_WIDTHS[0]), ImageStem(3, _WIDTHS[1])]
    channels = [_WIDTHS[0], _WIDTHS[1], *encoder.channels]
    handed_on = [*_WIDTHS[1:], None]
    stages = [
        MaskStage(channels[i], _WIDTHS[i], handed_on[i], _WINDOW, _DEPTHS[i])
        for i in reversed(range(len(channels)))
    ]
    return MaskRefiner(encoder, stems, stages)
