"""From counts to scores: a thin state that adds up, and the shares that come of it."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pna.errors import PnaError
from pna.labels import IGNORE_INDEX
from pna.metrics.boundary_iou import boundary_counts
from pna.metrics.confusion import LabelMap, check_range, checked_pair, confusion_matrix
from pna.metrics.mba import boundary_accuracy


@dataclass(frozen=True)
class Scores:
    """Scores of a set of label maps. All shares are in [0, 1]; NaN stands for 0 of 0.

    The classes in the two means are a property of the labels alone: the scored classes that occur
    in them. So every stage of a model, and every model, is averaged over the same classes. A class
    that is predicted but occurs nowhere costs the classes whose pixels it took, and is not in the
    means itself.

    Attributes:
        miou: Mean IoU over the classes `in_mean`.
        iou: IoU of every class; NaN where the class is in neither truth nor prediction.
        pixel_accuracy: Share of the labeled pixels, of all classes, that are right.
        boundary_miou: Mean boundary IoU over the classes `in_mean`.
        boundary_iou: Boundary IoU of every class; NaN where absent.
        boundary_width: Width of the boundary region of boundary IoU in pixels.
        mba: Mean boundary accuracy (see `boundary_accuracy`), the mean over the images.
        scored: The classes that may enter the means.
        in_mean: The scored classes that occur in the labels.
        num_pixels: Labeled pixels counted.
        num_ignored: Pixels left out because their label is 255.
    """

    miou: float
    iou: tuple[float, ...]
    pixel_accuracy: float
    boundary_miou: float
    boundary_iou: tuple[float, ...]
    boundary_width: int
    mba: float
    scored: tuple[int, ...]
    in_mean: tuple[int, ...]
    num_pixels: int
    num_ignored: int

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain values for JSON; NaN, which JSON lacks, as None."""
        return {key: _plain(value) for key, value in asdict(self).items()}


class SegmentationScores:
    """Counts of a set of label maps, added up image by image, on the CPU.

    The counts are public; sum them over processes, or `merge` whole objects.

    Args:
        num_classes: Number of classes K.
        scored: Classes that may enter the means; None takes all of them.
        boundary_width: Width of the boundary region of boundary IoU in pixels.

    Attributes:
        confusion: (K, K) int64, row = truth, column = prediction.
        boundary_intersection: (K,) int64.
        boundary_union: (K,) int64.
        boundary_accuracies: mBA of each image that has a boundary.
        num_ignored: Number of ignored pixels.

    Example:
        >>> state = SegmentationScores(2)
        >>> state.update(torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 1]]))
        >>> state.compute().miou
        0.5
    """

    def __init__(
        self, num_classes: int, *, scored: Sequence[int] | None = None, boundary_width: int = 3
    ) -> None:
        self.num_classes = num_classes
        self.scored = tuple(range(num_classes)) if scored is None else tuple(scored)
        if not self.scored:
            raise PnaError("expected scored classes, at least one, got none; None scores all")
        self.boundary_width = boundary_width
        check_range("scored", torch.tensor(self.scored, dtype=torch.int64), num_classes)
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.boundary_intersection = torch.zeros(num_classes, dtype=torch.int64)
        self.boundary_union = torch.zeros(num_classes, dtype=torch.int64)
        self.boundary_accuracies: list[float] = []
        self.num_ignored = 0

    def update(
        self,
        prediction: LabelMap,
        labels: LabelMap,
        *,
        regions: Sequence[Tensor] | None = None,
    ) -> None:
        """Add an image, or several of one size.

        Args:
            prediction: (H, W) or (B, H, W) integers, any device.
            labels: Same shape, 255 ignored.
            regions: `boundary_regions(labels)` of one image, where several predictions share it.

        Raises:
            PnaError: If the shapes differ, a map isn't of integers, or a class is out of range.
        """
        prediction, labels = checked_pair(prediction, labels, self.num_classes)
        if labels.ndim not in (2, 3):
            raise PnaError(f"expected label maps (H, W) or (B, H, W), got {tuple(labels.shape)}")
        confusion = confusion_matrix(prediction, labels, self.num_classes)
        edges = boundary_counts(prediction, labels, self.num_classes, width=self.boundary_width)
        # All sums on the CPU and only after all checks: an image that raises adds nothing.
        self.confusion += confusion.cpu()
        self.boundary_intersection += edges.intersection.cpu()
        self.boundary_union += edges.union.cpu()
        self.num_ignored += int((labels == IGNORE_INDEX).sum())
        size = labels.shape[-2:]
        pairs = zip(prediction.reshape(-1, *size), labels.reshape(-1, *size), strict=True)
        accuracies = [boundary_accuracy(*pair, regions=regions) for pair in pairs]
        # An image without a boundary has no mBA and is left out of the mean.
        self.boundary_accuracies += [share for share in accuracies if not math.isnan(share)]

    def merge(self, other: "SegmentationScores") -> None:
        """Add the counts of another set, for example another process's share of the images.

        Raises:
            PnaError: If the other counts were taken with other settings.
        """
        mine = (self.num_classes, self.scored, self.boundary_width)
        theirs = (other.num_classes, other.scored, other.boundary_width)
        if mine != theirs:
            raise PnaError(
                "only counts taken the same way add up: expected (classes, scored, boundary width) "
                f"= {mine}, got {theirs}"
            )
        self.confusion += other.confusion
        self.boundary_intersection += other.boundary_intersection
        self.boundary_union += other.boundary_union
        self.boundary_accuracies += other.boundary_accuracies
        self.num_ignored += other.num_ignored

    def compute(self) -> Scores:
        """Turn the counts into scores; the counts stay as they are."""
        hits = self.confusion.diagonal()
        truth = self.confusion.sum(1)
        iou = _ratios(hits, self.confusion.sum(0) + truth - hits)
        boundary_iou = _ratios(self.boundary_intersection, self.boundary_union)
        # By the truth alone: the set of classes must not depend on the predictions.
        in_mean = tuple(c for c in self.scored if truth[c])
        num_pixels = int(truth.sum())
        return Scores(
            miou=_mean([iou[c] for c in in_mean]),
            iou=iou,
            pixel_accuracy=int(hits.sum()) / num_pixels if num_pixels else math.nan,
            boundary_miou=_mean([boundary_iou[c] for c in in_mean]),
            boundary_iou=boundary_iou,
            boundary_width=self.boundary_width,
            mba=_mean(self.boundary_accuracies),
            scored=self.scored,
            in_mean=in_mean,
            num_pixels=num_pixels,
            num_ignored=self.num_ignored,
        )


def _ratios(part: Tensor, whole: Tensor) -> tuple[float, ...]:
    pairs = zip(part.tolist(), whole.tolist(), strict=True)
    return tuple(a / b if b else math.nan for a, b in pairs)


def _mean(values: Sequence[float]) -> float:
    # fsum is exact, so the order in which processes add their images does not matter.
    return math.fsum(values) / len(values) if values else math.nan


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
