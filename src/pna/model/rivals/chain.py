"""One refiner behind another, and behind a model that is trained already."""

import copy

from pna.model.refiner import Refined, Refiner, Scene
from pna.model.segmenter import BaseSegmenter


class Chain(Refiner):
    """Two refiners; the second one starts from the last stage of the first.

    Args:
        first: Its stages come first, and its own loss is the chain's.
        second: Has no loss of its own.
    """

    def __init__(self, first: Refiner, second: Refiner) -> None:
        super().__init__()
        if second.own_loss is not None:
            raise ValueError(f"expected a second refiner without a loss, got {second.own_loss!r}")
        self.first = first
        self.second = second
        self.num_stages = first.num_stages + second.num_stages
        self.own_loss = first.own_loss

    def refine(self, scene: Scene, *, stop_at: int | None = None) -> Refined:
        """Refine with the first, then with the second, unless it stops before."""
        self._check_stop(stop_at)
        own = self.first.num_stages
        if stop_at is not None and stop_at <= own:
            return self.first.refine(scene, stop_at=stop_at)
        stages, aux = self.first.refine(scene)
        begun = scene._replace(coarse=stages[-1] if stages else scene.coarse)
        more = self.second.refine(begun, stop_at=None if stop_at is None else stop_at - own)
        return Refined([*stages, *more.stages], {**aux, **more.aux})


def behind(model: BaseSegmenter, refiner: Refiner) -> BaseSegmenter:
    """Put a refiner that needs no training behind a model.

    Args:
        model: Trained, with or without a refiner of its own. It stays as it is; the new one shares
            its parts.
        refiner: Such as `DenseCRF()`.

    Returns:
        A model with one stage more, in the same mode. It has no configuration: what is saved is
        the model without the refiner.
    """
    chain = refiner if model.refiner is None else Chain(model.refiner, refiner)
    built = copy.copy(model)
    built._modules = dict(model._modules)  # else the new refiner would be the model's too
    built.refiner = chain
    built.config = None
    for part in (chain, refiner):  # not `train()`: parts of the model may be frozen
        part.training = model.training
    return built
