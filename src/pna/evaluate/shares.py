"""The counts of each of several processes, and their sum."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch.distributed
from torch import Tensor

from pna.labels import LabelSpace
from pna.metrics import SegmentationScores, boundary_regions


def find_processes() -> tuple[int, int]:
    """Return the rank of this process and the number of processes in torch's process group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


@dataclass
class Share:
    """The counts of one process over its share of the images.

    Attributes:
        labels: The label space scored in.
        boundary_width: Width of the boundary region in pixels.
        counts: Counts by stage; empty if the process had no image.
        num_samples: Samples counted or left out.
        unreadable: Messages about the samples that were left out, by index.
        error: The exception that ended the process's share early.
    """

    labels: LabelSpace
    boundary_width: int
    counts: dict[str, SegmentationScores] = field(default_factory=dict)
    num_samples: int = 0
    unreadable: dict[int, str] = field(default_factory=dict)
    error: Exception | None = None

    def update(self, labels: Tensor, predictions: Mapping[str, Tensor]) -> None:
        """Count the label maps (H, W) of all stages against the true one."""
        labels = labels.to(next(iter(predictions.values())).device, non_blocking=True)
        # All stages share the truth, so its regions are computed once.
        regions = boundary_regions(labels)
        for stage, prediction in predictions.items():
            self._state(stage).update(prediction, labels, regions=regions)

    def merge(self, other: "Share") -> None:
        """Add the counts of another process.

        Raises:
            Exception: The one that ended the other share early.
        """
        if other.error is not None:
            raise other.error
        for stage, counts in other.counts.items():
            self._state(stage).merge(counts)
        self.num_samples += other.num_samples
        # By index, so that the report is the same for any number of processes.
        self.unreadable = dict(sorted((self.unreadable | other.unreadable).items()))

    @contextmanager
    def keeping_error(self, world_size: int) -> Iterator[None]:
        """Keep an exception for `merge` where other processes would wait for this one forever."""
        try:
            yield
        except Exception as error:
            if world_size == 1:
                raise
            self.error = error

    def _state(self, stage: str) -> SegmentationScores:
        if stage not in self.counts:
            self.counts[stage] = SegmentationScores(
                self.labels.num_classes,
                scored=self.labels.scored,
                boundary_width=self.boundary_width,
            )
        return self.counts[stage]


def exchange(share: Share, world_size: int) -> Share:
    """Sum the shares of all processes; each calls this, and each gets the sum.

    Raises:
        Exception: The one that ended one of the shares early, in every process.
    """
    if world_size == 1:
        return share
    shares: list[Share | None] = [None] * world_size
    # Counts are a few kilobytes; any backend can gather objects.
    torch.distributed.all_gather_object(shares, share)
    total = Share(share.labels, share.boundary_width)
    for part in shares:
        assert part is not None
        total.merge(part)
    return total
