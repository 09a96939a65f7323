"""Coarse heads of a checkpoint: kind, width and names.

The authors' mmsegmentation branch keeps them under `decode_head.0.`, mmsegmentation itself under
`decode_head.`, with semantic FPN's pyramid under `neck.`. The detectron2 branch has them under
`sem_seg_head.coarse_sem_seg_head.`, with the pyramid beside the encoder.
"""

import re
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from pna.errors import PnaError
from pna.model.checkpoints.names import Part, count_of, shape_of, substitute
from pna.model.config import ModelOptions

D2_COARSE = "sem_seg_head.coarse_sem_seg_head."

# Module paths of our heads on the left, the checkpoint's on the right. A convolution of ours is
# number 0 of its sequence, the norm number 1.
_MM_LAYER = {r"0\.": "conv.", r"1\.": "bn."}
_MM_FCN = {r"convs\.(\d)\.": r"convs.\1.", r"join\.": "conv_cat."}
_MM_PSP = {
    r"pyramid\.branches\.(\d)\.": r"psp_modules.\1.1.",
    r"pyramid\.fuse\.": "bottleneck.",
}
_MM_ASPP = {
    r"pyramid\.pooled\.": "image_pool.1.",
    r"pyramid\.branches\.(\d)\.": r"aspp_modules.\1.",
    r"pyramid\.fuse\.": "bottleneck.",
}
_MM_UPERNET = _MM_PSP | {
    r"laterals\.(\d)\.": r"lateral_convs.\1.",
    r"outputs\.(\d)\.": r"fpn_convs.\1.",
    r"fuse\.": "fpn_bottleneck.",
}
# What names of a head begin with, its kind, and the convolution that is as wide as the head.
_MM_KINDS = (
    ("fpn_bottleneck.", "upernet", _MM_UPERNET, "fpn_bottleneck.conv.weight"),
    ("conv_cat.", "fcn", _MM_FCN, "conv_cat.conv.weight"),
    ("psp_modules.", "psp", _MM_PSP, "bottleneck.conv.weight"),
    ("aspp_modules.", "deeplabv3", _MM_ASPP, "bottleneck.conv.weight"),
)
_MM_PLUS = _MM_ASPP | {r"low_level\.": "c1_bottleneck.", r"decoder\.": "sep_bottleneck."}
# An atrous separable convolution is two of each.
_MM_SEPARABLE = {
    r"0\.": "depthwise_conv.conv.",
    r"1\.": "depthwise_conv.bn.",
    r"3\.": "pointwise_conv.conv.",
    r"4\.": "pointwise_conv.bn.",
}
_D2_LAYER = {r"0\.": "", r"1\.": "norm."}
_D2_ASPP = {
    r"pyramid\.pooled\.": "aspp.convs.4.1.",
    r"pyramid\.branches\.(\d)\.": r"aspp.convs.\1.",
    r"pyramid\.fuse\.": "aspp.project.",
}


def mm_head(state: Mapping[str, Tensor], home: str) -> Part:
    """Recognize a head of mmsegmentation or of the authors' branch of it.

    Args:
        state: All tensors of the network.
        home: What the head's names begin with.

    Raises:
        PnaError: It is none of FCN, PSPNet, DeepLabV3, DeepLabV3+, UPerNet and semantic FPN.
    """
    if f"{home}scale_heads.0.0.conv.weight" in state:
        width = shape_of(state, f"{home}scale_heads.0.0.conv.weight")[0]
        return Part("fpn", partial(_mm_fpn_name, home), ModelOptions(coarse_channels=width))
    if f"{home}c1_bottleneck.conv.weight" in state:
        width = shape_of(state, f"{home}bottleneck.conv.weight")[0]
        rename = partial(_mm_plus_name, home)
        return Part("deeplabv3plus", rename, ModelOptions(coarse_channels=width))
    for mark, kind, table, widest in _MM_KINDS:
        if any(name.startswith(home + mark) for name in state):
            width = shape_of(state, home + widest)[0]
            rename = partial(_name, home, table, _MM_LAYER, "conv_seg.")
            return Part(kind, rename, ModelOptions(coarse_channels=width))
    marks = ", ".join(["scale_heads.", *(mark for mark, *_ in _MM_KINDS)])
    raise PnaError(
        "expected a head of FCN, PSPNet, DeepLabV3, DeepLabV3+, UPerNet or semantic FPN under "
        f"{home}, got names with none of {marks}"
    )


