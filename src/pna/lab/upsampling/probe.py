"""Linear probes on upsampled features: does an upsampler put features where the pixels are?

The features of a fixed encoder at one stride are brought to stride 4 and classified by one 1x1
convolution, which alone is trained (as in NAF's evaluation). Where upsampling is linear in the
features and the same for all channels of a group, with weights that sum to 1, it commutes with
that convolution: what each group adds to the classes is computed on the coarse grid and upsampled,
which is the same and far cheaper.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


class Way(NamedTuple):
    """A way of upsampling.

    Attributes:
        upsample: Linear in the map, with weights that sum to 1.
        groups: Number of groups of channels, one after the other, that have weights of their own.
    """

    upsample: Upsample
    groups: int = 1


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


@dataclass
class Cached:
    """An image with its features.

    Attributes:
        image: (3, H, W) uint8, padded.
        features: (C, h, w) float16.
        labels: (H, W) uint8, padded by ignored pixels.
        size: (H, W) before padding.
    """

    image: Tensor
    features: Tensor
    labels: Tensor
    size: tuple[int, int]


def cache_features(
    encoder: TimmEncoder, dataset: SegmentationDataset, stride: int
) -> Iterator[Cached]:
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
        yield Cached(
            padded[0].byte(),
            features.half(),
            F.pad(labels, padding, value=IGNORE_INDEX),
            (H, W),
        )


def train_probe(
    items: Sequence[Cached], num_classes: int, way: Way, settings: ProbeSettings
) -> nn.Conv2d:
    """Train a 1x1 convolution on upsampled features.

    Args:
        items: The training images.
        num_classes: Number of classes K.
        way: How features are upsampled.
        settings: Rates and length.
    """
    torch.manual_seed(settings.seed)
    probe = nn.Conv2d(len(items[0].features), num_classes, 1)
    # Channels of a network differ in scale by orders of magnitude: one rate is to suit all.
    scale = torch.stack([item.features.float().square().mean((1, 2)) for item in items]).mean(0)
    scale = scale.sqrt().clamp(min=1e-6)
    scaled = nn.Parameter(probe.weight.detach().clone())
    assert probe.bias is not None
    optimizer = torch.optim.Adam([scaled, probe.bias], settings.lr)
    steps = settings.epochs * (len(items) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(settings.epochs):
        rng = np.random.default_rng(mixed_seed("order", settings.seed, epoch))
        order = rng.permutation(len(items))
        for start in range(0, len(order) - settings.batch_size + 1, settings.batch_size):
            batch = [items[i] for i in order[start : start + settings.batch_size]]
            weight = scaled / scale[None, :, None, None]
            losses = [_loss(item, weight, probe.bias, way) for item in batch]
            optimizer.zero_grad()
            torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        probe.weight.copy_(scaled / scale[None, :, None, None])
    return probe


def score_probe(probe: nn.Conv2d, items: Sequence[Cached], num_classes: int, way: Way) -> float:
    """Return the mIoU of a probe at the images' own size, in [0, 1]."""
    total = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    with torch.inference_mode():
        for item in items:
            logits = classify(item, probe.weight, probe.bias, way)
            H, W = item.size
            labels = resize(logits, item.image.shape[-2:])[0, :, :H, :W].argmax(0)
            total += confusion_matrix(labels, item.labels[:H, :W], num_classes)
    both = total.diagonal()
    union = total.sum(0) + total.sum(1) - both
    return float((both[union > 0] / union[union > 0]).mean())


def _loss(item: Cached, weight: Tensor, bias: Tensor | None, way: Way) -> Tensor:
    logits = classify(item, weight, bias, way)
    labels = item.labels[None, None].float()
    # The class at the center of a cell: shares of classes would blur the target.
    cells = F.interpolate(labels, size=logits.shape[-2:], mode="nearest-exact")[0].long()
    return F.cross_entropy(logits, cells, ignore_index=IGNORE_INDEX)


def classify(item: Cached, weight: Tensor, bias: Tensor | None, way: Way) -> Tensor:
    """Compute the logits (1, K, H / 4, W / 4) of upsampled features."""
    K, groups = len(weight), way.groups
    # Each group of channels gives K maps of its own, which are upsampled by its weights and added.
    parts = torch.cat(weight.chunk(groups, 1))  # (groups * K, C / groups, 1, 1)
    coarse = F.conv2d(item.features[None].float(), parts, groups=groups)
    images = item.image[None].float() / 255
    fine = way.upsample(images, coarse, [side // _FINE for side in images.shape[-2:]])
    logits = fine.reshape(1, groups, K, *fine.shape[-2:]).sum(1)
    return logits if bias is None else logits + bias[:, None, None]
