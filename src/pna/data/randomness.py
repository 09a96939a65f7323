"""Where the randomness of the data comes from.

Every random choice is a function of numbers that name it: (seed, epoch) for an order, (seed, epoch,
index) for a sample and for what stands in for one that can't be read. None depends on the number of
workers or ranks, or on what was drawn before. That makes a resumed run continue exactly, and N
processes equal one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch

_PURPOSES = {"order": 1, "sample": 2, "substitute": 3}


def mixed_seed(purpose: Literal["order", "sample", "substitute"], *numbers: int) -> int:
    """Hashes numbers into a 64-bit seed.

    Neighbouring numbers give unrelated seeds, and an order never shares its seed with a sample.

    Args:
        purpose: What the seed is for.
        numbers: What names the choice, each 0 or more.
    """
    # With their count, because numpy pads with zeros: (1, 2) and (1, 2, 0) would give one seed.
    sequence = np.random.SeedSequence((_PURPOSES[purpose], len(numbers), *numbers))
    return int(sequence.generate_state(1, np.uint64)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's CPU randomness starts from `seed`; afterwards it is as it was before."""
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would also reset the generators of every accelerator.
        torch.default_generator.manual_seed(seed)
        yield
