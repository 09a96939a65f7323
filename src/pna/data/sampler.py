"""The samples of each step: an endless stream of epochs, cut into batches.

Position p of the stream is entry `p % n` in the shuffled order of epoch `p // n`; step s holds the
positions `s * batch_size .. (s + 1) * batch_size - 1`, so a batch may reach into the next epoch and
nothing is ever dropped. Each rank takes its slice of the step. Nothing is carried from one step to
the next: resuming needs only the number of the step.
"""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from pna.data.randomness import mixed_seed
from pna.errors import PnaError


class StepBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yield the (epoch, index) keys of one rank's share of each step.

    With gradient accumulation over `a` micro-batches, a step here is one micro-batch: pass the size
    of a micro-batch over all ranks, and `a` times the numbers of steps.

    Args:
        num_samples: Size n of the data set.
        batch_size: Samples per step over all ranks, a multiple of `world_size`.
        seed: 0 or more.
        start_step: The first step to yield: how many are done already.
        num_steps: Steps of the whole run; `num_steps - start_step` batches are yielded.
        rank: This process, 0..world_size-1.
        world_size: Number of processes.

    Raises:
        PnaError: If a number is out of its range.

    Example:
        >>> sampler = StepBatchSampler(5, batch_size=2, seed=0, num_steps=3)
        >>> [[epoch for epoch, _ in keys] for keys in sampler]
        [[0, 0], [0, 0], [0, 1]]
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int,
        start_step: int = 0,
        num_steps: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_samples < 1:
            raise PnaError(f"num_samples must be 1 or more, got {num_samples}: no data to sample")
        if not 0 <= rank < world_size:
            raise PnaError(f"rank must lie in 0..world_size-1, got {rank=} of {world_size=}")
        if batch_size < 1 or batch_size % world_size:
            raise PnaError(
                "batch_size counts the samples of all ranks and must be a positive multiple of "
                f"world_size, got {batch_size=}, {world_size=}"
            )
        if not 0 <= start_step <= num_steps:
            raise PnaError(f"start_step must lie in 0..num_steps, got {start_step=}, {num_steps=}")
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.num_steps = num_steps
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.num_steps - self.start_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        share = self.batch_size // self.world_size
        orders: dict[int, list[int]] = {}
        for step in range(self.start_step, self.num_steps):
            first = step * self.batch_size + self.rank * share
            # A share may reach into the next epoch, and with few samples over several.
            epochs = range(first // self.num_samples, (first + share - 1) // self.num_samples + 1)
            # An order is drawn once and dropped with its epoch.
            orders = {epoch: orders.get(epoch) or self.order(epoch) for epoch in epochs}
            entries = (
                divmod(position, self.num_samples) for position in range(first, first + share)
            )
            yield [(epoch, orders[epoch][entry]) for epoch, entry in entries]

    def order(self, epoch: int) -> list[int]:
        """Return the shuffled indices of one epoch, a permutation of 0..n-1."""
        # A generator per epoch, so that an order needs none of the epochs before it.
        generator = torch.Generator().manual_seed(mixed_seed("order", self.seed, epoch))
        shuffled: list[int] = torch.randperm(self.num_samples, generator=generator).tolist()
        return shuffled
