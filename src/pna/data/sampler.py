"""Which samples make up which step: an endless stream of epochs, cut into batches.

Position p of the stream is place `p % n` in the shuffled order of epoch `p // n`; step s holds the
positions `s * batch_size .. (s + 1) * batch_size - 1`, so a batch may reach into the next epoch and
nothing is ever dropped. Each rank takes its slice of the step. Nothing is carried from one step to
the next: resuming needs only the number of the step.
"""

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler

from pna.data.randomness import mixed_seed


class StepBatchSampler(Sampler[list[tuple[int, int]]]):
    """Yields the (epoch, index) keys of one rank's share of each step.

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
        ValueError: If a number is out of its range.
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
            raise ValueError(f"num_samples must be 1 or more, got {num_samples}: no data to sample")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must lie in 0..world_size-1, got {rank=} of {world_size=}")
        if batch_size < 1 or batch_size % world_size:
            raise ValueError(
                "batch_size counts the samples of all ranks and must be a positive multiple of "
                f"world_size, got {batch_size=}, {world_size=}"
            )
        if not 0 <= start_step <= num_steps:
            raise ValueError(
                f"start_step must lie in 0..num_steps, got {start_step=}, {num_steps=}"
            )
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
            epochs = range(first // self.num_samples, (first + share - 1) // self.num_samples + 1)
            orders = {epoch: orders.get(epoch) or self.order(epoch) for epoch in epochs}
            places = (
                divmod(position, self.num_samples) for position in range(first, first + share)
            )
            yield [(epoch, orders[epoch][place]) for epoch, place in places]

    def order(self, epoch: int) -> list[int]:
        """The shuffled indices of one epoch, a permutation of 0..n-1."""
        generator = torch.Generator().manual_seed(mixed_seed("order", self.seed, epoch))
        shuffled: list[int] = torch.randperm(self.num_samples, generator=generator).tolist()
        return shuffled
