"""Settings beside the weights of some checkpoints: classes, mean and standard deviation."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pna.errors import PnaError
from pna.labels import LabelSpace, generic
from pna.model.checkpoints.names import Content
from pna.model.segmenter import Segmenter

_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def named_classes(content: Content, num_classes: int) -> LabelSpace | None:
    """Return the classes that a checkpoint names, None if it names none.

    Raises:
        PnaError: It names more or fewer than it has outputs, or names or colors repeat.
    """
    if not content.classes:
        return None
    if len(content.classes) != num_classes:
        raise PnaError(
            f"the checkpoint names {len(content.classes)} classes "
            f"({', '.join(content.classes[:3])}{', ...' * (len(content.classes) > 3)}) and has "
            f"{num_classes} outputs: pass the labels that it was trained on (on the command line "
            "--labels)"
        )
    colors: Any = content.palette or generic(num_classes).colors
    return LabelSpace(f"checkpoint-{num_classes}", content.classes, colors)


def check_outputs(num_classes: int) -> None:
    """Refuse a checkpoint of one output, whose arg max would always be class 0.

    Raises:
        PnaError: It has one.
    """
    if num_classes < 2:
        raise PnaError(
            "the checkpoint has one output, a sigmoid's for two classes, and models here take the "
            "largest of two or more: give its classifier two rows, zeros for the background and "
            "its own (weight = torch.cat([0 * weight, weight]), bias likewise), and convert that"
        )


def check_number(labels: LabelSpace, num_classes: int) -> None:
    """Compare the number of classes with that of a checkpoint's outputs.

    Raises:
        PnaError: They differ.
    """
    if labels.num_classes != num_classes:
        raise PnaError(
            f"the checkpoint has {num_classes} outputs, labels {labels.name!r} have "
            f"{labels.num_classes} classes: pass those it was trained on"
        )


def set_normalization(model: Segmenter, state: Mapping[str, Tensor]) -> None:
    """Set the mean and standard deviation of a checkpoint, ImageNet's where it has none.

    Args:
        model: Takes RGB in [0, 1].
        state: May hold `pixel_mean` and `pixel_std`, in 0..255 (detectron2).
    """
    for buffer, name, known in (
        (model.mean, "pixel_mean", _IMAGENET[0]),
        (model.std, "pixel_std", _IMAGENET[1]),
    ):
        values = state[name].flatten() / 255 if name in state else torch.tensor(known)
        buffer.copy_(values.view(3, 1, 1))
