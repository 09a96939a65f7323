"""The learning rate as a pure function of the step: nothing to save, nothing to restore."""

from torch.optim import Optimizer

from pna.train.recipe import ScheduleSection


def learning_rate_factor(step: int, schedule: ScheduleSection) -> float:
    """Factor of the peak learning rate at a step.

    Polynomial decay `(1 - step / steps) ** power`, times a linear warm-up from `warmup_from` to 1
    (the authors' schedule: both run from step 0, so the peak itself is never quite reached).

    Args:
        step: Number of steps taken so far, from 0.
        schedule: Length, warm-up and power.

    Returns:
        A factor in [0, 1]; 0 from `steps` on.
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
