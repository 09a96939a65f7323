"""The hardest pixels of a step, wherever its parts are: on other processes, or yet to come.

Which pixels are among the hardest share depends on all pixels of the step. Their losses needn't be
brought together for that: the loss at which the share ends is found by counting (a radix search, 16
bits of the number at a time), and counts add up over processes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_DIGIT = 16  # bits found at a time: float32 takes two rounds, float64 four
_BINS = 1 << _DIGIT


class Cut(NamedTuple):
    """Where the hardest pixels end.

    Attributes:
        loss: The smallest loss among them, a scalar of the losses' type.
        tie: The share in [0, 1] by which pixels of exactly that loss count: no process could know
            which of them to take.
        num_pixels: How many are kept over the whole step.
    """

    loss: Tensor
    tie: float
    num_pixels: int

    def mean(self, losses: Tensor) -> Tensor:
        """What `losses` (N,), the valid pixels of one part, add to the mean over the hardest."""
        weights = (losses > self.loss) + self.tie * (losses == self.loss)
        return (weights * losses).sum() / self.num_pixels


def find_cut(losses: Tensor, num_pixels: int, add_up: Callable[[Tensor], Tensor]) -> Cut:
    """The cut that keeps the `num_pixels` largest losses of all processes.

    Args:
        losses: Losses (N,) of this process's valid pixels, 0 or more, float32 or float64; N may
            be 0.
        num_pixels: How many to keep, from 1 to the number of all processes' pixels.
        add_up: Sums an int64 tensor over the processes; every process must call this function.
    """
    # The bits of floats without a sign are in the order of the floats, NaN after infinity.
    as_bits = {torch.float32: torch.int32, torch.float64: torch.int64}[losses.dtype]
    bits = losses.detach().view(as_bits) & torch.iinfo(as_bits).max
    found, missing = 0, num_pixels
    for shift in range(torch.iinfo(as_bits).bits - _DIGIT, -1, -_DIGIT):
        digits = (bits >> shift) & (_BINS - 1)
        counts = add_up(torch.bincount(digits, minlength=_BINS))
        at_or_above = counts.flip(0).cumsum(0)
        place = int((at_or_above < missing).sum())
        digit = _BINS - 1 - place
        num_equal = int(counts[digit])
        missing -= int(at_or_above[place]) - num_equal
        bits = bits[digits == digit]
        found = found << _DIGIT | digit
    loss = torch.tensor(found, dtype=as_bits, device=losses.device).view(losses.dtype)
    return Cut(loss, missing / num_equal, num_pixels)
