"""What each of several processes counted, and how it is put together."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch.distributed
from torch import Tensor

from pna.labels import LabelSpace
from pna.metrics import SegmentationScores


@dataclass
class Share:
    """What one process found in its share of the pictures.

    Attributes:
        labels: The label space scored in.
        boundary_width: Width of the boundary region in pixels.
        counts: Counts by stage; empty if the process had no picture.
        unreadable: What is wrong with the samples that were left out, by index.
        error: What ended the process's share early.
    """

    labels: LabelSpace
    boundary_width: int
    counts: dict[str, SegmentationScores] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)
    error: Exception | None = None

    def update(self, stage: str, prediction: Tensor, labels: Tensor) -> None:
        """Count a label map (H, W) of a stage against the true one."""
        self._state(stage).update(prediction, labels)

    def merge(self, other: "Share") -> None:
        """Add what another process found.

        Raises:
            Exception: What ended the other share early.
        """
        if other.error is not None:
            raise other.error
        for stage, counts in other.counts.items():
            self._state(stage).merge(counts)
        self.unreadable = dict(sorted((self.unreadable | other.unreadable).items()))

    @contextmanager
    def failing(self, world_size: int) -> Iterator[None]:
        """Keep an error for `merge` where others would wait for this process forever."""
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
    """Put the shares of all processes together; each calls this, and each gets the whole.

    Raises:
        Exception: What ended one of the shares early, in every process.
    """
    if world_size == 1:
        return share
    shares: list[Share | None] = [None] * world_size
    torch.distributed.all_gather_object(shares, share)
    total = Share(share.labels, share.boundary_width)
    for part in shares:
        assert part is not None
        total.merge(part)
    return total
