"""Models of mmsegmentation itself: FCN, PSPNet, DeepLabV3, DeepLabV3+, UPerNet, semantic FPN.

They have the encoders and heads of the authors' branch of it, under `decode_head.` and without a
refinement; `docs/checkpoints.md` says what was compared.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pna.errors import PnaError
from pna.labels import LabelSpace, generic
from pna.model.checkpoints import heads
from pna.model.checkpoints.encoders import mm_encoder
from pna.model.checkpoints.names import Part, shape_of, transfer_parts, unpack, without_prefix
from pna.model.checkpoints.settings import (
    check_number,
    check_outputs,
    named_classes,
    set_normalization,
)
from pna.model.config import ModelOptions
from pna.model.presets import create_model
from pna.model.segmenter import Segmenter

_ATROUS = ("deeplabv3", "deeplabv3plus")


def is_mmsegmentation(content: Any) -> bool:
    """Return whether a checkpoint is of mmsegmentation itself: it has one head, not numbered ones.

    Args:
        content: A state dict, or a container of one.

    Raises:
        PnaError: There are no tensors by name.
    """
    names = unpack(content).state
    return any(re.search(r"(^|\.)decode_head\.(?!\d+\.)", name) for name in names)


def from_mmsegmentation(
    state_dict: Mapping[str, Any],
    *,
    labels: LabelSpace | None = None,
    options: ModelOptions = ModelOptions(),
) -> Segmenter:
    """Build the model that a checkpoint of mmsegmentation holds.

    Args:
        state_dict: Tensors by name, with any prefix, or their container as `torch.load` returns it.
        labels: The classes; by default those that the checkpoint names, else numbers.
        options: What the tensors do not say, where it is not mmsegmentation's default:
            `output_stride` (8 on a ResNet, 32 with UPerNet and semantic FPN), `rates` (12, 24, 36),
            `padding` ("none"), `inference_size` (the image's own).

    Returns:
        A model in evaluation mode, without refinement.

    Raises:
        PnaError: It is no whole checkpoint of these models, or something has to be stated.

    Example:
        >>> import pna
        >>> pna.checkpoints.from_mmsegmentation({"state_dict": {}})
        Traceback (most recent call last):
        ...
        pna.errors.PnaError: expected tensors by name, got 0 entries such as none at all
    """
    content = unpack(state_dict)
    state = without_prefix(content.state, "backbone")
    if any(name.startswith("decode_head.1.") for name in state):
        raise PnaError(
            "the checkpoint has several heads, so it is none of mmsegmentation's own models; "
            "pna.checkpoints.from_authors reads those with a refinement"
        )
    encoder, head = mm_encoder(state), heads.mm_head(state, "decode_head.")
    num_classes = shape_of(state, "decode_head.conv_seg.weight")[0]
    check_outputs(num_classes)
    if labels is None:
        labels = named_classes(content, num_classes) or generic(num_classes)
    check_number(labels, num_classes)
    found = _defaults(state, encoder, head)
    for more in (encoder.options, head.options):
        found = found.over(more)
    options = options.over(found)
    heads.check_rates(options, state)
    model = create_model(
        head.name, labels=labels, encoder=encoder.name, encoder_weights=None, options=options
    )
    auxiliary = Part("fcn", heads.mm_auxiliary_name)
    transfer_parts(model, state, {"encoder": encoder, "coarse": head, "auxiliary": auxiliary})
    set_normalization(model, state)
    return model.eval()


def _defaults(state: Mapping[str, Tensor], encoder: Part, head: Part) -> ModelOptions:
    # A Swin cannot be dilated; UPerNet and semantic FPN want the coarse levels.
    is_dilated = head.name in ("fcn", "psp", *_ATROUS) and encoder.name.startswith("resnet")
    return ModelOptions(
        output_stride=8 if is_dilated else 32,
        rates=(12, 24, 36) if head.name in _ATROUS else None,
        aux=any(name.startswith("auxiliary_head.") for name in state),
        padding="none",
    )
