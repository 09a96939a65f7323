"""Scores of label maps: mIoU, pixel accuracy, boundary IoU and mBA, counted over a whole set.

Stand-alone: arrays, tensors, lists of them, or two folders of PNGs; no model and no data set.
Importing it loads torch and numpy alone.

| to score | call |
|---|---|
| label maps in memory | `evaluate(predictions, labels, num_classes)` |
| two folders of PNGs | `evaluate_folders(predictions, labels, num_classes)` |
| image by image, or in several processes | `SegmentationScores` |

IoU comes from integer counts that are summed over the set and divided once at the end: a mean of
scores per image would weigh a class by the number of images it is in. The core is functional
(`confusion_matrix`, `boundary_counts`, `boundary_accuracy`); `SegmentationScores` only gathers its
results, so the parts of several processes merge to exactly the scores of one.
"""

from pna.metrics.boundary_iou import BoundaryCounts, boundary, boundary_counts
from pna.metrics.confusion import confusion_matrix
from pna.metrics.mba import boundary_accuracy, boundary_regions
from pna.metrics.scores import Scores, SegmentationScores
from pna.metrics.sets import evaluate, evaluate_folders

__all__ = [
    "BoundaryCounts",
    "Scores",
    "SegmentationScores",
    "boundary",
    "boundary_accuracy",
    "boundary_counts",
    "boundary_regions",
    "confusion_matrix",
    "evaluate",
    "evaluate_folders",
]
