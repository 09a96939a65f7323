"""Refinement heads that the authors' code has trained, as `PNAHead`.

Their two branches name levels differently (`res2..res5` in the detectron2 branch, `pna0..pna3` in
the mmsegmentation branch) and store 1x1 convolutions as such; everything inside a stage is alike.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from pna.errors import PnaError
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
_OUTER = {
    "patch_embeds": "embed_feature",
    "value_embeds": "embed_prediction",
    "conv_seg_layers": "classifier",
}
_LEVEL = re.compile(
    r"(?:^|\.)(?P<part>patch_embeds|value_embeds|conv_seg_layers|stages)"
    r"\.(?P<level>(?:res|pna)\d)\.(?P<rest>.+)$"
)


def from_authors(state_dict: Mapping[str, Tensor], *, upsample: ResizeMode = "nearest") -> PNAHead:
    """Build the refinement head that a checkpoint of the authors holds.

    Args:
        state_dict: Tensors under the names of either branch, with any prefix; names that are not
            of the refinement head (encoder, coarse head) are passed over.
        upsample: How predictions are resized between stages; the checkpoints do not hold it:
            "nearest" for all of their configurations but Trans10k's.

    Returns:
        A `PNAHead` with their weights; sizes, window and modules are read off the tensors.

    Raises:
        PnaError: The checkpoint has no refinement head, or lacks or adds parts of one.
    """
    levels: dict[str, dict[str, Tensor]] = {}
    # Searched, not matched: checkpoints have prefixes such as module. or decode_head.
    for name, tensor in state_dict.items():
        if match := _LEVEL.search(name):
            key = _stage_key(match["part"], match["rest"], name)
            levels.setdefault(match["level"], {})[key] = tensor
    order = _fine_to_coarse(levels, state_dict)
    states = [levels[name] for name in order]
    head = _build_head(states, upsample)
    # Our stages are numbered as they run, coarse to fine.
    weights = {
        f"stages.{m}.{key}": tensor
        for m, state in enumerate(reversed(states))
        for key, tensor in state.items()
    }
    own = head.state_dict()  # names and shapes that the tensors must fit
    if weights.keys() != own.keys():
        missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
        raise PnaError(f"the checkpoint is not a whole refinement head: {missing=}, {extra=}")
    # A 1x1 convolution (D, C, 1, 1) is a linear layer (D, C) here.
    head.load_state_dict({key: tensor.reshape(own[key].shape) for key, tensor in weights.items()})
    return head


def _stage_key(part: str, rest: str, name: str) -> str:
    if part != "stages":
        return f"{_OUTER[part]}.{rest}"
    rest = rest.removeprefix("blocks.0.")
    # A bare parameter, such as the bias table, has a name of its own; others follow their module.
    module, _, leaf = rest.rpartition(".")
    key = _STAGE.get(rest) or (f"{_STAGE[module]}.{leaf}" if module in _STAGE else None)
    if key is None:
        raise PnaError(f"{name!r} is no parameter of the authors' refinement stage")
    return key


def _fine_to_coarse(
    levels: Mapping[str, Mapping[str, Tensor]], state_dict: Mapping[str, Tensor]
) -> list[str]:
    if not levels:
        raise PnaError(
            "expected parameters such as patch_embeds.res2.weight or patch_embeds.pna0.weight, got "
            f"{len(state_dict)} names like {', '.join(list(state_dict)[:3]) or 'none at all'}"
        )
    for name, state in levels.items():
        if "embed_feature.weight" not in state:
            raise PnaError(f"level {name} of the checkpoint has no patch_embeds.{name}.weight")
    # "res2".."res5" sort fine to coarse; "pna0".."pna3" are counted from either end.
    order = sorted(levels)
    channels = [levels[name]["embed_feature.weight"].shape[1] for name in order]
    # Encoders widen with depth: if the first level is the widest, levels were counted from there.
    return order if channels[0] <= channels[-1] else order[::-1]


def _build_head(states: list[dict[str, Tensor]], upsample: ResizeMode) -> PNAHead:
    first = states[0]
    try:
        return PNAHead(
            [state["embed_feature.weight"].shape[1] for state in states],
            first["classifier.weight"].shape[0],
            replace(
                PNAConfig.released(),
                widths=tuple(state["embed_feature.weight"].shape[0] for state in states),
                # The bias table has 2 w - 1 entries per axis, one per offset in a window.
                window=tuple(
                    (state["fusion.neighborhood.bias_table"].shape[-1] + 1) // 2 for state in states
                ),
                self_aggregation=any(".self_aggregation." in key for key in first),
                upsample=upsample,
                embedding_bias=tuple("embed_feature.bias" in state for state in states),
                mlp_ratio=first["fusion.mlp.expand.weight"].shape[0]
                / first["embed_feature.weight"].shape[0],
            ),
        )
    except KeyError as error:
        raise PnaError(f"the checkpoint is not a whole refinement head: lacks {error}") from error
