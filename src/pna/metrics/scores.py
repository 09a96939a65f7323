"""From counts to scores: a thin state that adds up, and the shares it divides out."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pna.labels import IGNORE_INDEX
from pna.metrics.boundary_iou import boundary_counts
from pna.metrics.confusion import check_range, confusion_matrix


@dataclass(frozen=True)
class Scores:
    """What a set of label maps scored. All shares are in [0, 1]; NaN means there was nothing.

    Attributes:
        miou: Mean IoU over the classes in `scored` that occur in truth or prediction.
        iou: IoU of every class; NaN where the class is in neither truth nor prediction.
        pixel_accuracy: Share of the labelled pixels, of all classes, that are right.
        boundary_miou: Mean boundary IoU over the classes in `scored` that have a boundary.
        boundary_iou: Boundary IoU of every class; NaN where absent.
        boundary_width: Width of the boundary region in pixels.
        scored: The classes that enter the two means.
        num_pixels: Labelled pixels counted.
        num_ignored: Pixels left out because their label is 255.
    """

    miou: float
    iou: tuple[float, ...]
    pixel_accuracy: float
    boundary_miou: float
    boundary_iou: tuple[float, ...]
    boundary_width: int
    scored: tuple[int, ...]
    num_pixels: int
    num_ignored: int

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain values for JSON; NaN, which JSON doesn't know, as None."""
        return {key: _plain(value) for key, value in asdict(self).items()}


class SegmentationScores:
    """Counts of a set of label maps, added up picture by picture, on the CPU.

    The four counts are public int64 tensors; sum them over processes, or `merge` whole objects.

    Args:
        num_classes: Number of classes K.
        scored: Classes that enter the means; None takes all of them.
        boundary_width: Width of the boundary region in pixels.

    Attributes:
        confusion: (K, K), row = truth, column = prediction.
        boundary_intersection: (K,).
        boundary_union: (K,).
        num_ignored: A scalar tensor.
    """

    def __init__(
        self, num_classes: int, *, scored: Sequence[int] | None = None, boundary_width: int = 3
    ) -> None:
        self.num_classes = num_classes
        self.scored = tuple(range(num_classes)) if scored is None else tuple(scored)
        self.boundary_width = boundary_width
        check_range("scored", torch.tensor(self.scored, dtype=torch.int64), num_classes)
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.boundary_intersection = torch.zeros(num_classes, dtype=torch.int64)
        self.boundary_union = torch.zeros(num_classes, dtype=torch.int64)
        self.num_ignored = torch.zeros((), dtype=torch.int64)

    def update(self, prediction: Tensor, labels: Tensor) -> None:
        """Add pictures of one size.

        Args:
            prediction: (H, W) or (B, H, W) integers, any device.
            labels: Same shape, 255 ignored.
        """
        confusion = confusion_matrix(prediction, labels, self.num_classes)
        edges = boundary_counts(prediction, labels, self.num_classes, width=self.boundary_width)
        self.confusion += confusion.cpu()
        self.boundary_intersection += edges.intersection.cpu()
        self.boundary_union += edges.union.cpu()
        self.num_ignored += (labels == IGNORE_INDEX).sum().cpu()

    def merge(self, other: "SegmentationScores") -> None:
        """Add the counts of another set, for example another process's share of the pictures."""
        mine = (self.num_classes, self.scored, self.boundary_width)
        theirs = (other.num_classes, other.scored, other.boundary_width)
        if mine != theirs:
            raise ValueError(
                "only counts taken the same way add up: expected (classes, scored, boundary width) "
                f"= {mine}, got {theirs}"
            )
        self.confusion += other.confusion
        self.boundary_intersection += other.boundary_intersection
        self.boundary_union += other.boundary_union
        self.num_ignored += other.num_ignored

    def compute(self) -> Scores:
        """Turn the counts into scores; the counts stay as they are."""
        hits = self.confusion.diagonal()
        iou = _ratios(hits, self.confusion.sum(0) + self.confusion.sum(1) - hits)
        boundary_iou = _ratios(self.boundary_intersection, self.boundary_union)
        num_pixels = int(self.confusion.sum())
        return Scores(
            miou=_mean([iou[c] for c in self.scored]),
            iou=iou,
            pixel_accuracy=int(hits.sum()) / num_pixels if num_pixels else math.nan,
            boundary_miou=_mean([boundary_iou[c] for c in self.scored]),
            boundary_iou=boundary_iou,
            boundary_width=self.boundary_width,
            scored=self.scored,
            num_pixels=num_pixels,
            num_ignored=int(self.num_ignored),
        )


def _ratios(part: Tensor, whole: Tensor) -> tuple[float, ...]:
    pairs = zip(part.tolist(), whole.tolist(), strict=True)
    return tuple(a / b if b else math.nan for a, b in pairs)


def _mean(values: Sequence[float]) -> float:
    present = [value for value in values if not math.isnan(value)]
    return math.fsum(present) / len(present) if present else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
