"""Scores of label maps: IoU, pixel accuracy and boundary IoU, counted over a whole set.

Everything comes from integer counts that are summed over the set and divided once at the end: a
mean of per-picture scores would weigh a class by how many pictures it happens to be in. The core
is functional (`confusion`, `boundary_iou`); `scores` only adds the counts up, so counts gathered
by several processes merge to exactly what one would have found.
"""

from pna.metrics.boundary_iou import BoundaryCounts, boundary, boundary_counts
from pna.metrics.confusion import confusion_matrix
from pna.metrics.scores import Scores, SegmentationScores

__all__ = [
    "BoundaryCounts",
    "Scores",
    "SegmentationScores",
    "boundary",
    "boundary_counts",
    "confusion_matrix",
]
