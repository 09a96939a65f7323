"""Encoders of a checkpoint, as timm's: ResNets with a deep stem, and Swin.

Depth and stem of a ResNet, and width, depth and window of a Swin, are read off the tensors.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from pna.errors import PnaError
from pna.model.checkpoints.names import Part, count_of, shape_of, substitute
from pna.model.config import ModelOptions

_DEPTHS = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
_STEMS = {32: "c", 64: "s"}  # width of the stem's first convolution, timm's letter
_SWINS = {
    # Channels of the first level, blocks of each stage, side of the window.
    (96, (2, 2, 6, 2), 7): "swin_tiny_patch4_window7_224",
    (96, (2, 2, 18, 2), 7): "swin_small_patch4_window7_224",
    (128, (2, 2, 18, 2), 7): "swin_base_patch4_window7_224",
    (128, (2, 2, 18, 2), 12): "swin_base_patch4_window12_384",
    (192, (2, 2, 18, 2), 7): "swin_large_patch4_window7_224",
    (192, (2, 2, 18, 2), 12): "swin_large_patch4_window12_384",
}

_MM_STEM = {r"conv1\.": "stem.", r"bn1\.": "stem.7."}
_D2_STEM = {
    r"conv1\.0\.": "stem.conv1.",
    r"conv1\.1\.": "stem.conv1.norm.",
    r"conv1\.3\.": "stem.conv2.",
    r"conv1\.4\.": "stem.conv2.norm.",
    r"conv1\.6\.": "stem.conv3.",
    r"bn1\.": "stem.conv3.norm.",
}
_D2_BLOCK = {
    r"conv(\d)\.": r"conv\1.",
    r"bn(\d)\.": r"conv\1.norm.",
    r"downsample\.0\.": "shortcut.",
    r"downsample\.1\.": "shortcut.norm.",
}
_SWIN_BLOCK = {
    r"attn\.": "attn.w_msa.",
    r"mlp\.fc1\.": "ffn.layers.0.0.",
    r"mlp\.fc2\.": "ffn.layers.1.",
}


def mm_encoder(state: Mapping[str, Tensor]) -> Part:
    """Recognize the encoder of an mmsegmentation checkpoint, under `backbone.`.

    Raises:
        PnaError: It is no ResNet with a deep stem and no Swin, or one that timm has not.
    """
    if "backbone.patch_embed.projection.weight" in state:
        return _swin(state)
    if "backbone.stem.0.weight" not in state:
        raise PnaError(
            "expected backbone.stem.0.weight (ResNetV1c) or backbone.patch_embed.projection.weight "
            "(Swin), got neither: other backbones are not read"
        )
    name = _resnet(state, r"backbone\.layer{stage}\.(\d+)\.", "backbone.stem.0.weight", first=1)
    # Blocks have timm's names.
    return Part(name, lambda key: f"backbone.{substitute(_MM_STEM, key.removeprefix('body.'))}")


def d2_encoder(state: Mapping[str, Tensor]) -> Part:
    """Recognize the encoder of a detectron2 checkpoint, under `backbone.` or inside its pyramid.

    Raises:
        PnaError: It is no ResNet with a deep stem, or one that timm has not.
    """
    inside = any(name.startswith("backbone.bottom_up.") for name in state)
    home = "backbone.bottom_up." if inside else "backbone."
    stem = f"{home}stem.conv1.weight"
    if f"{home}stem.conv3.weight" not in state:
        raise PnaError(
            f"expected {home}stem.conv3.weight, of a ResNet with a deep stem (DeepLab's R-52 and "
            "R-103), got none: other backbones are not read"
        )
    name = _resnet(state, re.escape(home) + r"res{stage}\.(\d+)\.", stem, first=2)

    def rename(key: str) -> str:
        key = key.removeprefix("body.")
        if match := re.match(r"layer(\d)\.(\d+)\.", key):
            block = f"res{int(match[1]) + 1}.{match[2]}."
            return home + block + substitute(_D2_BLOCK, key[match.end() :])
        return home + substitute(_D2_STEM, key)

    return Part(name, rename)


def _resnet(state: Mapping[str, Tensor], block: str, stem: str, *, first: int) -> str:
    depths = tuple(count_of(state, block.replace("{stage}", str(first + i))) for i in range(4))
    width = shape_of(state, stem)[0]
    if depths not in _DEPTHS or width not in _STEMS:
        raise PnaError(
            f"expected a ResNet of {', '.join(map(str, _DEPTHS.values()))} layers with a stem that "
            f"starts {' or '.join(map(str, _STEMS))} wide, got stages of {depths} blocks and a "
            f"stem of {width} channels: timm has no such ResNet"
        )
    return f"resnet{_DEPTHS[depths]}{_STEMS[width]}"


def _swin(state: Mapping[str, Tensor]) -> Part:
    table = "backbone.stages.0.blocks.0.attn.w_msa.relative_position_bias_table"
    # One entry per offset of two cells in a window, 2 w - 1 along each axis.
    window = (round(shape_of(state, table)[0] ** 0.5) + 1) // 2
    depths = tuple(count_of(state, rf"backbone\.stages\.{i}\.blocks\.(\d+)\.") for i in range(4))
    channels = shape_of(state, "backbone.patch_embed.projection.weight")[0]
    if (found := (channels, depths, window)) not in _SWINS:
        raise PnaError(
            f"expected a Swin of {', '.join(_SWINS.values())}, got {channels} channels, stages of "
            f"{depths} blocks, windows of {window}: timm has no such Swin"
        )

    def rename(key: str) -> str:
        if match := re.match(r"norms\.(\d)\.", key):
            return f"backbone.norm{match[1]}.{key[match.end() :]}"
        key = key.removeprefix("body.")
        if match := re.match(r"layers_(\d)\.downsample\.", key):
            # timm merges patches at the beginning of a stage, mmsegmentation at the end.
            return f"backbone.stages.{int(match[1]) - 1}.downsample.{key[match.end() :]}"
        if match := re.match(r"layers_(\d)\.blocks\.(\d+)\.", key):
            block = f"backbone.stages.{match[1]}.blocks.{match[2]}."
            return block + substitute(_SWIN_BLOCK, key[match.end() :])
        return f"backbone.{key.replace('patch_embed.proj.', 'patch_embed.projection.')}"

    return Part(_SWINS[found], rename, ModelOptions(dense_swin=True), _order_merged_patches)


def _order_merged_patches(key: str, tensor: Tensor) -> Tensor:
    """Bring inputs of patch merging from (channel, row, column) to (column, row, channel)."""
    if ".downsample." not in key:
        return tensor
    channels = tensor.shape[-1] // 4
    # (..., channel, row, column) -> (..., column, row, channel), of which timm's inputs are a row.
    return tensor.reshape(*tensor.shape[:-1], channels, 2, 2).transpose(-1, -3).flatten(-3)
