"""Batches for training, read by worker processes."""

from collections.abc import Sequence

import torch
from torch.utils.data import DataLoader

from pna.data.augmented import Augmented
from pna.data.dataset import Batch, Sample
from pna.data.sampler import StepBatchSampler


def train_loader(
    dataset: Augmented, sampler: StepBatchSampler, *, num_workers: int
) -> "DataLoader[Batch]":
    """Yields one `Batch` for each step of the sampler, the same whatever `num_workers` is.

    Args:
        dataset: Transformed samples of one size.
        sampler: Which samples make up which step.
        num_workers: Processes that read and transform; 0 reads in this one.

    Raises:
        ValueError: If the sampler draws from more samples than there are.
    """
    if sampler.num_samples > len(dataset):
        raise ValueError(
            f"the sampler draws from {sampler.num_samples} samples, the data set has {len(dataset)}"
        )
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # yields Sample, collated into Batch
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        # A DataLoader draws a number when it starts; from its own generator, not the program's.
        generator=torch.Generator().manual_seed(0),
    )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stacks samples of one size."""
    return Batch(
        picture=torch.stack([sample.picture for sample in samples]),
        labels=torch.stack([sample.labels for sample in samples]),
        name=[sample.name for sample in samples],
        unreadable=[message for sample in samples for message in sample.unreadable],
    )
