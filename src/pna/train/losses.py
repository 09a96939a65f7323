"""Losses of a progressive output: the coarse logits, every stage and the auxiliary heads.

Every output is brought to the picture's size by the model's own `upsample` and scored against the
labels there (paper, "Loss"; weights as released: coarse 1.0, every stage 0.1, auxiliary 0.4).
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pna.labels import IGNORE_INDEX
from pna.model.segmenter import SegmenterOutput
from pna.train.recipe import LossSection

Upsample = Callable[[Tensor, tuple[int, int]], Tensor]
Kind = Literal["cross_entropy", "hard_pixels"]


class _Term(NamedTuple):
    name: str
    logits: Tensor  # at its own stride
    weight: float
    kind: Kind


def count_valid(labels: Tensor) -> Tensor:
    """Number of pixels that are not ignored, as an int64 scalar on the labels' device."""
    return (labels != IGNORE_INDEX).sum()


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the valid pixels; 0 (with a graph) where there are none.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64, 255 ignored.
    """
    return _pixel_losses(logits, labels, "sum") / count_valid(labels).clamp(min=1)


def hard_pixel_cross_entropy(logits: Tensor, labels: Tensor, *, share: float = 0.2) -> Tensor:
    """Mean cross-entropy over the hardest valid pixels of the batch; 0 where none are valid.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64, 255 ignored.
        share: Part of the *valid* pixels that is kept, at least one pixel.
    """
    losses = _pixel_losses(logits, labels, "none")
    num_valid = int(count_valid(labels))
    if num_valid == 0:
        return losses.sum()  # ignored pixels have loss 0 and gradient 0
    # For the same reason an ignored pixel can't push a valid one out that has a loss.
    hardest = losses.topk(max(1, int(share * num_valid)), sorted=False).values
    return hardest.mean()


def _pixel_losses(logits: Tensor, labels: Tensor, reduction: Literal["sum", "none"]) -> Tensor:
    """Cross-entropy in float32: the sum, or of each pixel (B * H * W,), 0 where ignored."""
    # As a list of pixels: the stages' logits are channels-last inside, so this copies nothing, and
    # a softmax over the last axis takes half the time of one over the second (measured on a CPU).
    pixels = logits.permute(0, 2, 3, 1).flatten(end_dim=2).float()  # (B * H * W, K)
    return F.cross_entropy(pixels, labels.flatten(), ignore_index=IGNORE_INDEX, reduction=reduction)


def segmentation_loss(
    output: SegmenterOutput, labels: Tensor, upsample: Upsample, weights: LossSection
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the losses of all outputs, in float32 even under autocast.

    Args:
        output: What the model returned in training mode.
        labels: (B, H, W) int64, 255 ignored.
        upsample: The model's `upsample(logits, (H, W))`.
        weights: Weight and kind of each loss. Outputs of weight 0 are not computed.

    Returns:
        The total (scalar, with a graph) and its unweighted parts by name (P0, P1, ..., and the
        names of the auxiliary outputs), detached.
    """
    height, width = labels.shape[-2:]
    total = labels.new_zeros((), dtype=torch.float32)
    parts: dict[str, Tensor] = {}
    with torch.autocast(labels.device.type, enabled=False):
        for term in _terms(output, weights):
            full = _full_size(term.logits, output, upsample, (height, width))
            part = _loss(full, labels, term.kind, weights.hard_share)
            total = total + term.weight * part
            parts[term.name] = part.detach()
    return total, parts


def _terms(output: SegmenterOutput, weights: LossSection) -> Iterator[_Term]:
    """The outputs that have a weight, coarse to fine, auxiliary ones last."""
    terms = [_Term("P0", output.coarse, weights.coarse, weights.coarse_kind)]
    for number, logits in enumerate(output.stages, start=1):
        terms.append(_Term(f"P{number}", logits, weights.stage, weights.stage_kind))
    terms += [_Term(name, x, weights.aux, "cross_entropy") for name, x in output.aux.items()]
    return (term for term in terms if term.weight > 0)


def _full_size(
    logits: Tensor, output: SegmenterOutput, upsample: Upsample, size: tuple[int, int]
) -> Tensor:
    # The model has upsampled its finest output already: `output.logits`. Doing it again costs a
    # fifth of all the upsampling, but half-precision logits are interpolated once more in float32.
    finest = output.stages[-1] if output.stages else output.coarse
    if logits is finest and output.logits.dtype == torch.float32:
        return output.logits
    return upsample(logits.float(), size)


def _loss(logits: Tensor, labels: Tensor, kind: Kind, hard_share: float) -> Tensor:
    if kind == "hard_pixels":
        return hard_pixel_cross_entropy(logits, labels, share=hard_share)
    return cross_entropy(logits, labels)
