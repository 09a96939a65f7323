"""Reading by worker processes: batches for training, samples in order for evaluation and checks."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from pna.data.dataset import Batch, Sample
from pna.data.sampler import StepBatchSampler
from pna.errors import PnaError

if TYPE_CHECKING:
    from pna.data.augmented import Augmented

Result = TypeVar("Result")


def train_loader(
    dataset: "Augmented", sampler: StepBatchSampler, *, num_workers: int
) -> "DataLoader[Batch]":
    """Return a loader of one `Batch` for each step of the sampler.

    The batches are the same whatever `num_workers` is.

    Args:
        dataset: Transformed samples of one size.
        sampler: Chooses the samples of each step.
        num_workers: Processes that read and transform; 0 reads in this one.

    Raises:
        PnaError: If the sampler draws from more samples than there are.

    Example:
        >>> from tempfile import mkdtemp
        >>> from pna.data import Augmented, StepBatchSampler, create_dataset, train_transform
        >>> from pna.data.synthetic import write_camvid
        >>> dataset = create_dataset("camvid", write_camvid(mkdtemp()), "train")
        >>> samples = Augmented(dataset, train_transform((64, 64)), seed=0)
        >>> sampler = StepBatchSampler(len(samples), batch_size=2, seed=0, num_steps=3)
        >>> [tuple(b.image.shape) for b in train_loader(samples, sampler, num_workers=0)]
        [(2, 3, 64, 64), (2, 3, 64, 64), (2, 3, 64, 64)]
    """
    if sampler.num_samples > len(dataset):
        raise PnaError(
            f"the sampler draws from {sampler.num_samples} samples, the data set has {len(dataset)}"
        )
    return DataLoader(
        dataset,  # type: ignore[arg-type]  # yields Sample, collated into Batch
        batch_sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        # The sampler runs through all epochs, so workers start once.
        persistent_workers=num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        # A DataLoader draws a number when it starts; from its own generator, not the program's.
        generator=torch.Generator().manual_seed(0),
    )


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one size."""
    return Batch(
        image=torch.stack([sample.image for sample in samples]),
        labels=torch.stack([sample.labels for sample in samples]),
        name=[sample.name for sample in samples],
        unreadable=[message for sample in samples for message in sample.unreadable],
    )


def read_in_order(
    read: Callable[[int], Result], indices: Sequence[int], *, num_workers: int
) -> Iterable[Result]:
    """Call a function for each index, ahead of its use, and yield the results in order.

    The program's random state stays as it is.

    Args:
        read: Takes an index. With workers it runs in other processes, so it and its results are
            pickled, and it returns errors that are meant to keep their message: a `DataLoader`
            puts a traceback in place of it.
        indices: In this order.
        num_workers: Processes that read; 0 reads in this one.

    Raises:
        PnaError: If `num_workers` is below 0.
    """
    if num_workers < 0:
        raise PnaError(f"num_workers must be 0 or more, got {num_workers}")
    return DataLoader(
        _Calls(read, indices),
        batch_size=None,  # one result at a time: images differ in size
        # More workers than indices would start for nothing.
        num_workers=min(num_workers, len(indices)),
        # Results are handed on as they are: the default would turn tuples into lists.
        collate_fn=_as_read,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(0),
    )


class _Calls(Dataset[Any]):
    """A function and its arguments as a data set."""

    def __init__(self, read: Callable[[int], Any], indices: Sequence[int]) -> None:
        self.read = read
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> Any:
        return self.read(self.indices[position])


# A function of the module, not a lambda: workers that are spawned unpickle it.
def _as_read(result: Any) -> Any:
    return result
