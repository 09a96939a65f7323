"""Training of a mask refiner: a third of the masks is right, a third nearly right, the rest coarse.

A refiner that saw coarse masks alone would change right ones: half of what people own is good.
Where masks that networks predicted are at hand (`pna.lab.masks.network_errors`), some are those.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pna.data.randomness import mixed_seed
from pna.lab.masks.coarsen import coarsen, follow_convention, nearly_right
from pna.lab.masks.examples import draw_example
from pna.lab.masks.fields import FloatArray
from pna.lab.masks.scenes import BoolArray, Scene
from pna.model.resize import average
from pna.refinement.network import MaskRefiner, StageResult

_EDGE = 4
"""Pixels around an edge, of the truth or of the given mask, that count more."""
_EDGE_WEIGHT = 4.0
_LEAST = 1e-3
CONVENTIONS = 0.35
"""Share of the examples whose truth follows a convention beside the edges of the image."""


class Batch(NamedTuple):
    """Images with a given and an accurate mask each.

    Attributes:
        images: (B, 3, H, W) in [0, 1].
        given: (B, 1, H, W) probabilities.
        truth: (B, 1, H, W), 0 or 1: what is to come out.
        accurate: (B, 1, H, W), 0 or 1: the object along its edges in the image, as `truth` is but
            for the conventions that some masks follow.
    """

    images: Tensor
    given: Tensor
    truth: Tensor
    accurate: Tensor


def draw_batch(
    scenes: Sequence[Scene],
    step: int,
    *,
    size: tuple[int, int],
    batch_size: int,
    seed: int,
    conventions: float = CONVENTIONS,
) -> Batch:
    """Draw the batch of a step; it depends on the step and the seed alone.

    Args:
        scenes: To choose from.
        step: Its number.
        size: (H, W) of the examples.
        batch_size: Their number.
        seed: Of the run.
        conventions: Share of the examples whose truth follows one: see `follow_convention`.
    """
    examples, given, truths = [], [], []
    for i in range(batch_size):
        rng = np.random.default_rng(mixed_seed("sample", seed, step, i))
        example = draw_example(scenes, size, rng)
        examples.append(example)
        truths.append(example.mask)
        if example.given is None:
            if rng.random() < conventions:
                truths[-1] = follow_convention(example.mask, rng)
            given.append(disturb(truths[-1], rng))
        else:  # most people own masks that are cut
            is_cut = rng.random() < 0.7
            given.append((example.given > 0.5).astype(np.float32) if is_cut else example.given)
    images = torch.from_numpy(np.stack([example.image for example in examples]))
    masks = [truths, [example.mask for example in examples]]
    truth, accurate = (torch.from_numpy(np.stack(each))[:, None].float() for each in masks)
    return Batch(
        images.permute(0, 3, 1, 2).float() / 255,
        torch.from_numpy(np.stack(given))[:, None],
        truth,
        accurate,
    )


def disturb(mask: BoolArray, rng: np.random.Generator) -> FloatArray:
    """Leave a mask (H, W) as it is, move its edge a little, or make it coarse; as float32."""
    kind = rng.random()
    if kind < 1 / 3:
        return mask.astype(np.float32)
    return nearly_right(mask, rng) if kind < 2 / 3 else coarsen(mask, rng)


def refinement_losses(network: MaskRefiner, batch: Batch) -> dict[str, Tensor]:
    """Compute the losses of a refiner.

    Returns:
        "final", the cross-entropy of the last output, more at edges, and a Dice loss; "stages", the
        cross-entropy of the others against the truth averaged to their strides; "affinity", where
        a stage gathers: whether the truth, gathered with its weights, stays the truth.
    """
    *stages, final = network(batch.images, batch.given)
    weights = 1 + _EDGE_WEIGHT * (near_edges(batch.truth) | near_edges(batch.given)).float()
    entropy = F.binary_cross_entropy_with_logits(final.logits, batch.truth, weights)
    losses = {"final": entropy + dice_loss(final.logits.sigmoid(), batch.truth)}
    coarse = [
        F.binary_cross_entropy_with_logits(
            stage.logits, average(batch.truth, stage.logits.shape[-2:])
        )
        for stage in stages
    ]
    if coarse:
        losses["stages"] = 0.5 * torch.stack(coarse).sum()
    affinities = [
        affinity_loss(stage, batch.accurate)
        for stage in [*stages, final]
        if stage.neighborhood is not None
    ]
    if affinities:
        losses["affinity"] = 0.5 * torch.stack(affinities).sum()
    return losses


def affinity_loss(stage: StageResult, truth: Tensor) -> Tensor:
    """Compute the cross-entropy of the truth (B, 1, H, W) gathered with a stage's weights."""
    assert stage.neighborhood is not None
    query, key = stage.neighborhood.query, stage.neighborhood.key
    coarse = average(truth, key.shape[2:4]).permute(0, 2, 3, 1)
    gathered = stage.neighborhood.gather(coarse).permute(0, 3, 1, 2)
    target = average(truth, query.shape[2:4])
    # Rounding may leave [0, 1], and a share of exactly 0 would cost infinitely much.
    shares = gathered.clamp(0, 1) * (1 - 2 * _LEAST) + _LEAST
    return F.binary_cross_entropy(shares, target)


def dice_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """Compute 1 less the Dice coefficient, averaged over the images (Milletari et al., 2016)."""
    overlap = (probabilities * truth).sum((1, 2, 3))
    total = probabilities.sum((1, 2, 3)) + truth.sum((1, 2, 3))
    return (1 - (2 * overlap + 1) / (total + 1)).mean()


def near_edges(mask: Tensor) -> Tensor:
    """Mark pixels within 4 of an edge of a mask (B, 1, H, W): bool, the same shape."""
    side = 2 * _EDGE + 1
    share = (mask > 0.5).float()
    # Rows, then columns: two passes of 9 pixels instead of one of 81.
    for kernel, padding in (((side, 1), (_EDGE, 0)), ((1, side), (0, _EDGE))):
        share = F.avg_pool2d(share, kernel, stride=1, padding=padding, count_include_pad=False)
    return (share > 0) & (share < 1)
