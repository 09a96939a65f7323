"""What a refiner is: a box that takes a coarse prediction and gives finer ones."""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from torch import Tensor, nn

# Losses beside the cross-entropies of the predictions; `pna.train.own_losses` computes them.
OwnLoss = Literal["points", "segfix", "edges"]


class Scene(NamedTuple):
    """What a refiner may look at.

    Attributes:
        pictures: (B, 3, H, W), RGB in [0, 1], padded to what the encoder takes.
        features: (B, C, h, w) per level, fine to coarse: the neck's where the model has one, else
            the encoder's. The refiner owns the list: it may take out what it has done with, to free
            the memory.
        coarse: (B, K, h, w) logits P0.
    """

    pictures: Tensor
    features: list[Tensor]
    coarse: Tensor


class Refined(NamedTuple):
    """What a refiner returns.

    Attributes:
        stages: P1, ..., Pn, each (B, K, h, w) of any size that spans the padded pictures.
        aux: What the refiner's own loss needs, by name; empty unless training.
    """

    stages: list[Tensor]
    aux: dict[str, Tensor]


class Refiner(nn.Module):
    """Base of all refiners. `forward` takes a `Scene`, unless `refine` says otherwise.

    Attributes:
        num_stages: Number n of predictions it makes at inference. While training it may make
            none, where it isn't trained or its loss needs something else.
        own_loss: Which loss it is trained with, beside the cross-entropies of its predictions;
            `Refined.aux` holds what that loss needs.
    """

    num_stages: int = 1
    own_loss: OwnLoss | None = None

    def refine(self, scene: Scene, *, stop_at: int | None = None) -> Refined:
        """Refine a coarse prediction.

        Args:
            scene: Pictures, features and P0.
            stop_at: Number of stages to run; all by default.

        Raises:
            ValueError: `stop_at` is not between 1 and `num_stages`.
        """
        self._check_stop(stop_at)
        refined: Refined = self(scene)
        return refined._replace(stages=refined.stages[:stop_at])

    def _check_stop(self, stop_at: int | None) -> None:
        if stop_at is not None and not 1 <= stop_at <= self.num_stages:
            raise ValueError(f"expected stop_at from 1 to {self.num_stages}, got {stop_at}")


class StagedRefiner(Refiner):
    """A refiner of one stage per level of features, run coarse to fine.

    Args:
        in_channels: Channels of each level of features, fine to coarse.
        num_classes: Channels K of the logits.
        stages: In the order in which they run, so coarse to fine; each maps the features
            (B, C, H, W) of its level and the previous logits (B, K, h, w) to (B, K, H, W).
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
        self, features: Sequence[Tensor], coarse: Tensor, *, stop_at: int | None = None
    ) -> list[Tensor]:
        """Refine stage by stage.

        Args:
            features: (B, C, H, W) per level, fine to coarse.
            coarse: (B, K, h, w) logits P0 of any size.
            stop_at: Number of stages to run; all by default.

        Returns:
            [P1, ..., Pn], coarse to fine, each (B, K, H, W) at the size of its level.

        Raises:
            ValueError: The number of features, the classes or `stop_at` do not fit the head.
        """
        return self._refine(list(features), coarse, stop_at)

    def refine(self, scene: Scene, *, stop_at: int | None = None) -> Refined:
        """Refine the scene's coarse prediction as `forward` does; takes the features it used."""
        return Refined(self._refine(scene.features, scene.coarse, stop_at), {})

    def _refine(self, features: list[Tensor], coarse: Tensor, stop_at: int | None) -> list[Tensor]:
        self._check(features, coarse, stop_at)
        predictions: list[Tensor] = []
        for stage in self.stages[:stop_at]:
            size = features[-1].shape[-2:]
            start = self._start(predictions[-1] if predictions else coarse, coarse, size)
            # Taken out of the list: together, the levels already used outweigh the finest stage.
            predictions.append(stage(features.pop(), start))
        return predictions

    def _start(self, previous: Tensor, coarse: Tensor, size: Sequence[int]) -> Tensor:
        """What a stage of that size starts from: the stage before it, or P0, of any size."""
        return previous

    def _check(self, features: Sequence[Tensor], coarse: Tensor, stop_at: int | None) -> None:
        got = tuple(feature.shape[1] for feature in features)
        if got != self.in_channels:
            raise ValueError(
                f"expected features with channels {self.in_channels} (fine to coarse), got {got}"
            )
        if coarse.ndim != 4 or coarse.shape[1] != self.num_classes:
            raise ValueError(
                f"expected coarse logits (B, {self.num_classes}, h, w), got {tuple(coarse.shape)}"
            )
        self._check_stop(stop_at)
