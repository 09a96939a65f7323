"""One optimizer step: losses and gradients of a batch, over all its parts and processes."""

import contextlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import set_seed  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pna.data import Batch
from pna.errors import PnaError
from pna.model.segmenter import BaseSegmenter
from pna.train.losses import LossConfig, LossOutput, count_valid, segmentation_loss
from pna.train.malloc import keep_freed_memory
from pna.train.optimizer import create_optimizer, learning_rate_factor, set_learning_rate
from pna.train.processes import Processes
from pna.train.recipe import Recipe


class Objective(nn.Module):
    """Network and losses in one module.

    Mixed precision and data parallelism wrap this one, which leaves the network itself as it is:
    to be averaged, evaluated and saved.
    """

    def __init__(self, model: BaseSegmenter, config: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config

    def forward(self, images: Tensor, labels: Tensor, num_valid: float) -> LossOutput:
        """Compute the losses of a part of a batch (see `segmentation_loss`)."""
        output = self.model(images)
        return segmentation_loss(output, labels, self.model, self.config, num_valid=num_valid)


class Stepper:
    """Takes the optimizer steps of a run. A step is a function of weights, step number and batch.

    Args:
        recipe: The settings.
        model: The network; moved to the accelerator's device.
        accelerator: Device and precision.
        processes: This process among the others.

    Attributes:
        optimizer: AdamW, its learning rates those of the last step taken.
        num_valid: Valid pixels of all steps taken by this object, over all processes; with class
            weights their total weight.
    """

    def __init__(
        self, recipe: Recipe, model: BaseSegmenter, accelerator: Accelerator, processes: Processes
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.accelerator = accelerator
        self.processes = processes
        self.num_valid = 0.0
        if accelerator.device.type == "cpu":
            keep_freed_memory()
        self.objective, self.optimizer = accelerator.prepare(
            Objective(model, recipe.loss), create_optimizer(model, recipe.optimizer)
        )

    def take(self, step: int, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Take one step.

        Args:
            step: Steps taken before.
            parts: This process's share of the step's batch.

        Returns:
            Mean total loss ("loss") and its parts over this process's share; their mean over the
            processes is that of the whole batch.

        Raises:
            FloatingPointError: The loss or a gradient isn't finite. The weights are lost.
            PnaError: Batch norm has one value per channel.
        """
        numbers = (self.recipe.run.seed, step, self.processes.rank)
        set_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))  # dropout, drop-path
        set_learning_rate(self.optimizer, learning_rate_factor(step, self.recipe.schedule))
        losses = self._backward(parts)
        self.accelerator.unscale_gradients()
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        # Computed with or without clipping: it is checked below, which needs no pass of its own.
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.recipe.optimizer.clip_norm is not None:
            clip_grads_with_norm_(parameters, self.recipe.optimizer.clip_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        # Check only after the whole step is queued: reading a value synchronizes with the GPU.
        self._check_finite(step, {**losses, "gradient norm": norm}, parts)
        return losses

    def _backward(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Accumulate the gradients of all parts; return the losses over them.

        Means are taken over the valid pixels of the whole step, so N parts or processes give the
        gradient of one. Data parallelism averages over the processes where a sum is needed: the
        loss is multiplied by their number.
        """
        weights = self.recipe.loss.class_weights
        counts = torch.stack([count_valid(batch.labels, weights) for batch in parts])
        num_valid = self.processes.add_up(counts.sum()).item()
        self.num_valid += num_valid
        number, device = self.processes.number, self.accelerator.device
        losses: dict[str, Tensor] = {}
        for index, batch in enumerate(parts, start=1):
            images = batch.image.to(device, non_blocking=True)
            labels = batch.labels.to(device, non_blocking=True)
            is_last = index == len(parts)  # gradients are exchanged after the last part
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.objective):
                try:
                    total, terms = self.objective(images, labels, num_valid)
                except ValueError as error:
                    if "more than 1 value per channel" not in str(error):
                        raise
                    run = self.recipe.run
                    raise PnaError(
                        "batch norm needs more than one value per channel, and the network pools "
                        f"to 1x1: expected 2 images or more at a time, got {len(images)} "
                        f"(run.batch_size {run.batch_size}, run.accumulation {run.accumulation}, "
                        f"{number} processes): raise run.batch_size or lower run.accumulation"
                    ) from error
                self.accelerator.backward(total * number)
            for name, value in {"loss": total.detach(), **terms}.items():
                losses[name] = losses.get(name, torch.zeros_like(value)) + value * number
        return losses

    def _check_finite(self, step: int, values: dict[str, Tensor], parts: Sequence[Batch]) -> None:
        # An overflow of scaled gradients is how fp16's scaler finds its scale: it skips the step.
        has_scaler = self.accelerator.scaler is not None
        wrong = [
            f"{name} {float(value)}"
            for name, value in values.items()
            if not (math.isfinite(value) or (has_scaler and name == "gradient norm"))
        ]
        if wrong:
            names = ", ".join(name for batch in parts for name in batch.name)
            raise FloatingPointError(
                f"step {step + 1}: expected finite numbers, got {', '.join(wrong)} on the "
                f"images {names}: check these, or lower optimizer.lr; "
                "the checkpoints in the run folder are from before this step"
            )
