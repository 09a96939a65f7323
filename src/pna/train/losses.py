"""Losses of a progressive output: the coarse logits, every stage and the auxiliary heads.

Every output is brought to the picture's size by the model's own `upsample` and scored against the
labels there (paper, "Loss"; weights as released: coarse 1.0, every stage 0.1, auxiliary 0.4).

Means are taken over a `Scope`: the batch at hand, or the whole of which it is a part. The losses of
all parts then add up to that of the whole, and so do their gradients.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pna.labels import IGNORE_INDEX
from pna.model.segmenter import SegmenterOutput
from pna.train.hard_pixels import Cut, find_cut
from pna.train.own_losses import OwnLosses
from pna.train.recipe import LossSection

Upsample = Callable[[Tensor, tuple[int, int]], Tensor]
Kind = Literal["cross_entropy", "hard_pixels"]

# From as many classes on, the softmax is one over the last axis, of a matrix of pixels. On a CPU
# that takes half the time of one over the second axis, of maps; but five times of it if the
# classes don't fill a vector register, 16 with AVX-512 (`benchmarks/results/cross_entropy.md`), and
# no less for 11 of them where 8 do, with AVX2 (`cross_entropy_avx2.md`).
FEWEST_AS_ROWS = 16


def _alone(counts: Tensor) -> Tensor:
    return counts


class Scope(NamedTuple):
    """What means are taken over.

    Attributes:
        num_valid: Pixels that are not ignored, in all parts on all processes.
        add_up: Sums an int64 tensor over the processes.
        cuts: Where the hardest pixels end, by output, if that has been found beforehand (it must
            be where this process has further parts).
    """

    num_valid: int
    add_up: Callable[[Tensor], Tensor] = _alone
    cuts: Mapping[str, Cut] = MappingProxyType({})


class _Term(NamedTuple):
    name: str
    logits: Tensor  # at its own stride
    weight: float
    kind: Kind


def count_valid(labels: Tensor) -> Tensor:
    """Number of pixels that are not ignored, as an int64 scalar on the labels' device."""
    return (labels != IGNORE_INDEX).sum()


def cross_entropy(logits: Tensor, labels: Tensor, *, scope: Scope | None = None) -> Tensor:
    """Mean cross-entropy over the valid pixels; 0 (with a graph) where there are none.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64, 255 ignored.
        scope: What the mean is taken over; this batch, by default.
    """
    num_valid = int(count_valid(labels)) if scope is None else scope.num_valid
    return _pixel_losses(logits, labels, "sum") / max(1, num_valid)


def hard_pixel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    share: float = 0.2,
    scope: Scope | None = None,
    cut: Cut | None = None,
) -> Tensor:
    """Mean cross-entropy over the hardest valid pixels; 0 (with a graph) where none are valid.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64, 255 ignored.
        share: Part of the scope's *valid* pixels that is kept, at least one pixel.
        scope: Among which pixels these are the hardest; those of this batch, by default.
        cut: Where the hardest end, if that is known already.
    """
    scope = scope or Scope(int(count_valid(labels)))
    losses = _pixel_losses(logits, labels, "none")
    if scope.num_valid == 0:
        return losses.sum()  # ignored pixels have loss 0 and gradient 0
    valid = losses[labels.flatten() != IGNORE_INDEX]
    return (cut or _find_cut([valid], share, scope)).mean(valid)


def _find_cut(losses: Sequence[Tensor], share: float, scope: Scope) -> Cut:
    return find_cut(torch.cat(list(losses)), max(1, int(share * scope.num_valid)), scope.add_up)


