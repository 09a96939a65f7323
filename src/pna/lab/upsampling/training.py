"""Training of the feature upsampler, without labels and with some.

Without: the features of a reduced image are to become those of the image itself, at all levels of
an encoder, as in NAF (`pna.lab.upsampling.naf`). With: the shares of the objects in coarse cells
are gathered with the same weights and compared with those in fine cells, which says where an edge
is at ratios that no pyramid has.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from pna.data.randomness import mixed_seed
from pna.lab.masks.scenes import Scene, cut_part, read_scene
from pna.model.encoder import TimmEncoder
from pna.model.resize import average

_RATIOS = (2, 4, 8, 16, 32)
_MOST_OBJECTS = 7
_LEAST = 1e-3


class Upsamples(Protocol):
    """A network that upsamples features by an image."""

    def __call__(self, images: Tensor, features: Tensor, size: Sequence[int]) -> Tensor:
        """Upsample (B, C, h, w) to (B, C, *size)."""


class ImageBatch(NamedTuple):
    """Images and the shares of their objects.

    Attributes:
        images: (B, 3, H, W) in [0, 1].
        objects: (B, n, H, W), 0 or 1, with a sum of 1: some objects, and the rest.
    """

    images: Tensor
    objects: Tensor


def draw_images(
    scenes: Sequence[Scene], step: int, *, side: int, batch_size: int, seed: int
) -> ImageBatch:
    """Draw the batch of a step; it depends on the step and the seed alone."""
    images, objects = [], []
    for i in range(batch_size):
        rng = np.random.default_rng(mixed_seed("sample", seed, step, i))
        image, ids = cut_part(*read_scene(scenes[int(rng.integers(len(scenes)))]), side, rng)
        images.append(torch.from_numpy(image).permute(2, 0, 1).float() / 255)
        present = rng.permutation(np.unique(ids))[:_MOST_OBJECTS]
        chosen = torch.zeros(_MOST_OBJECTS + 1, side, side)
        for channel, value in zip(chosen, present, strict=False):
            channel[torch.from_numpy(ids == value)] = 1
        chosen[-1] = 1 - chosen.sum(0)
        objects.append(chosen)
    return ImageBatch(torch.stack(images), torch.stack(objects))


def upsampling_losses(
    network: Upsamples, encoder: TimmEncoder, batch: ImageBatch, step: int
) -> dict[str, Tensor]:
    """Compute the losses of an upsampler.

    Args:
        network: To train.
        encoder: Fixed; its features are the targets.
        batch: Images whose sides are multiples of 64.
        step: Chooses the ratio of the affinity loss.

    Returns:
        "features", the squared error over the variance of the target, averaged over the levels;
        "affinity", the cross-entropy of gathered objects.
    """
    mean, std = (torch.tensor(v)[:, None, None] for v in (encoder.mean, encoder.std))
    side = batch.images.shape[-1]
    with torch.no_grad():
        reduced = average(batch.images, (side // 2, side // 2))
        fine = encoder((batch.images - mean) / std)
        coarse = encoder((reduced - mean) / std)
    errors = []
    for target, source in zip(fine, coarse, strict=True):
        upsampled = network(batch.images, source, target.shape[-2:])
        variance = target.var((0, 2, 3), keepdim=True) + 1e-6
        errors.append(((upsampled - target).square() / variance).mean())
    ratio = _RATIOS[step % len(_RATIOS)]
    return {
        "features": torch.stack(errors).mean(),
        "affinity": affinity_loss(network, batch, ratio),
    }


def affinity_loss(network: Upsamples, batch: ImageBatch, ratio: int) -> Tensor:
    """Compute the cross-entropy of the objects gathered from cells of 2 * ratio pixels."""
    side = batch.images.shape[-1]
    fine = average(batch.objects, (side // 2, side // 2))
    cells = max(1, side // (2 * ratio))
    gathered = network(batch.images, average(batch.objects, (cells, cells)), fine.shape[-2:])
    # Rounding may leave [0, 1], and a share of exactly 0 would cost infinitely much.
    shares = gathered.clamp(0, 1) * (1 - _LEAST) + _LEAST / len(fine[0])
    return -(fine * shares.log()).sum(1).mean()
