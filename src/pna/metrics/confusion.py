"""The confusion matrix: every IoU and accuracy follows from it."""

import torch
from torch import Tensor

from pna.labels import IGNORE_INDEX


def confusion_matrix(prediction: Tensor, labels: Tensor, num_classes: int) -> Tensor:
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
        ValueError: If the shapes differ, a tensor isn't of integers, or a class is out of range.
    """
    check_pair(prediction, labels, num_classes)
    valid = labels != IGNORE_INDEX
    truth = labels[valid].long()
    predicted = prediction[valid].long()
    check_range("labels", truth, num_classes)
    check_range("prediction", predicted, num_classes)
    counts = torch.bincount(truth * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def check_pair(prediction: Tensor, labels: Tensor, num_classes: int) -> None:
    """Raise ValueError unless both are integer maps of one shape and 255 is free to be ignored."""
    if prediction.shape != labels.shape:
        raise ValueError(
            "prediction and labels must have the same shape, got "
            f"{tuple(prediction.shape)} and {tuple(labels.shape)}; bring the logits to the labels' "
            "size before taking the arg max"
        )
    for name, tensor in (("prediction", prediction), ("labels", labels)):
        if tensor.is_floating_point() or tensor.dtype == torch.bool:
            raise ValueError(f"{name} must hold integer classes, got {tensor.dtype}")
    if not 1 <= num_classes <= IGNORE_INDEX:
        raise ValueError(
            f"num_classes must be in [1, {IGNORE_INDEX}], since {IGNORE_INDEX} marks ignored "
            f"pixels; got {num_classes}"
        )


def check_range(name: str, classes: Tensor, num_classes: int) -> None:
    """Raise ValueError if a class lies outside [0, num_classes)."""
    wrong = classes[(classes < 0) | (classes >= num_classes)]
    if wrong.numel():
        raise ValueError(
            f"{name} must be in [0, {num_classes}) where not ignored, got "
            f"{sorted(set(wrong.tolist()))[:8]} ({wrong.numel()} in all)"
        )
