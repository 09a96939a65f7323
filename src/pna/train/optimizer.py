"""AdamW with the parameter groups that segmentation wants."""

from collections.abc import Container, Iterable
from typing import Any

import torch
from torch import nn

from pna.model.segmenter import BaseSegmenter
from pna.train.recipe import OptimizerSection


def create_optimizer(model: BaseSegmenter, settings: OptimizerSection) -> torch.optim.AdamW:
    """AdamW over all trainable parameters of `model`.

    The encoder (what the features depend on) has a learning rate of its own; vectors (norms,
    biases) and relative-position bias tables are not decayed.

    Args:
        model: The network.
        settings: Learning rates, decay and betas.
    """
    return torch.optim.AdamW(
        parameter_groups(model.named_parameters(), settings, model.encoder_parameters()),
        lr=settings.lr,
        betas=settings.betas,
    )


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    settings: OptimizerSection,
    encoder: Container[str],
) -> list[dict[str, Any]]:
    """Groups of (encoder, rest) x (decayed, not decayed), empty ones left out.

    Args:
        parameters: By name; those that are fixed are left out.
        settings: Learning rates and decay.
        encoder: Names of the encoder's.

    Returns:
        Dicts of `params`, `name`, `lr`, `peak_lr` (what the schedule scales) and `weight_decay`.
    """
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            part = "encoder" if name in encoder else "heads"
            members.setdefault((part, _is_decayed(name, parameter)), []).append(parameter)
    return [_group(*key, members[key], settings) for key in sorted(members)]


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and "bias_table" not in name


def _group(
    part: str, is_decayed: bool, params: list[nn.Parameter], settings: OptimizerSection
) -> dict[str, Any]:
    lr = settings.lr if part == "encoder" or settings.head_lr is None else settings.head_lr
    return {
        "params": params,
        "name": part,
        "lr": lr,
        "peak_lr": lr,
        "weight_decay": settings.weight_decay if is_decayed else 0.0,
    }
