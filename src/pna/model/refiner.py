"""What a refiner is: a box that takes a coarse prediction and gives finer ones."""

from typing import Literal, NamedTuple

from torch import Tensor, nn

# Losses beside the cross-entropies of the predictions; `pna.train.own_losses` computes them.
OwnLoss = Literal["points", "segfix", "edges"]


class Scene(NamedTuple):
    """What a refiner may look at.

    Attributes:
        pictures: (B, 3, H, W), RGB in [0, 1], padded to what the encoder takes.
        features: (B, C, h, w) per level, fine to coarse. The refiner owns the list: it may take out
            what it has done with, to free the memory.
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
