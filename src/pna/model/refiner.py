"""The contract of a refiner: features and a coarse prediction in, finer predictions out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

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
    """

    num_stages: int = 1

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


class StagedRefiner(Refiner):
    """A refiner of one stage per level of features, run coarse to fine.

    Args:
        in_channels: Channels of each level of features, fine to coarse.
        num_classes: Channels K of the logits.
        stages: In the order in which they run, coarse to fine; each maps the features (B, C, H, W)
            of its level and the previous logits (B, K, h, w) to (B, K, H, W).
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
            images: Not used.
            stop_at: Number of stages to run; None runs all.

        Returns:
            [P1, ..., Pn], coarse to fine, each (B, K, H, W) at the size of its level.

        Raises:
            PnaError: The features, the classes or `stop_at` do not fit the head.
        """
        self._check(features, coarse, stop_at)
        # Features run fine to coarse, stages coarse to fine.
        previous = coarse
        predictions: list[Tensor] = []
        for stage, feature in zip(self.stages[:stop_at], reversed(features), strict=False):
            previous = stage(feature, self._start(previous, coarse, feature.shape[-2:]))
            predictions.append(previous)
        return self._finish(predictions, coarse)

    def _start(self, previous: Tensor, coarse: Tensor, size: Sequence[int]) -> Tensor:
        """Return the logits that a stage of that size refines: (B, K, h, w) of any size."""
        return previous

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
