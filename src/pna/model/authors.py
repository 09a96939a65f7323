"""Reads refinement heads that the authors' code has trained.

Their two branches name levels differently (`res2..res5` in the detectron2 branch, `pna0..pna3` in
the mmsegmentation branch) and store 1x1 convolutions as such; everything inside a stage is alike.
"""

import re
from collections.abc import Mapping

from torch import Tensor

from pna.model.aggregation.head import PNAHead
from pna.model.resize import ResizeMode

_SELF_AGGREGATION = {
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
    **{f"atten1.{a}": f"fusion.self_aggregation.{b}" for a, b in _SELF_AGGREGATION.items()},
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
        upsample: How predictions are resized between stages, which their checkpoints do not say:
            "nearest" for all of their configurations but Trans10k's.

    Returns:
        A `PNAHead` with their weights; sizes, window and modules are read off the tensors.

    Raises:
        ValueError: The checkpoint has no refinement head, or lacks or adds parts of one.
    """
    levels: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state_dict.items():
        if match := _LEVEL.search(name):
            key = _stage_key(match["part"], match["rest"], name)
            levels.setdefault(match["level"], {})[key] = tensor
    order = _fine_to_coarse(levels, state_dict)
    states = [levels[name] for name in order]
    head = _build_head(states, upsample)
    weights = {
        f"stages.{m}.{key}": tensor
        for m, state in enumerate(reversed(states))
        for key, tensor in state.items()
    }
    own = head.state_dict()
    if weights.keys() != own.keys():
        missing, extra = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
        raise ValueError(f"the checkpoint is not a whole refinement head: {missing=}, {extra=}")
    # A 1x1 convolution (D, C, 1, 1) is a linear layer (D, C) here.
    head.load_state_dict({key: tensor.reshape(own[key].shape) for key, tensor in weights.items()})
    return head


def self_aggregation_state(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of one released SAM block to those of `SelfAggregation`."""
    renamed = {}
    for name, tensor in state_dict.items():
        module, _, leaf = name.rpartition(".")
        key = _SELF_AGGREGATION.get(name) or f"{_SELF_AGGREGATION[module]}.{leaf}"
        is_pointwise = tensor.ndim == 4 and "depthwise" not in key
        renamed[key] = tensor.flatten(1) if is_pointwise else tensor
    return renamed


def _stage_key(part: str, rest: str, name: str) -> str:
    if part != "stages":
        return f"{_OUTER[part]}.{rest}"
    rest = rest.removeprefix("blocks.0.")
    module, _, leaf = rest.rpartition(".")
    key = _STAGE.get(rest) or (f"{_STAGE[module]}.{leaf}" if module in _STAGE else None)
    if key is None:
        raise ValueError(f"{name!r} is no parameter of the authors' refinement stage")
    return key


def _fine_to_coarse(
    levels: Mapping[str, Mapping[str, Tensor]], state_dict: Mapping[str, Tensor]
) -> list[str]:
    if not levels:
        raise ValueError(
            "expected parameters such as patch_embeds.res2.weight or patch_embeds.pna0.weight, got "
            f"{len(state_dict)} names like {', '.join(list(state_dict)[:3]) or 'none at all'}"
        )
    for name, state in levels.items():
        if "embed_feature.weight" not in state:
            raise ValueError(f"level {name} of the checkpoint has no patch_embeds.{name}.weight")
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
            widths=[state["embed_feature.weight"].shape[0] for state in states],
            window=[
                (state["fusion.neighborhood.bias_table"].shape[-1] + 1) // 2 for state in states
            ],
            self_aggregation=any(".self_aggregation." in key for key in first),
            upsample=upsample,
            embedding_bias=["embed_feature.bias" in state for state in states],
            mlp_ratio=first["fusion.mlp.expand.weight"].shape[0]
            / first["embed_feature.weight"].shape[0],
        )
    except KeyError as error:
        raise ValueError(f"the checkpoint is not a whole refinement head: lacks {error}") from error