def _pixel_losses(logits: Tensor, labels: Tensor, reduction: Literal["sum", "none"]) -> Tensor:
    """Cross-entropy: the sum, or of each pixel (B * H * W,), 0 where ignored."""
    logits = _at_least_float32(logits)
    if logits.shape[1] >= FEWEST_AS_ROWS:
        # A list of pixels: the stages' logits are channels-last inside, so this copies nothing.
        logits = logits.permute(0, 2, 3, 1).flatten(end_dim=2)
        labels = labels.flatten()
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction=reduction)
    return losses.flatten() if reduction == "none" else losses


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def segmentation_loss(
    output: SegmenterOutput,
    labels: Tensor,
    upsample: Upsample,
    weights: LossSection,
    *,
    scope: Scope | None = None,
    own: OwnLosses | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the losses of all outputs, in float32 (or float64) even under autocast.

    Args:
        output: What the model returned in training mode.
        labels: (B, H, W) int64, 255 ignored.
        upsample: The model's `upsample(logits, (H, W))`.
        weights: Weight and kind of each loss. Outputs of weight 0 are not computed.
        scope: What the means are taken over; this batch, by default.
        own: The refiner's own losses, where it has any. They are means over this batch, which
            counts by its share of the scope's valid pixels.

    Returns:
        The total (scalar, with a graph) and its unweighted parts by name (P0, P1, ..., "aux", and
        the refiner's own), detached.
    """
    scope = scope or Scope(int(count_valid(labels)))
    total = labels.new_zeros((), dtype=torch.float32)
    parts: dict[str, Tensor] = {}
    with torch.autocast(labels.device.type, enabled=False):
        for term in _terms(output, weights):
            full = _full_size(term.logits, output, upsample, labels)
            part = _loss(term, full, labels, weights.hard_share, scope)
            total = total + term.weight * part
            parts[term.name] = part.detach()
        share = count_valid(labels) / max(1, scope.num_valid)
        for name, mean in (own(output.aux, labels) if own is not None else {}).items():
            part = share * mean
            total = total + weights.own * part
            parts[name] = part.detach()
    return total, parts


def hard_pixel_losses(
    output: SegmenterOutput, labels: Tensor, upsample: Upsample, weights: LossSection
) -> dict[str, Tensor]:
    """Losses (N,) of the valid pixels, for each output whose loss takes the hardest pixels.

    Args:
        output: As for `segmentation_loss`; so are the others.
        labels: (B, H, W) int64, 255 ignored.
        upsample: The model's `upsample(logits, (H, W))`.
        weights: Weight and kind of each loss.
    """
    valid = labels.flatten() != IGNORE_INDEX
    with torch.autocast(labels.device.type, enabled=False):
        return {
            term.name: _pixel_losses(
                _full_size(term.logits, output, upsample, labels), labels, "none"
            )[valid]
            for term in _terms(output, weights)
            if term.kind == "hard_pixels"
        }


def find_cuts(
    parts: Sequence[Mapping[str, Tensor]], weights: LossSection, scope: Scope
) -> dict[str, Cut]:
    """Where the hardest pixels end in each output, from `hard_pixel_losses` of all parts."""
    if scope.num_valid == 0:
        return {}
    return {
        name: _find_cut([losses[name] for losses in parts], weights.hard_share, scope)
        for name in parts[0]
    }


def _terms(output: SegmenterOutput, weights: LossSection) -> Iterator[_Term]:
    """The outputs that have a weight, coarse to fine, auxiliary ones last."""
    terms = [_Term("P0", output.coarse, weights.coarse, weights.coarse_kind)]
    for number, logits in enumerate(output.stages, start=1):
        terms.append(_Term(f"P{number}", logits, weights.stage, weights.stage_kind))
    if "aux" in output.aux:
        terms.append(_Term("aux", output.aux["aux"], weights.aux, "cross_entropy"))
    return (term for term in terms if term.weight > 0)


def _full_size(
    logits: Tensor, output: SegmenterOutput, upsample: Upsample, labels: Tensor
) -> Tensor:
    # The model has upsampled its finest output already: `output.logits`. Doing it again costs a
    # fifth of all the upsampling, but half-precision logits are interpolated once more in float32.
    finest = output.stages[-1] if output.stages else output.coarse
    if logits is finest and output.logits.dtype in (torch.float32, torch.float64):
        return output.logits
    return upsample(_at_least_float32(logits), (labels.shape[-2], labels.shape[-1]))


def _loss(term: _Term, logits: Tensor, labels: Tensor, hard_share: float, scope: Scope) -> Tensor:
    if term.kind == "cross_entropy":
        return cross_entropy(logits, labels, scope=scope)
    cut = scope.cuts.get(term.name)
    return hard_pixel_cross_entropy(logits, labels, share=hard_share, scope=scope, cut=cut)