def mm_auxiliary_name(key: str) -> str:
    """Return mmsegmentation's name of a key of the auxiliary head's state dict."""
    return _name("auxiliary_head.", _MM_FCN, _MM_LAYER, "conv_seg.", key)


def d2_head(state: Mapping[str, Tensor]) -> Part:
    """Recognize the coarse head of the detectron2 branch.

    Raises:
        PnaError: It is neither semantic FPN nor DeepLabV3.
    """
    if f"{D2_COARSE}aspp.project.weight" in state:
        width = shape_of(state, f"{D2_COARSE}aspp.project.weight")[0]
        options = ModelOptions(coarse_channels=width, fuse_kernel=1, pool_norm=False)
        rename = partial(_name, D2_COARSE, _D2_ASPP, _D2_LAYER, "predictor.")
        return Part("deeplabv3", rename, options, _pooled_first)
    if f"{D2_COARSE}p2.0.weight" in state:
        width = shape_of(state, f"{D2_COARSE}p2.0.weight")[0]
        # Running statistics are batch norm's alone.
        is_batch = f"{D2_COARSE}p2.0.norm.running_mean" in state
        options = ModelOptions(coarse_channels=width, coarse_norm="batch" if is_batch else "group")
        return Part("fpn", _d2_fpn_name, options)
    raise PnaError(
        f"expected a coarse head of semantic FPN or DeepLabV3 under {D2_COARSE}, got neither "
        "p2.0.weight nor aspp.project.weight"
    )


def check_rates(options: ModelOptions, state: Mapping[str, Tensor]) -> None:
    """Compare the rates with the dilated branches of an atrous pyramid of either code base.

    Raises:
        PnaError: Their numbers differ.
    """
    mm = count_of(state, r"decode_head\.(?:0\.)?aspp_modules\.(\d+)\.") - 1  # one is not dilated
    # In detectron2's the pooled branch is one of the list.
    d2 = count_of(state, re.escape(D2_COARSE) + r"aspp\.convs\.(\d+)\.") - 2
    if len(options.rates or ()) != (expected := max(mm, d2, 0)):
        raise PnaError(
            f"expected rates for {expected} dilated branches, got {options.rates}: pass those it "
            "was trained with"
        )


def _name(
    home: str, modules: Mapping[str, str], layers: Mapping[str, str], classifier: str, key: str
) -> str:
    """Name a key of a head: its module by a table, then convolution, norm or classifier."""
    if key.startswith("classifier.1."):
        return home + classifier + key.removeprefix("classifier.1.")
    *module, layer, leaf = key.split(".")
    path = substitute(modules, ".".join([*module, ""]))
    return home + path + substitute(layers, f"{layer}.") + leaf


def _mm_plus_name(home: str, key: str) -> str:
    is_separable = re.match(r"pyramid\.branches\.[1-9]\d*\.|decoder\.", key)
    return _name(home, _MM_PLUS, _MM_SEPARABLE if is_separable else _MM_LAYER, "conv_seg.", key)


def _mm_fpn_name(home: str, key: str) -> str:
    if match := re.match(r"pyramid\.(laterals|outputs)\.(\d)\.", key):
        kind = {"laterals": "lateral_convs", "outputs": "fpn_convs"}[match[1]]
        return f"neck.{kind}.{match[2]}.conv.{key[match.end() :]}"
    if match := re.match(r"scale_heads\.(\d)\.convs\.(\d)\.", key):
        # Numbers count convolutions and the resizing between them.
        place = f"{home}scale_heads.{match[1]}.{2 * int(match[2])}."
        return place + substitute(_MM_LAYER, key[match.end() :])
    return home + key.replace("classifier.1.", "conv_seg.")


def _d2_fpn_name(key: str) -> str:
    if match := re.match(r"pyramid\.(lateral|output)s\.(\d)\.", key):
        return f"backbone.fpn_{match[1]}{int(match[2]) + 2}.{key[match.end() :]}"
    if match := re.match(r"scale_heads\.(\d)\.convs\.(\d)\.", key):
        home = f"{D2_COARSE}p{int(match[1]) + 2}.{2 * int(match[2])}."
        return home + substitute(_D2_LAYER, key[match.end() :])
    return D2_COARSE + key.replace("classifier.1.", "predictor.")


def _pooled_first(key: str, tensor: Tensor) -> Tensor:
    """Move the pooled branch, which detectron2 joins last, to its place here, the first."""
    if key != "pyramid.fuse.0.weight":
        return tensor
    width = tensor.shape[0]
    return torch.cat([tensor[:, -width:], tensor[:, :-width]], dim=1)
