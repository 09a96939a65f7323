"""A running average of the weights, evaluated and exported in place of the last ones."""

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from pna.train.sharding import whole

Model = TypeVar("Model", bound=nn.Module)


class AveragedWeights(Generic[Model]):
    """Exponential moving average of a model's parameters; buffers are copied as they are.

    The decay rises as `(1 + step) / (10 + step)` up to its final value, so that a short run is not
    an average of the random weights it started from.

    Args:
        model: The network to follow; copied before it is sharded, if it will be; never changed.
        decay: Share of the average that a step keeps, in (0, 1).
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model: Model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: Model, step: int) -> None:
        """Follow `model` after its step number `step` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages: list[Tensor] = list(self.model.parameters())
        values: list[Tensor] = whole(list(model.parameters()))
        torch._foreach_lerp_(averages, values, 1.0 - decay)
        for average, value in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(value)
