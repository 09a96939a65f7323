"""AdamW with the parameter groups of segmentation, its schedule, and the average of weights."""

from collections.abc import Container, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

from pna.model.segmenter import BaseSegmenter
from pna.train.recipe import OptimizerSection, ScheduleSection

Tensors = tuple[Tensor, ...] | list[Tensor]


def create_optimizer(model: BaseSegmenter, settings: OptimizerSection) -> AdamW:
    """Create AdamW over all trainable parameters of a model.

    The encoder (all that the features depend on) has a learning rate of its own.

    Args:
        model: The network.
        settings: Learning rates, decay and betas.

    Example:
        >>> import pna
        >>> from pna.train.recipe import OptimizerSection
        >>> model = pna.create_model("lite", 2, encoder_weights=None)
        >>> optimizer = create_optimizer(model, OptimizerSection(lr=1e-4, head_lr=5e-4))
        >>> sorted({(group["name"], group["lr"]) for group in optimizer.param_groups})
        [('encoder', 0.0001), ('heads', 0.0005)]
    """
    groups = parameter_groups(model.named_parameters(), settings, model.encoder_parameters())
    return AdamW(groups, lr=settings.lr, betas=settings.betas)


def parameter_groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
    settings: OptimizerSection,
    encoder: Container[str],
) -> list[dict[str, Any]]:
    """Group parameters by (encoder, rest) x (decayed, not decayed); leave out empty groups.

    Args:
        parameters: By name; those that are fixed are left out.
        settings: Learning rates and decay.
        encoder: Names of the encoder's parameters.

    Returns:
        Dicts of `params`, `name`, `lr`, `peak_lr` (which the schedule scales) and `weight_decay`.
    """
    members: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in parameters:
        if parameter.requires_grad:
            part = "encoder" if name in encoder else "heads"
            # Decay pulls vectors (norms, biases) and bias tables towards 0, which is no prior.
            is_decayed = parameter.ndim > 1 and "bias_table" not in name
            members.setdefault((part, is_decayed), []).append(parameter)
    groups = []
    # Sorted, because a checkpoint of the optimizer stores groups by their order alone.
    for part, is_decayed in sorted(members):
        is_encoder = part == "encoder" or settings.head_lr is None
        lr = settings.lr if is_encoder else settings.head_lr
        decay = settings.weight_decay if is_decayed else 0.0
        params = members[part, is_decayed]
        groups.append(
            {"params": params, "name": part, "lr": lr, "peak_lr": lr, "weight_decay": decay}
        )
    return groups


def learning_rate_factor(step: int, schedule: ScheduleSection) -> float:
    """Return the factor of the peak learning rate at a step, which is all that it depends on.

    Polynomial decay `(1 - step / steps) ** power`, times a linear warm-up from `warmup_from` to 1
    (the authors' schedule: both run from step 0, so the peak itself is never quite reached).

    Args:
        step: Number of steps taken so far, from 0.
        schedule: Length, warm-up and power.

    Returns:
        A factor in [0, 1]; 0 from `steps` on.

    Example:
        >>> from pna.train.recipe import ScheduleSection
        >>> learning_rate_factor(5, ScheduleSection(steps=10, power=1.0))
        0.5
    """
    if step >= schedule.steps:
        return 0.0
    factor = float((1.0 - step / schedule.steps) ** schedule.power)
    if step < schedule.warmup_steps:
        progress = step / schedule.warmup_steps
        factor *= schedule.warmup_from + (1.0 - schedule.warmup_from) * progress
    return factor


def set_learning_rate(optimizer: Optimizer, factor: float) -> None:
    """Set each group's `lr` to a factor of its own `peak_lr`."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor


def average_weights(model: nn.Module, decay: float) -> AveragedModel:
    """Create the exponential moving average of a model's parameters; buffers are copied.

    The decay rises as `(1 + step) / (10 + step)` up to its final value, so that a short run is not
    an average of the random weights it started from.

    Args:
        model: The network to follow; copied, never changed.
        decay: Share of the average that a step keeps, in (0, 1).

    Returns:
        The average. `update_parameters(model)` follows a step; `module` is the averaged network.
    """

    def update(averages: Tensors, values: Tensors, step: Tensor | int) -> None:
        keep = min(decay, (1 + int(step)) / (10 + int(step)))
        # average += (1 - keep) * (value - average), all tensors in one call.
        torch._foreach_lerp_(averages, values, 1.0 - keep)

    average = AveragedModel(model, multi_avg_fn=update)
    average.module.requires_grad_(False)
    average.eval()
    average.n_averaged.fill_(1)  # the start counts as the first value; else step 1 replaces it
    return average
