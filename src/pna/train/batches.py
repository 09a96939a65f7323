"""The stream of training batches: a function of (seed, step), whoever prepares it and how many."""

import itertools
from collections.abc import Iterator

from pna.data import (
    Augmented,
    Batch,
    SegmentationDataset,
    StepBatchSampler,
    train_loader,
    train_transform,
)
from pna.train.recipe import DataSection, Recipe


def augment(dataset: SegmentationDataset, data: DataSection, *, seed: int) -> Augmented:
    """`dataset` under the recipe's augmentation, indexed by (epoch, index)."""
    transform = train_transform(
        data.crop,
        scale=data.scale,
        base_size=data.base_size,
        short_sides=data.short_sides,
        flip=data.flip,
        jitter=data.jitter,
    )
    return Augmented(dataset, transform, seed, skip_bad=data.skip_bad)


def step_batches(
    dataset: Augmented,
    recipe: Recipe,
    *,
    start_step: int = 0,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[list[Batch]]:
    """Batches from `start_step` to the end of the schedule.

    A step has the same pictures for any number of processes, accumulated parts and workers.

    Args:
        dataset: The augmented samples.
        recipe: Batch size, accumulation, seed, workers and length of the run.
        start_step: Steps taken already.
        rank: This process's number.
        world_size: Number of processes.

    Yields:
        For every optimizer step, this process's share of it in `accumulation` parts.

    Raises:
        ValueError: The batch size can't be shared out evenly.
    """
    parts, batch_size = recipe.run.accumulation, recipe.run.batch_size
    if batch_size % (parts * world_size):
        raise ValueError(
            f"expected run.batch_size ({batch_size}) to be a multiple of run.accumulation x "
            f"processes ({parts} x {world_size}): change one of them"
        )
    sampler = StepBatchSampler(
        len(dataset),
        batch_size // parts,
        seed=recipe.run.seed,
        start_step=start_step * parts,
        num_steps=max(start_step, recipe.schedule.steps) * parts,
        rank=rank,
        world_size=world_size,
    )
    batches = iter(train_loader(dataset, sampler, num_workers=recipe.data.num_workers))
    while step := list(itertools.islice(batches, parts)):
        yield step
