"""One optimizer step: losses and gradients of a batch, over all its parts and processes."""

import contextlib
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import set_seed  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.distributed.fsdp import register_fsdp_forward_method
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pna.data import Batch
from pna.model.segmenter import BaseSegmenter
from pna.train.hard_pixels import Cut
from pna.train.heap import keep_freed_memory
from pna.train.losses import (
    Scope,
    count_valid,
    find_cuts,
    hard_pixel_losses,
    segmentation_loss,
)
from pna.train.optimizer import create_optimizer
from pna.train.own_losses import find_own_losses
from pna.train.processes import Processes
from pna.train.recipe import LossSection, Recipe
from pna.train.schedule import learning_rate_factor, set_learning_rate
from pna.train.sharding import whole


class Objective(nn.Module):
    """Network and losses in one module.

    Mixed precision and data parallelism wrap this one, which leaves the network itself as it is:
    to be averaged, evaluated and saved.
    """

    def __init__(self, model: BaseSegmenter, weights: LossSection) -> None:
        super().__init__()
        self.model = model
        self.weights = weights
        self.own = find_own_losses(model)

    def forward(
        self, pictures: Tensor, labels: Tensor, scope: Scope
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and its parts (see `segmentation_loss`)."""
        return segmentation_loss(
            self.model(pictures),
            labels,
            self.model.upsample,
            self.weights,
            scope=scope,
            own=self.own,
        )

    def hard_pixel_losses(self, pictures: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of the valid pixels by output (see `losses.hard_pixel_losses`)."""
        output = self.model(pictures)
        return hard_pixel_losses(output, labels, self.model.upsample, self.weights)


class Stepper:
    """Takes the optimizer steps of a run. What it does is a function of weights, step and batch.

    Args:
        recipe: The settings.
        model: The network; moved to the accelerator's device.
        accelerator: Device and precision.
        processes: This process among the others.

    Attributes:
        optimizer: AdamW, its learning rates those of the last step taken.
    """

    def __init__(
        self, recipe: Recipe, model: BaseSegmenter, accelerator: Accelerator, processes: Processes
    ) -> None:
        self.recipe = recipe
        self.model = model
        self.accelerator = accelerator
        self.processes = processes
        if accelerator.device.type == "cpu":
            keep_freed_memory()
        self._objective = Objective(model, recipe.loss)
        self.objective, self.optimizer = accelerator.prepare(
            self._objective, create_optimizer(model, recipe.optimizer)
        )
        # It is not the forward method: FSDP must be told that it wants whole weights too.
        register_fsdp_forward_method(self._objective, "hard_pixel_losses")

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
        """
        set_seed(self._seed(step))  # dropout and drop-path
        set_learning_rate(self.optimizer, learning_rate_factor(step, self.recipe.schedule))
        losses = self._backward(parts)
        norm = self._clip_gradients()
        self.optimizer.step()
        self.optimizer.zero_grad()
        # Looked at when all is under way: a look stalls a GPU.
        self._check_finite(step, {**losses, "gradient norm": norm}, parts)
        return losses

    def _seed(self, step: int) -> int:
        numbers = (self.recipe.run.seed, step, self.processes.rank)
        return int(np.random.SeedSequence(numbers).generate_state(1)[0])

    def _backward(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Accumulate the gradients of all parts; returns the losses over them.

        The means are taken over the whole step, so that N parts or processes give the gradient of
        one. Data parallelism takes the mean over processes of what is a sum: hence `number`.
        """
        scope = self._scope(parts)
        number = self.processes.number
        losses: dict[str, Tensor] = {}
        for place, batch in enumerate(parts, start=1):
            is_last = place == len(parts)  # gradients are exchanged after the last part
            with contextlib.nullcontext() if is_last else self.accelerator.no_sync(self.objective):
                total, terms = self.objective(*self._to_device(batch), scope)
                self.accelerator.backward(total * number)
            for name, value in {"loss": total.detach(), **terms}.items():
                losses[name] = losses.get(name, torch.zeros_like(value)) + value * number
        return losses

    def _scope(self, parts: Sequence[Batch]) -> Scope:
        """The whole step: all parts on all processes."""
        num_valid = torch.stack([count_valid(batch.labels) for batch in parts]).sum()
        add_up = self.processes.add_up
        scope = Scope(int(add_up(num_valid)), add_up)
        kinds = (self.recipe.loss.coarse_kind, self.recipe.loss.stage_kind)
        if len(parts) == 1 or "hard_pixels" not in kinds:
            return scope
        return scope._replace(cuts=self._look_ahead(parts, scope))

    @torch.no_grad()
    def _look_ahead(self, parts: Sequence[Batch], scope: Scope) -> dict[str, Cut]:
        """Where the hardest pixels of all parts end: it takes one forward pass more to know.

        Keeping the graphs of all parts instead would need the memory that accumulation saves. The
        pass leaves no trace: the next one draws the same dropout, batch norm's averages go back.
        """
        before = [buffer.clone() for buffer in self.model.buffers()]
        device = self.accelerator.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            losses = [self._hard_pixel_losses(batch) for batch in parts]
        for buffer, value in zip(self.model.buffers(), before, strict=True):
            buffer.copy_(value)
        return find_cuts(losses, self.recipe.loss, scope)

    def _hard_pixel_losses(self, batch: Batch) -> dict[str, Tensor]:
        with self.accelerator.autocast():
            return self._objective.hard_pixel_losses(*self._to_device(batch))

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        device = self.accelerator.device
        return batch.picture.to(device, non_blocking=True), batch.labels.to(
            device, non_blocking=True
        )

    def _clip_gradients(self) -> Tensor:
        """Clip to `optimizer.clip_norm`, if there is one; returns the norm before."""
        self.accelerator.unscale_gradients()
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm: Tensor = whole(get_total_norm([p.grad for p in parameters if p.grad is not None]))
        if self.recipe.optimizer.clip_norm is not None:
            clip_grads_with_norm_(parameters, self.recipe.optimizer.clip_norm, norm)
        return norm

    def _check_finite(
        self, step: int, values: Mapping[str, Tensor], parts: Sequence[Batch]
    ) -> None:
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
                f"pictures {names}: look at these, or lower optimizer.lr; "
                "the checkpoints in the run folder are from before this step"
            )
