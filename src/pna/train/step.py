"""One optimizer step: losses and gradients of a batch, over all its parts and processes."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import set_seed  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from pna.data import Batch
from pna.model.segmenter import Segmenter
from pna.train.losses import count_valid, segmentation_loss
from pna.train.optimizer import create_optimizer
from pna.train.recipe import LossSection, Recipe
from pna.train.schedule import learning_rate_factor, set_learning_rate


class Objective(nn.Module):
    """Network and losses in one module.

    Mixed precision and data parallelism wrap this one, which leaves the network itself as it is:
    to be averaged, evaluated and saved.
    """

    def __init__(self, model: Segmenter, weights: LossSection) -> None:
        super().__init__()
        self.model = model
        self.weights = weights

    def forward(self, pictures: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and its parts (see `segmentation_loss`)."""
        return segmentation_loss(self.model(pictures), labels, self.model.upsample, self.weights)


class Stepper:
    """Takes the optimizer steps of a run. What it does is a function of weights, step and batch.

    Args:
        recipe: The settings.
        model: The network; moved to the accelerator's device.
        accelerator: Device, precision and processes.

    Attributes:
        optimizer: AdamW, its learning rates those of the last step taken.
    """

    def __init__(self, recipe: Recipe, model: Segmenter, accelerator: Accelerator) -> None:
        self.recipe = recipe
        self.model = model
        self.accelerator = accelerator
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
        numbers = (self.recipe.run.seed, step, self.accelerator.process_index)
        return int(np.random.SeedSequence(numbers).generate_state(1)[0])

    def _backward(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        """Accumulate the gradients of all parts; returns the losses over them.

        Each part counts by its share of the valid pixels of the whole step, so that N parts or
        processes give the gradient of one.
        """
        losses: dict[str, Tensor] = {}
        for batch, share, synchronised in self._shares(parts):
            with synchronised:
                total, terms = self.objective(*self._to_device(batch))
                self.accelerator.backward(total * share)
            for name, value in {"loss": total.detach(), **terms}.items():
                losses[name] = losses.get(name, torch.zeros_like(share)) + value * share
        return losses

    def _shares(
        self, parts: Sequence[Batch]
    ) -> Iterator[tuple[Batch, Tensor, contextlib.AbstractContextManager[None]]]:
        """Each part, its share of the valid pixels, and whether gradients are exchanged after it.

        Data parallelism takes the mean over processes, so shares sum to their number.
        """
        valid = torch.stack([count_valid(batch.labels) for batch in parts])
        valid = valid.to(self.accelerator.device, dtype=torch.float32)
        everywhere = self.accelerator.reduce(valid.sum(), reduction="sum").clamp(min=1)
        shares = valid * self.accelerator.num_processes / everywhere
        for batch, share in zip(parts[:-1], shares[:-1], strict=True):
            yield batch, share, self.accelerator.no_sync(self.objective)
        yield parts[-1], shares[-1], contextlib.nullcontext()

    def _to_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        layout = torch.channels_last if self.recipe.run.channels_last else torch.preserve_format
        device = self.accelerator.device
        pictures = batch.picture.to(device, non_blocking=True, memory_format=layout)
        return pictures, batch.labels.to(device, non_blocking=True)

    def _clip_gradients(self) -> Tensor:
        """Clip to `optimizer.clip_norm`, if there is one; returns the norm before."""
        self.accelerator.unscale_gradients()
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
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
