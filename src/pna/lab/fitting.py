"""Train any network by its losses: the loop of the refiners and of what they are compared with.

`pna.train` trains segmentation networks by recipes. Refiners of masks and of features have other
data and other losses, but the same optimizer, schedule, average of weights, log and checkpoints.
"""

import json
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torch.optim import AdamW

from pna.errors import PnaError
from pna.files import write_text_atomically
from pna.train.log import Meter, RunLog
from pna.train.optimizer import (
    average_weights,
    learning_rate_factor,
    parameter_groups,
    set_learning_rate,
)
from pna.train.recipe import OptimizerSection, ScheduleSection
from pna.train.state import read_checkpoint, save_checkpoint

LAST = "last.pt"
"""File of the checkpoint in a run's folder."""
SETTINGS = "settings.json"
"""File of what a run is."""


@dataclass(frozen=True)
class FitSettings:
    """How to train.

    Attributes:
        steps: Length.
        lr: Peak learning rate of the encoder, and of the rest unless `head_lr` is given.
        head_lr: That of all but the encoder.
        warmup_steps: Length of the linear warm-up.
        clip_norm: Largest norm of the gradient.
        ema: Decay of the average of the weights that is returned, in (0, 1).
        checkpoint_every: Steps between two checkpoints.
        log_every: Steps between two lines of the log.
    """

    steps: int
    lr: float = 5e-4
    head_lr: float | None = 2e-3
    warmup_steps: int = 50
    clip_norm: float = 1.0
    ema: float = 0.99
    checkpoint_every: int = 100
    log_every: int = 20


def fit(
    network: nn.Module,
    losses_at: Callable[[int], Mapping[str, Tensor]],
    run: Path,
    settings: FitSettings,
    *,
    encoder: Container[str] = (),
    about: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> nn.Module:
    """Train a network, or continue a run that was interrupted.

    Args:
        network: Changed in place.
        losses_at: Computes the losses of a step, numbered from 0, on data that depend on the step
            alone; their sum is minimized.
        run: Folder of log and checkpoint; a checkpoint in it is continued.
        settings: Rates and length.
        encoder: Names of the encoder's parameters.
        about: What else makes the run, such as the seed of its data, for JSON. It is kept beside
            the checkpoint with the number of steps, and a run of other values is not continued.
        console: Where to show progress.

    Returns:
        The average of the weights over the last steps, in evaluation mode.

    Raises:
        PnaError: A loss is not finite, or the folder holds a run of other settings.

    Example:
        >>> import tempfile
        >>> line = nn.Linear(1, 1)
        >>> x = torch.linspace(-1, 1, 20)[:, None]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     fitted = fit(
        ...         line,
        ...         lambda step: {"error": (line(x) - 3 * x).square().mean()},
        ...         Path(folder),
        ...         FitSettings(steps=500, head_lr=0.1, ema=0.5),
        ...         console=Console(quiet=True),
        ...     )
        >>> round(fitted.weight.item(), 2)
        3.0
    """
    rates = OptimizerSection(lr=settings.lr, head_lr=settings.head_lr)
    schedule = ScheduleSection(steps=settings.steps, warmup_steps=settings.warmup_steps)
    optimizer = AdamW(parameter_groups(network.named_parameters(), rates, encoder))
    average = average_weights(network, settings.ema)
    start = 0
    run.mkdir(parents=True, exist_ok=True)
    _claim(run / SETTINGS, {**(about or {}), "steps": settings.steps})
    if (run / LAST).is_file():
        state = read_checkpoint(run / LAST)
        start = state["step"]
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
    meter = Meter()
    with RunLog(
        run,
        start=start,
        steps=settings.steps,
        tensorboard=False,
        console=console or Console(),
    ) as log:
        for step in range(start, settings.steps):
            network.train()
            losses = losses_at(step)
            total = torch.stack(list(losses.values())).sum()
            if not torch.isfinite(total):
                raise PnaError(f"step {step}: a loss is not finite: {dict(losses)}")
            optimizer.zero_grad()
            total.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            set_learning_rate(optimizer, learning_rate_factor(step, schedule))
            optimizer.step()
            average.update_parameters(network)
            meter.add({**losses, "loss": total})
            done = step + 1
            log.advance(done)
            if done % settings.log_every == 0 or done == settings.steps:
                log.write("train", done, {k: float(v) for k, v in meter.means().items()})
            if done % settings.checkpoint_every == 0 or done == settings.steps:
                save_checkpoint(
                    {
                        "step": done,
                        "network": network.state_dict(),
                        "average": average.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                    run / LAST,
                )
    # Running statistics of batch norm are copied once more: they are no parameters.
    for mean, value in zip(average.module.buffers(), network.buffers(), strict=True):
        mean.copy_(value)
    return average.module.eval()


def _claim(file: Path, values: Mapping[str, Any]) -> None:
    """Write what a run is, or refuse the folder of another."""
    text = json.dumps(values, indent=1) + "\n"
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
        wanted = json.loads(text)
        if known != wanted:
            names = [n for n in {**known, **wanted} if known.get(n) != wanted.get(n)]
            raise PnaError(
                f"{file}: expected a run of "
                + ", ".join(f"{n} {wanted.get(n)}" for n in names)
                + ", got one of "
                + ", ".join(f"{n} {known.get(n)}" for n in names)
                + ": choose another folder"
            )
    write_text_atomically(file, text)
