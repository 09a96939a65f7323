"""The confusion matrix: every IoU and accuracy follows from it."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pna.errors import PnaError
from pna.labels import IGNORE_INDEX

LabelMap = Tensor | NDArray[Any]
"""Integer classes: a tensor on any device, or an array."""


def confusion_matrix(prediction: LabelMap, labels: LabelMap, num_classes: int) -> Tensor:
    """Count how often each class was predicted for each true class.

    Args:
        prediction: Predicted classes, any shape, integers in [0, num_classes) wherever the labels
            are not ignored.
        labels: True classes, same shape, integers in [0, num_classes) or 255 (ignored).
        num_classes: Number of classes K, at most 255.

    Returns:
        (K, K) int64 on the device of `labels`; row = truth, column = prediction. Its sum is the
        number of pixels that are not ignored.

    Raises:
        PnaError: If the shapes differ, a map isn't of integers, or a class is out of range.

    Example:
        >>> import numpy as np
        >>> confusion_matrix(np.array([0, 1, 1, 1]), np.array([0, 0, 1, 255]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    prediction, labels = checked_pair(prediction, labels, num_classes)
    valid = labels != IGNORE_INDEX
    truth = labels[valid].long()  # (number of labeled pixels,)
    predicted = prediction[valid].long()
    # Checked, because a class out of range would be counted as another pair without an error.
    check_range("labels", truth, num_classes)
    check_range("prediction", predicted, num_classes)
    # Both classes as one number, so that one count serves all pairs of classes.
    counts = torch.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def checked_pair(
    prediction: LabelMap, labels: LabelMap, num_classes: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return both maps as tensors on the device of the labels.

    Raises:
        PnaError: Unless both are integer maps of one shape and 255 is free to be ignored.
    """
    labels = _as_tensor("labels", labels)
    prediction = _as_tensor("prediction", prediction).to(labels.device)
    if prediction.shape != labels.shape:
        raise PnaError(
            "prediction and labels must have the same shape, got "
            f"{tuple(prediction.shape)} and {tuple(labels.shape)}; bring the logits to the labels' "
            "size before taking the arg max"
        )
    if num_classes is not None and not 1 <= num_classes <= IGNORE_INDEX:
        raise PnaError(
            f"num_classes must be in [1, {IGNORE_INDEX}], since {IGNORE_INDEX} marks ignored "
            f"pixels; got {num_classes}"
        )
    return prediction, labels


def _as_tensor(name: str, classes: LabelMap) -> Tensor:
    if isinstance(classes, np.ndarray) and classes.dtype.kind in "iu":
        # torch lacks most of the arithmetic of uint16, uint32 and uint64.
        wide = classes.dtype.kind == "u" and classes.dtype.itemsize > 1
        array = classes.astype(np.int64) if wide else np.ascontiguousarray(classes)
        # A copy of what must not be written to, or torch warns.
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    if not isinstance(classes, Tensor):
        kind = getattr(classes, "dtype", type(classes).__name__)
        raise PnaError(
            f"{name} must be a tensor or array of integer classes, got {kind}; take the arg max of "
            "scores, cast masks to integers"
        )
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise PnaError(
            f"{name} must hold integer classes, got {classes.dtype}; take the arg max of scores, "
            "cast masks to integers"
        )
    return classes


def check_range(name: str, classes: Tensor, num_classes: int) -> None:
    """Raise a `PnaError` if a class lies outside [0, num_classes)."""
    wrong = classes[(classes < 0) | (classes >= num_classes)]
    if wrong.numel():
        raise PnaError(
            f"{name} must be in [0, {num_classes}) where not ignored, got "
            f"{sorted(set(wrong.tolist()))[:8]} ({wrong.numel()} in all)"
        )
