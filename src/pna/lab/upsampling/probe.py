"""Linear probes on upsampled features: does an upsampler put features where the pixels are?

The features of a fixed encoder at one stride are brought to stride 4, once, and classified by one
1x1 convolution, which alone is trained (as in NAF's evaluation).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.data.dataset import SegmentationDataset
from pna.data.randomness import mixed_seed
from pna.labels import IGNORE_INDEX
from pna.metrics.confusion import confusion_matrix
from pna.model.encoder import TimmEncoder
from pna.model.resize import resize

Upsample = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""Images (B, 3, H, W), a map (B, C, h, w) and a size (H', W') in, (B, C, H', W') out."""

_FINE = 4
"""Stride that features are brought to."""


@dataclass(frozen=True)
class ProbeSettings:
    """How a probe is trained.

    Attributes:
        epochs: Passes over the images.
        batch_size: Images per step.
        lr: Peak rate of Adam, with cosine decay.
        seed: Of the order and of the start.
    """

    epochs: int = 10
    batch_size: int = 8
    lr: float = 3e-3
    seed: int = 0


@dataclass(frozen=True)
class Sample:
    """An image with its features.

    Attributes:
        image: (3, H, W) uint8, padded.
        features: (C, h, w) float16.
        labels: (H, W) uint8, padded by ignored pixels.
    """

    image: Tensor
    features: Tensor
    labels: Tensor


def encode(encoder: TimmEncoder, dataset: SegmentationDataset, stride: int) -> Iterator[Sample]:
    """Compute the features of a data set at one stride, image by image."""
    level = encoder.strides.index(stride)
    mean, std = (torch.tensor(v)[:, None, None] for v in (encoder.mean, encoder.std))
    for i in range(len(dataset)):
        image, labels = dataset.read_raw(i)
        H, W = labels.shape
        padding = (0, -W % encoder.divisor, 0, -H % encoder.divisor)
        padded = F.pad(image[None].float(), padding, mode="replicate")
        with torch.inference_mode():
            features = encoder((padded / 255 - mean) / std)[level][0]
        yield Sample(padded[0].byte(), features.half(), F.pad(labels, padding, value=IGNORE_INDEX))


def upsampled(sample: Sample, upsample: Upsample) -> Sample:
    """Bring the features of a sample to stride 4."""
    image = sample.image[None].float() / 255
    size = [side // _FINE for side in image.shape[-2:]]
    with torch.no_grad():
        fine = upsample(image, sample.features[None].float(), size)[0]
    return Sample(sample.image, fine.half(), sample.labels)


def train_probe(samples: Sequence[Sample], num_classes: int, settings: ProbeSettings) -> nn.Conv2d:
    """Train a 1x1 convolution on features at stride 4.

    Args:
        samples: The training images.
        num_classes: Number of classes K.
        settings: Rates and length.
    """
    torch.manual_seed(settings.seed)
    probe = nn.Conv2d(len(samples[0].features), num_classes, 1)
    # Channels of a network differ in scale by orders of magnitude: one rate is to suit all.
    squares = [sample.features.float().square().mean((1, 2)) for sample in samples]
    scale = torch.stack(squares).mean(0).sqrt().clamp(min=1e-6)[None, :, None, None]
    scaled = nn.Parameter(probe.weight.detach().clone())
    assert probe.bias is not None
    optimizer = torch.optim.Adam([scaled, probe.bias], settings.lr)
    steps = settings.epochs * (len(samples) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(settings.epochs):
        rng = np.random.default_rng(mixed_seed("order", settings.seed, epoch))
        order = rng.permutation(len(samples))
        for start in range(0, len(order) - settings.batch_size + 1, settings.batch_size):
            batch = [samples[i] for i in order[start : start + settings.batch_size]]
            losses = [_loss(sample, scaled / scale, probe.bias) for sample in batch]
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        probe.weight.copy_(scaled / scale)
    return probe


def score_probe(probe: nn.Conv2d, samples: Sequence[Sample], num_classes: int) -> float:
    """Return the mIoU of a probe at the images' own size, in [0, 1]."""
    total = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    with torch.inference_mode():
        for sample in samples:
            logits = resize(probe(sample.features[None].float()), sample.labels.shape)
            # Padded pixels are ignored ones.
            total += confusion_matrix(logits[0].argmax(0), sample.labels, num_classes)
    both = total.diagonal()
    union = total.sum(0) + total.sum(1) - both
    return float((both[union > 0] / union[union > 0]).mean())


def _loss(sample: Sample, weight: Tensor, bias: Tensor) -> Tensor:
    logits = F.conv2d(sample.features[None].float(), weight, bias)
    labels = sample.labels[None, None].float()
    # The class at the center of a cell: shares of classes would blur the target.
    cells = F.interpolate(labels, size=logits.shape[-2:], mode="nearest-exact")[0].long()
    return F.cross_entropy(logits, cells, ignore_index=IGNORE_INDEX)
