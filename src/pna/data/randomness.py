"""The source of all randomness in the data.

Every random choice is a function of numbers that name it: (seed, epoch) for an order, (seed, epoch,
index) for a sample and for the substitute of one that can't be read. None depends on the number of
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
    """Hash numbers into a 64-bit seed.

    Neighboring numbers give unrelated seeds, and an order never shares its seed with a sample.

    Args:
        purpose: Use of the seed.
        numbers: Name of the choice, each 0 or more.

    Example:
        >>> mixed_seed("order", 0, 1) == mixed_seed("order", 0, 1)
        True
        >>> mixed_seed("order", 0, 1) == mixed_seed("sample", 0, 1)
        False
    """
    # With their count, because numpy pads with zeros: (1, 2) and (1, 2, 0) would give one seed.
    sequence = np.random.SeedSequence((_PURPOSES[purpose], len(numbers), *numbers))
    return int(sequence.generate_state(1, np.uint64)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start torch's CPU randomness from `seed` inside the block, and restore its state afterwards.

    Example:
        >>> with seeded(7):
        ...     first = torch.rand(2)
        >>> with seeded(7):
        ...     print(torch.equal(torch.rand(2), first))
        True
    """
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would also reset the generators of every accelerator.
        torch.default_generator.manual_seed(seed)
        yield
