"""Boundary IoU: the overlap of the boundary regions of prediction and truth.

The measure of Cheng, Girshick, Dollár, Berg and Kirillov, "Boundary IoU: Improving Object-Centric
Image Segmentation Evaluation", CVPR 2021 (their G_d and P_d), per class and binary, with the
distance d given in pixels rather than as a share of the image's diagonal.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pna.errors import PnaError
from pna.labels import IGNORE_INDEX
from pna.metrics.confusion import LabelMap, checked_pair


def boundary(labels: Tensor, width: int) -> Tensor:
    """Find the pixels that belong to the boundary region of their own class.

    For the mask of one class, the region is the mask minus the mask eroded by a square of radius
    `width`, with everything outside the image counted as background.

    Args:
        labels: (..., H, W) integers; every distinct value is a class of its own, and all values
            are at least 0 (the outside of the image takes -1).
        width: Radius of the square in pixels, at least 1.

    Returns:
        (..., H, W) bool. The boundary region of class c is `boundary(labels, width) & (labels ==
        c)`.

    Example:
        >>> boundary(torch.tensor([[0, 0, 0, 0, 1]] * 5), width=1).int()[2].tolist()
        [1, 0, 0, 1, 1]
    """
    if width < 1:
        raise PnaError(f"a boundary is at least 1 pixel wide, got {width=}")
    if labels.numel() == 0:
        return torch.zeros_like(labels, dtype=torch.bool)
    # A pixel survives the erosion of its class exactly when the whole square around it carries its
    # label, that is when the smallest and the largest label in the square agree: one pass serves
    # all classes, however many there are.
    height, length = labels.shape[-2:]
    maps = labels.reshape(-1, 1, height, length).float()  # exact: labels stay far below 2**24
    maps = F.pad(maps, (width, width, width, width), value=-1.0)  # (N, 1, H + 2w, W + 2w)
    both = torch.cat((maps, -maps), dim=1)  # the minimum is the maximum of the negative
    # A square's maximum is the maximum along the rows of the maximum along the columns.
    pooled = F.max_pool2d(both, (2 * width + 1, 1), stride=1)
    pooled = F.max_pool2d(pooled, (1, 2 * width + 1), stride=1)  # (N, 2, H, W): max, -min
    return (pooled[:, 0] != -pooled[:, 1]).reshape(labels.shape)


class BoundaryCounts(NamedTuple):
    """Per-class pixel counts of the boundary regions, each (K,) int64."""

    intersection: Tensor
    union: Tensor


def boundary_counts(
    prediction: LabelMap, labels: LabelMap, num_classes: int, *, width: int
) -> BoundaryCounts:
    """Count the pixels in the boundary regions of prediction and truth, class by class.

    Ignored pixels are cut out of *both* maps before the regions are taken, as if they were one
    more class. Predictions there never matter, and a prediction that is right on every labeled
    pixel scores 1 even where (as in VOC) a band of ignored pixels hides the edge.

    Args:
        prediction: (..., H, W) integers in [0, num_classes) where the labels are not ignored.
        labels: (..., H, W) integers in [0, num_classes) or 255 (ignored).
        num_classes: Number of classes K, at most 255.
        width: Width of the boundary region in pixels, at least 1.

    Returns:
        Intersections and unions, to be summed over the set.

    Example:
        >>> labels = torch.zeros(8, 9, dtype=torch.int64)
        >>> labels[1:7, 1:7] = 1  # its boundary is a ring of 20 pixels
        >>> counts = boundary_counts(labels.roll(1, dims=1), labels, 2, width=1)
        >>> int(counts.intersection[1]), int(counts.union[1])
        (10, 30)
    """
    prediction, labels = checked_pair(prediction, labels, num_classes)
    # Class K stands for ignored pixels in both maps; its counts are dropped.
    ignored = labels == IGNORE_INDEX
    truth = labels.long().masked_fill(ignored, num_classes)
    predicted = prediction.long().masked_fill(ignored, num_classes)
    truth_edge = boundary(truth, width)
    predicted_edge = boundary(predicted, width)
    shared = truth_edge & predicted_edge & (truth == predicted)

    def count(classes: Tensor, chosen: Tensor) -> Tensor:
        counts = torch.bincount(classes[chosen], minlength=num_classes + 1)
        return counts[:num_classes]  # the last one holds the ignored pixels

    intersection = count(truth, shared)
    # |A or B| = |A| + |B| - |A and B|, so no third pass is needed.
    union = count(truth, truth_edge) + count(predicted, predicted_edge) - intersection
    return BoundaryCounts(intersection, union)
