"""Parameters and multiply-accumulates of a model, part by part.

A multiply-accumulate is one term of a convolution, a linear layer or a matrix product. The product
of the neighborhood attention is counted apart, since the paper's table leaves it out. The model is
copied to the meta device, so that nothing is computed and no memory is needed.
"""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pna.model.segmenter import BaseSegmenter
from pna.ops.windows import window_size

# Title and attribute of the parts before refinement, of a cascade and of a segmenter.
UNREFINED = (
    ("wrapped model", "base"),
    ("encoder", "encoder"),
    ("neck", "neck"),
    ("coarse head", "coarse"),
)


class PartCounts(NamedTuple):
    """Counts of one part of a model.

    Attributes:
        part: Its name, such as "encoder" or "stage 2".
        parameters: Number of parameters.
        macs: Multiply-accumulates for one image, without the attention product.
        attention_macs: Those of the attention product.
    """

    part: str
    parameters: int
    macs: int
    attention_macs: int


def count(model: BaseSegmenter, size: tuple[int, int]) -> list[PartCounts]:
    """Count parameters and multiply-accumulates of each part of a model at inference.

    Args:
        model: Any segmenter.
        size: (H, W) of the image.

    Returns:
        Encoder, neck and coarse head (or the wrapped model), each stage (a baseline as one part),
        and last the auxiliary head, which does not run at inference.
    """
    macs = _trace(model, size)
    parts: list[tuple[str, str, nn.Module | None]] = [
        (title, path, getattr(model, path, None)) for title, path in UNREFINED
    ]
    stages = getattr(model.refiner, "stages", None)
    if stages is None:
        parts.append(("refinement", "refiner", model.refiner))
    else:
        parts += [(f"stage {m}", f"refiner.stages.{m - 1}", s) for m, s in enumerate(stages, 1)]
    parts.append(("auxiliary head", "auxiliary", getattr(model, "auxiliary", None)))
    return [
        PartCounts(
            title,
            sum(p.numel() for p in module.parameters()),
            macs.get(path, (0, 0))[0],
            macs.get(path, (0, 0))[1],
        )
        for title, path, module in parts
        if module is not None
    ]


def _trace(model: BaseSegmenter, size: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Count multiply-accumulates (others, attention) by path of the module."""
    # On the meta device shapes are computed and numbers are not.
    skeleton = copy.deepcopy(model).to("meta").eval()
    operator = torch.ops.pna.blocked_attention
    mapping: dict[Any, Any] = {operator: _attention_flops}
    if hasattr(torch.ops.torchvision, "deform_conv2d"):  # a model that needs it has imported it
        mapping[torch.ops.torchvision.deform_conv2d] = _deformable_flops
    mode = FlopCounterMode(display=False, custom_mapping=mapping)
    # With gradients no map is cut into strips, whose overlap is not the model's work.
    with torch.enable_grad(), mode:
        skeleton(torch.empty(1, len(model.mean), *size, device="meta", dtype=model.mean.dtype))
    root = type(skeleton).__name__
    # FlopCounterMode counts a multiply-accumulate as two operations, hence the halves.
    macs = {}
    for path, flops in mode.get_flop_counts().items():
        attention = flops.get(operator, 0)
        macs[path.removeprefix(f"{root}.")] = (
            (sum(flops.values()) - attention) // 2,
            attention // 2,
        )
    return macs


def _attention_flops(
    query: Sequence[int],
    key: Sequence[int],
    value: Sequence[int],
    bias: Any,
    window: int,
    dilation: int,
    *args: Any,
    **kwargs: Any,
) -> int:
    # Two products per query and key of its window: of query and key (d), of weight and value.
    B, heads, H, W, d = query
    keys = window_size(key[2], window, dilation) * window_size(key[3], window, dilation)
    return 2 * B * heads * H * W * keys * (d + value[-1])


def _deformable_flops(
    x: Sequence[int], weight: Sequence[int], offset: Sequence[int], *args: Any, **kwargs: Any
) -> int:
    B, _, H, W = offset
    out_channels, in_channels, kernel_height, kernel_width = weight
    return 2 * B * H * W * out_channels * in_channels * kernel_height * kernel_width
