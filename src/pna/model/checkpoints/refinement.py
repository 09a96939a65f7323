"""Refinement heads that the authors' code has trained, as `PNAHead`.

Their two branches name levels differently (`res2..res5` in the detectron2 branch, `pna0..pna3` in
the mmsegmentation branch) and store 1x1 convolutions as such; everything inside a stage is alike.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from pna.errors import PnaError
from pna.model.checkpoints.names import (
    count_of,
    shape_of,
    transfer,
    unpack,
    without_prefix,
)
from pna.model.pna.config import PNAConfig
from pna.model.pna.head import PNAHead
from pna.model.resize import ResizeMode

SELF_AGGREGATION_NAMES = {
    "norm1.body": "norm_attention",
    "norm2.body": "norm_feed_forward",
    "attn.qkv": "attention.qkv",
    "attn.qkv_dwconv": "attention.qkv_depthwise",
    "attn.temperature": "attention.temperature",
    "attn.project_out": "attention.project",
    "ffn.project_in": "feed_forward.expand",
    "ffn.dwconv": "feed_forward.depthwise",
    "ffn.project_out": "feed_forward.reduce",
}
_STAGE = {
    "norm1": "fusion.neighborhood.norm_feature",
    "norm1_2": "fusion.neighborhood.norm_value",
    "attn.qk": "fusion.neighborhood.query_key",
    "attn.embed_v": "fusion.neighborhood.value",
    "attn.rpb": "fusion.neighborhood.bias_table",
    "attn.proj": "fusion.neighborhood.project",
    "norm2": "fusion.norm_mlp",
    "mlp.fc1": "fusion.mlp.expand",
    "mlp.fc2": "fusion.mlp.reduce",
    "out_norm": "fusion.norm_out",
    **{f"atten1.{a}": f"fusion.self_aggregation.{b}" for a, b in SELF_AGGREGATION_NAMES.items()},
}
_THEIRS = {ours: theirs for theirs, ours in _STAGE.items()}
_OUTER = {
    "embed_feature": "patch_embeds",
    "embed_prediction": "value_embeds",
    "classifier": "conv_seg_layers",
}
_PARTS = re.compile(r"(patch_embeds|value_embeds|conv_seg_layers|stages)\.(res|pna)\d\.")


@dataclass(frozen=True)
class Refinement:
    """What the tensors of a refinement head say.

    Attributes:
        prefix: What its names begin with.
        levels: Their names, fine to coarse.
        in_channels: Channels of the features of each level.
        num_classes: Channels K of the logits.
        config: Its options.
    """

    prefix: str
    levels: tuple[str, ...]
    in_channels: tuple[int, ...]
    num_classes: int
    config: PNAConfig

    def rename(self, key: str) -> str:
        """Return the checkpoint's name of a key of `PNAHead`'s state dict."""
        # Our stages are numbered as they run, coarse to fine.
        _, number, rest = key.split(".", 2)
        level = self.levels[-1 - int(number)]
        module, _, leaf = rest.rpartition(".")
        if module in _OUTER:
            return f"{self.prefix}{_OUTER[module]}.{level}.{leaf}"
        # A bare parameter, such as the bias table, has a name of its own.
        name = _THEIRS[rest] if rest in _THEIRS else f"{_THEIRS[module]}.{leaf}"
        return f"{self.prefix}stages.{level}.blocks.0.{name}"


def head_from_authors(
    state_dict: Mapping[str, Any], *, upsample: ResizeMode = "nearest"
) -> PNAHead:
    """Build the refinement head alone that a checkpoint of the authors holds.

    Args:
        state_dict: Tensors under the names of either branch, with any prefix, or a container of
            them; names that are not of the refinement head are passed over.
        upsample: How predictions are resized between stages; the checkpoints do not hold it:
            "nearest" for all of their configurations but Trans10k's.

    Returns:
        A `PNAHead` with their weights; sizes, window and modules are read off the tensors.

    Raises:
        PnaError: The checkpoint has no refinement head, or lacks or adds parts of one.

    Example:
        >>> import pna
        >>> pna.checkpoints.head_from_authors({})
        Traceback (most recent call last):
        ...
        pna.errors.PnaError: expected tensors by name, got 0 entries such as none at all
    """
    inside = without_prefix(unpack(state_dict).state, "patch_embeds")
    state = {name: tensor for name, tensor in inside.items() if _PARTS.match(name)}
    found = read_refinement(state, "", upsample)
    head = PNAHead(found.in_channels, found.num_classes, found.config)
    transfer(head, state, found.rename)
    return head


def read_refinement(state: Mapping[str, Tensor], prefix: str, upsample: ResizeMode) -> Refinement:
    """Read sizes, windows and modules off the tensors of a refinement head.

    Args:
        state: All tensors of a network, or those of its refinement head.
        prefix: What the head's names begin with.
        upsample: How predictions are resized between stages.

    Raises:
        PnaError: A tensor that tells a size is missing.
    """
    pattern = re.compile(re.escape(prefix) + r"(?:patch_embeds|stages)\.((?:res|pna)\d)\.")
    # "res2".."res5" sort fine to coarse; "pna0".."pna3" are counted from either end.
    levels = sorted({match[1] for name in state if (match := pattern.match(name))})
    if not levels:
        raise PnaError(
            f"expected parameters such as {prefix}patch_embeds.res2.weight or "
            f"{prefix}patch_embeds.pna0.weight, got none"
        )
    embeds = [shape_of(state, f"{prefix}patch_embeds.{level}.weight") for level in levels]
    if embeds[0][1] > embeds[-1][1]:
        # Encoders widen with depth: if the first level is the widest, levels count from there.
        levels, embeds = levels[::-1], embeds[::-1]
    blocks = [f"{prefix}stages.{level}.blocks.0." for level in levels]
    tables = [shape_of(state, f"{block}attn.rpb") for block in blocks]
    config = replace(
        PNAConfig.released(),
        widths=tuple(int(shape[0]) for shape in embeds),
        # The bias table has 2 w - 1 entries per axis, one per offset in a window.
        window=tuple((int(table[-1]) + 1) // 2 for table in tables),
        self_aggregation=tuple(
            count_of(state, re.escape(block) + r"(atten1)\.") > 0 for block in blocks
        ),
        upsample=upsample,
        embedding_bias=tuple(f"{prefix}patch_embeds.{level}.bias" in state for level in levels),
        mlp_ratio=shape_of(state, f"{blocks[0]}mlp.fc1.weight")[0] / embeds[0][0],
    )
    return Refinement(
        prefix,
        tuple(levels),
        tuple(int(shape[1]) for shape in embeds),
        int(shape_of(state, f"{prefix}conv_seg_layers.{levels[0]}.weight")[0]),
        config,
    )
