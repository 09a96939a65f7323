"""Calibration of a mask refiner: a probability of 0.8 is to be right in 80 of 100 pixels.

One temperature divides the logits of both sizes (Guo et al., "On calibration of modern neural
networks", ICML 2017). It is fitted on scenes that were not trained on, where the given mask is
wrong or its edge is near: elsewhere every network is sure and right.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pna.errors import PnaError
from pna.lab.masks.training import Batch, near_edges
from pna.refinement.network import MaskRefiner, mean_probability

_CANDIDATES = torch.logspace(-1, 1, 81, base=10)


def calibrate(network: MaskRefiner, batches: Sequence[Batch]) -> float:
    """Return the temperature, from 0.1 to 10, of the lowest cross-entropy.

    Args:
        network: In evaluation mode; it is not changed.
        batches: Images with a given and an accurate mask each.

    Raises:
        PnaError: No pixel of the batches is near an edge.
    """
    logits, truth = edge_logits(network, batches)
    losses = torch.stack(
        [F.binary_cross_entropy(mean_probability(logits, t), truth) for t in _CANDIDATES]
    )
    return float(_CANDIDATES[losses.argmin()])


def calibration_error(
    network: MaskRefiner, batches: Sequence[Batch], *, temperature: float, bins: int = 10
) -> float:
    """Return the expected calibration error near edges, in [0, 1].

    It is the difference between the mean probability and the share of right pixels, over bins of
    the probability of the more probable side, weighted by their pixels.
    """
    logits, truth = edge_logits(network, batches)
    probability = mean_probability(logits, temperature)
    surest = torch.maximum(probability, 1 - probability)
    is_right = ((probability > 0.5) == (truth > 0.5)).float()
    index = ((surest - 0.5) * 2 * bins).long().clamp(max=bins - 1)
    # Each bin's sum of differences is its mean times its pixels.
    differences = torch.bincount(index, surest - is_right, minlength=bins).abs()
    return float(differences.sum() / len(truth))


def edge_logits(network: MaskRefiner, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
    """Return logits at both sizes (2, N), and the truth (N,), of pixels near an edge."""
    logits, truths = [], []
    with torch.inference_mode():
        for batch in batches:
            is_wrong = (batch.given > 0.5) != (batch.truth > 0.5)
            chosen = near_edges(batch.truth) | near_edges(batch.given) | is_wrong
            logits.append(network.logits_at_sizes(batch.images, batch.given)[:, chosen])
            truths.append(batch.truth[chosen])
    if not sum(map(len, truths)):
        raise PnaError("expected masks with edges to calibrate on, got none")
    return torch.cat(logits, 1), torch.cat(truths)
