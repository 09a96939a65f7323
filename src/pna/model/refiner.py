"""The contract of a refiner: features and a coarse prediction in, finer predictions out."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pna.errors import PnaError


class RefinerOutput(NamedTuple):
    """Output of a refiner in training.

    Attributes:
        stages: P1, ..., Pn, each (B, K, h, w) of any size that spans the padded images.
        aux: Tensors that `Refiner.losses` needs, by name.
    """

    stages: list[Tensor]
    aux: dict[str, Tensor]


class Refiner(nn.Module):
    """Base of all refiners.

    Attributes:
        num_stages: Number n of predictions at inference.
        no_graph: Why it has no graph that could be exported; None where it has one.
    """

    num_stages: int = 1
    no_graph: str | None = None

    def forward(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> list[Tensor]:
        """Refine a coarse prediction. No argument is changed.

        Args:
            features: (B, C, h, w) per level, fine to coarse: the neck's where the model has one,
                else the encoder's.
            coarse: (B, K, h, w) logits P0.
            images: (B, 3, H, W), RGB in [0, 1], padded to the encoder's divisor.

        Returns:
            [P1, ..., Pn], each (B, K, h, w) of any size that spans the padded images.
        """
        raise NotImplementedError

    def forward_training(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> RefinerOutput:
        """Refine in training, where a refiner may return other tensors for its own losses."""
        return RefinerOutput(self(features, coarse, images=images), {})

    def losses(self, aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Compute the losses of the refiner itself, besides the cross-entropies of its predictions.

        Args:
            aux: `RefinerOutput.aux`, in float32 at least.
            labels: (B, H, W) int64 at the size of the padded images, 255 in the padding.

        Returns:
            Means over this batch by name; 0 (with a graph) where no pixel is valid.
        """
        return {}


class StageOutput(NamedTuple):
    """Output of one stage of a `StagedRefiner`.

    Attributes:
        logits: (B, K, H, W).
        features: What the stage hands on to the next finer one, (B, D, H, W); None for nothing.
        aux: Tensors that the refiner's own losses need, by name; empty unless training.
    """

    logits: Tensor
    features: Tensor | None = None
    aux: Mapping[str, Tensor] = MappingProxyType({})


class StagedRefiner(Refiner):
    """A refiner of one stage per level of features, run coarse to fine.

    Args:
        in_channels: Channels of each level of features, fine to coarse.
        num_classes: Channels K of the logits.
        stages: In the order in which they run, coarse to fine. Each takes the features
            (B, C, H, W) of its level, the previous logits (B, K, h, w), logits (B, K, H, W) to add
            to them at its own size (or None), what the previous stage handed on (or None) and the
            images at its own size (or None), and returns a `StageOutput`.
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, stages: Iterable[nn.Module]
    ) -> None:
        super().__init__()
        self.in_channels = tuple(in_channels)
        self.num_classes = num_classes
        self.stages = nn.ModuleList(stages)  # stages[0] makes P1
        self.num_stages = len(self.stages)

    def forward(
        self,
        features: Sequence[Tensor],
        coarse: Tensor,
        *,
        images: Tensor | None = None,
        stop_at: int | None = None,
    ) -> list[Tensor]:
        """Refine stage by stage.

        Args:
            features: (B, C, H, W) per level, fine to coarse.
            coarse: (B, K, h, w) logits P0 of any size.
            images: (B, 3, H, W), RGB in [0, 1], of the extent that the features have; for stages
                that use them.
            stop_at: Number of stages to run; None runs all.

        Returns:
            [P1, ..., Pn], coarse to fine, each (B, K, H, W) at the size of its level.

        Raises:
            PnaError: The features, the classes or `stop_at` do not fit the head, or its stages need
                images and there are none.
        """
        return self._run(features, coarse, images, stop_at).stages

    def forward_training(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> RefinerOutput:
        """Refine in training; `aux` holds that of each stage as "NUMBER.NAME", from 1."""
        return self._run(features, coarse, images, None)

    def _run(
        self,
        features: Sequence[Tensor],
        coarse: Tensor,
        images: Tensor | None,
        stop_at: int | None,
    ) -> RefinerOutput:
        self._check(features, coarse, stop_at)
        # Features run fine to coarse, stages coarse to fine.
        previous, handed_on = coarse, None
        predictions: list[Tensor] = []
        aux: dict[str, Tensor] = {}
        levels = zip(self.stages[:stop_at], self._levels(features, images), strict=False)
        for number, (stage, (feature, image)) in enumerate(levels, start=1):
            start = self._start(previous, coarse, feature.shape[-2:])
            previous, handed_on, extra = stage(feature, *start, handed_on, image)
            predictions.append(previous)
            aux |= {f"{number}.{name}": x for name, x in extra.items()}
        return RefinerOutput(self._finish(predictions, coarse), aux)

    def _levels(
        self, features: Sequence[Tensor], images: Tensor | None
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Return features and image of each stage at its size, in the order in which they run."""
        return [(feature, None) for feature in reversed(features)]

    def _start(
        self, previous: Tensor, coarse: Tensor, size: torch.Size
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits (B, K, h, w) that a stage of that size refines, and what it adds."""
        return previous, None

    def _finish(self, predictions: list[Tensor], coarse: Tensor) -> list[Tensor]:
        """Return the predictions [P1, ..., Pn] that leave the refiner."""
        return predictions

    def _check(self, features: Sequence[Tensor], coarse: Tensor, stop_at: int | None) -> None:
        # Without this check `zip` would end at the shorter list, and leave stages out.
        got = tuple(feature.shape[1] for feature in features)
        if got != self.in_channels:
            raise PnaError(
                f"expected features with channels {self.in_channels} (fine to coarse), got {got}"
            )
        # Equal heights are fine: levels of a dilated encoder share a stride.
        heights = [feature.shape[-2] for feature in features]
        if heights != sorted(heights, reverse=True):
            raise PnaError(
                f"expected features fine to coarse, so of heights that do not grow, got {heights}; "
                "reverse the list"
            )
        if coarse.ndim != 4 or coarse.shape[1] != self.num_classes:
            raise PnaError(
                f"expected coarse logits (B, {self.num_classes}, h, w), got {tuple(coarse.shape)}"
            )
        if stop_at is not None and not 1 <= stop_at <= self.num_stages:
            raise PnaError(f"expected stop_at from 1 to {self.num_stages}, got {stop_at}")
