"""Scores of masks before and after refinement, image by image: harm counts as much as gain."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from pna.data.pairs import files_by_stem
from pna.data.reading import read_image
from pna.errors import PnaError
from pna.lab.masks.fields import FloatArray
from pna.labels import IGNORE_INDEX
from pna.metrics.boundary_iou import boundary_counts
from pna.metrics.confusion import confusion_matrix
from pna.metrics.mba import boundary_accuracy

BoolArray = npt.NDArray[np.bool_]
RefineForeground = Callable[[npt.NDArray[np.uint8], FloatArray], FloatArray]
"""Image (H, W, 3) and probability of the foreground (H, W) in, the refined one out."""

BOUNDARY_WIDTH = 3
_MOST_CLASSES = 50
WORSE = 0.002
"""An image has lost where its IoU fell by more than this."""


class Pair(NamedTuple):
    """An image with a mask of another network, and the accurate one.

    Attributes:
        name: Stem of the files.
        image: (H, W, 3) RGB.
        given: (H, W) float32, the probability of the foreground.
        truth: (H, W) uint8: 1 foreground, 0 background, 255 not scored.
    """

    name: str
    image: npt.NDArray[np.uint8]
    given: FloatArray
    truth: npt.NDArray[np.uint8]


class MaskScores(NamedTuple):
    """Scores of a mask against the accurate one, each in [0, 1].

    Attributes:
        iou: Of the foreground.
        boundary_iou: Of its boundary, 3 pixels wide.
        mba: Accuracy around the boundary (mBA of CascadePSP).
    """

    iou: float
    boundary_iou: float
    mba: float


class SetScores(NamedTuple):
    """Scores of a set, means over its images.

    Attributes:
        number: Of images.
        before: Of the given masks.
        after: Of the refined masks.
        share_worse: Share of the images whose IoU fell by more than 0.002.
        largest_loss: Of IoU.
        share_changed: Share of the pixels that changed sides.
    """

    number: int
    before: MaskScores
    after: MaskScores
    share_worse: float
    largest_loss: float
    share_changed: float


def score_mask(mask: BoolArray, truth: npt.NDArray[np.uint8]) -> MaskScores:
    """Score a mask (H, W) against the accurate one, which may hold 255 for pixels not scored."""
    predicted = torch.from_numpy(mask.astype(np.int64))
    labels = torch.from_numpy(truth.astype(np.int64))
    matrix = confusion_matrix(predicted, labels, 2)
    edges = boundary_counts(predicted, labels, 2, width=BOUNDARY_WIDTH)
    union = int(matrix[1].sum() + matrix[:, 1].sum() - matrix[1, 1])
    return MaskScores(
        int(matrix[1, 1]) / union if union else 1.0,
        int(edges.intersection[1]) / int(edges.union[1]) if edges.union[1] else 1.0,
        boundary_accuracy(predicted, labels),
    )


def score_set(pairs: Iterable[Pair], refine: RefineForeground) -> SetScores:
    """Refine and score all pairs of a set.

    Raises:
        PnaError: The set is empty.
    """
    before, after, changed = [], [], []
    for pair in pairs:
        refined = refine(pair.image, pair.given) > 0.5
        given = pair.given > 0.5
        before.append(score_mask(given, pair.truth))
        after.append(score_mask(refined, pair.truth))
        changed.append(float((refined != given).mean()))
    if not before:
        raise PnaError("expected images to score, got none")
    losses = [b.iou - a.iou for b, a in zip(before, after, strict=True)]
    return SetScores(
        len(before),
        _mean(before),
        _mean(after),
        sum(loss > WORSE for loss in losses) / len(losses),
        max(losses),
        math.fsum(changed) / len(changed),
    )


def read_pairs(root: Path, method: str) -> Iterator[Pair]:
    """Read the images, accurate masks (`gt`) and masks of a method in a folder of real masks.

    Foreground is all that is not 0 in accurate masks by number, and all that is bright in those by
    color. Masks of a method are gray levels, or numbers of classes.

    Raises:
        PnaError: A file has no partner.
    """
    images = files_by_stem(root / "images", needed_for="the images")
    truths = files_by_stem(root / "gt", needed_for="the accurate masks")
    for stem, file in files_by_stem(root / method, needed_for=f"the masks of {method}").items():
        image_stem = stem if stem in images else stem.rpartition("_")[0]
        if image_stem not in images or stem not in truths:
            raise PnaError(f"{file}: expected an image and an accurate mask of that name, got none")
        image = read_image(images[image_stem])
        given, _ = _values(file)
        truth, has_classes = _values(truths[stem])
        labels = (truth > 0).astype(np.uint8)
        if has_classes:
            labels[truth == IGNORE_INDEX] = IGNORE_INDEX
        # Numbers of classes are low, gray levels of a soft mask are not.
        is_soft = given.max() > _MOST_CLASSES
        foreground = (given / np.float32(255) if is_soft else given > 0).astype(np.float32)
        yield Pair(stem, image, foreground, labels)


def _values(file: Path) -> tuple[npt.NDArray[np.uint8], bool]:
    """Read a mask (H, W), and whether it holds numbers of classes, of which 255 is void."""
    with Image.open(file) as opened:
        values = np.asarray(opened).astype(np.uint8)
    if values.ndim == 3:  # a color, perhaps with soft edges: its brightest channel tells it
        return (values.max(axis=-1) > 127).astype(np.uint8), False
    return values, bool(((values > 0) & (values <= _MOST_CLASSES)).any())


def _mean(scores: Sequence[MaskScores]) -> MaskScores:
    columns = zip(*scores, strict=True)
    return MaskScores(*(float(np.nanmean(column)) for column in columns))
