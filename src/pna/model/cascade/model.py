"""Wraps a segmentation network that exists already, and refines what it predicts.

The network stays as it is: forward hooks tap its features, and its own logits are P0. PNA carries
them from stage to stage, with the detail that its coarse stages cannot hold, so that a cascade
starts from what the network says, and learns corrections.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from pna.labels import LabelSpace
from pna.model.aggregation.head import PNAHead
from pna.model.aggregation.stage import Residual, Variant
from pna.model.cascade.plan import CoarseFunction, Plan, make_plan
from pna.model.cascade.probe import check_training, parameters_behind
from pna.model.cascade.sources import build_source
from pna.model.cascade.taps import Tap, find_module
from pna.model.config import CascadeConfig, PNAConfig, SourceConfig
from pna.model.presets import choose_labels
from pna.model.refiner import Refiner
from pna.model.segmenter import BaseSegmenter, Prediction


class Cascade(BaseSegmenter):
    """A network and its refinement, trained end to end or on the fixed network.

    Made by `pna.cascade`.

    Args:
        base: The network: pictures (B, 3, H, W) in, logits out.
        labels: The K classes.
        plan: What to tap.
        mean: Mean per RGB channel that is subtracted from pictures in [0, 1].
        std: Standard deviation per RGB channel that they are divided by.
        refiner: Refines the coarse logits; None leaves them as they are.
        coarse: Makes logits of the network's output, where the plan taps none.
        config: What this was built from, to save it.

    Attributes:
        coarse_from: Where P0 comes from: the module whose logits are taken before they are
            upsampled; "" (or a key, "[out]") is the network's own output; None is a function of it.
        coarse_stride: Pixels per cell of P0.
        features_from: Where the features come from, fine to coarse.
        freeze: Whether the network is fixed: no gradients, batch norm and dropout as in evaluation.
    """

    def __init__(
        self,
        base: nn.Module,
        labels: LabelSpace,
        plan: Plan,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        refiner: Refiner | None,
        coarse: CoarseFunction | None,
        config: CascadeConfig,
    ) -> None:
        super().__init__(labels, mean=mean, std=std)
        self.base = base
        self.refiner = refiner
        self.config = config
        self.freeze = config.freeze
        self.features_from = tuple(str(level.place) for level in plan.features)
        self.coarse_from = None if plan.coarse is None else str(plan.coarse)
        self.coarse_stride = plan.coarse_stride
        self._module = config.module
        self._strides = tuple(level.stride for level in plan.features)
        self._divisor = plan.divisor
        self._smallest = plan.smallest
        self._function = coarse
        self._taps = [
            Tap(level.place, is_channels_last=level.is_channels_last) for level in plan.features
        ]
        self._coarse_tap = None if plan.coarse is None else Tap(plan.coarse)
        for tap in self._all_taps():
            find_module(base, tap.place).register_forward_hook(tap)
        if self.freeze:
            base.requires_grad_(False)
            base.eval()

    @property
    def strides(self) -> tuple[int, ...]:
        """Picture pixels per cell of each level of features, fine to coarse."""
        return self._strides

    @property
    def divisor(self) -> int:
        """Pictures are padded to multiples of this."""
        return self._divisor

    @property
    def origin(self) -> str:
        """Where features and coarse prediction come from, in words."""
        coarse = "a function of the model's output"
        if self._coarse_tap is not None:
            coarse = self._coarse_tap.place.module or "the model's own output"
        return (
            f"{'frozen ' if self.freeze else ''}{self._module}, P0 from {coarse} "
            f"(stride {self.coarse_stride}), features from {', '.join(self.features_from)}"
        )

    def encoder_parameters(self) -> frozenset[str]:
        """Names of the trainable parameters that the features depend on, by a run on noise."""
        found = parameters_behind(
            self.base, lambda pictures: self.predict(pictures).features, self.padded_size((1, 1))
        )
        return frozenset(f"base.{name}" for name in found)

    def padded_size(self, size: Sequence[int]) -> tuple[int, int]:
        """(H, W) of a picture of that size once it is padded, right and bottom."""
        H, W = super().padded_size(size)
        return max(H, self._smallest), max(W, self._smallest)

    def predict(self, pictures: Tensor) -> Prediction:
        """Features, coarse logits and auxiliary outputs of normalised pictures (B, 3, H, W)."""
        for tap in self._all_taps():
            tap.open()
        output = self.base(pictures)
        features = [tap.take() for tap in self._taps]
        if self._coarse_tap is not None:
            coarse = self._coarse_tap.take()
        else:
            assert self._function is not None
            coarse = self._function(output)
        has_auxiliary = self.training and not self.freeze and isinstance(output, dict)
        aux = {"aux": output["aux"]} if has_auxiliary and "aux" in output else {}
        return Prediction(features, coarse, aux)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen network stays in evaluation."""
        super().train(mode)
        if self.freeze:
            self.base.eval()
        return self

    def extra_repr(self) -> str:
        """Where features and P0 come from."""
        return f"{self.origin}; strides {self.strides}"

    def _all_taps(self) -> list[Tap]:
        return self._taps if self._coarse_tap is None else [*self._taps, self._coarse_tap]


def cascade(
    model: nn.Module,
    num_classes: int,
    *,
    features: Sequence[str] | None = None,
    coarse: str | CoarseFunction | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    freeze: bool = False,
    refine: bool = True,
    labels: LabelSpace | None = None,
    divisor: int | None = None,
    source: SourceConfig | None = None,
    widths: tuple[int, ...] | None = None,
    window: int = 9,
    self_aggregation: bool = True,
    variant: Variant = "released",
    residual: Residual = "aggregate",
    centre: float = 8.0,
) -> Cascade:
    """Wrap a segmentation network, and refine what it predicts by PNA.

    What is not named is found by a run on noise. The network is wrapped, not copied: it keeps its
    weights, and gets forward hooks.

    Args:
        model: Takes pictures (B, 3, H, W), returns logits: a tensor, a dict with "out", an object
            with `logits`, or a tuple that begins with them.
        num_classes: Number of classes K.
        features: Names of the modules whose outputs are the features, fine to coarse; of one that
            returns several, as in `encoder[2]`. By default the encoder's levels: the last map at
            each resolution from stride 4 before resolution first grows again.
        coarse: Name of the module whose output is P0, or a function from the model's output to
            (B, K, h, w). By default the last map that becomes the model's output by bilinear
            upsampling (corners not aligned); where there is none, and for "", the output itself.
        mean: Mean per RGB channel that pictures in [0, 1] are normalised with; by default they
            are not: a model that does so itself needs nothing.
        std: Standard deviation per RGB channel, likewise.
        freeze: Fix the model: its weights, and its batch norm's statistics.
        refine: False leaves out the refinement: the model alone, to be trained by the same loop.
        labels: The classes with names and colours.
        divisor: What sides of pictures must be multiples of; found by default.
        source: The library and name that the model was built by; `pna.load` needs no model then.
        widths: Channels of the stages, fine to coarse; 96, 192, 384, ... by default.
        window: Cells per side of the neighborhood.
        self_aggregation: Whether stages use SAM.
        variant: "released", "paper" or "prenorm".
        residual: How logits are carried; with "none" a cascade starts from nothing.
        centre: Bias at the start with which "aggregate" gathers a cell's own logits: at 8 and 9x9
            cells it keeps 97 % of them, at 10 99.6 %, at 5 (what presets have, whose networks are
            not trained yet) 65 %. Higher starts closer to the model.

    Raises:
        ValueError: The model needs more than pictures, predicts another number of classes, returns
            what is not understood, or has no features that nest.
    """
    labels = choose_labels(num_classes, labels)
    plan = make_plan(model, num_classes, features=features, coarse=coarse, divisor=divisor)
    if not freeze:
        check_training(model, plan.divisor)
    pna = PNAConfig(
        widths=widths,
        window=window,
        self_aggregation=self_aggregation,
        upsample="bilinear",
        variant=variant,
        residual=residual,
        centre=centre,
        keep_detail=residual != "none",
    )
    config = CascadeConfig(
        source=source,
        module=type(model).__name__,
        features=tuple(str(level.place) for level in plan.features),
        coarse=None if plan.coarse is None else str(plan.coarse),
        divisor=plan.divisor,
        freeze=freeze,
        pna=pna if refine else None,
    )
    return _assemble(model, labels, plan, config, mean=mean, std=std, coarse=coarse)


def rebuild_cascade(
    config: CascadeConfig,
    labels: LabelSpace,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    model: nn.Module | None = None,
    coarse: CoarseFunction | None = None,
) -> Cascade:
    """Build the cascade that a configuration describes, with random weights.

    Args:
        config: The parts.
        labels: The classes.
        mean: Mean per RGB channel.
        std: Standard deviation per RGB channel.
        model: The wrapped network, where it comes from no library.
        coarse: The function that made P0 of its output, where one did.

    Raises:
        ValueError: A part of the user's own is missing, or is given where there is none.
    """
    model = _find_own(config, model, coarse, labels)
    plan = make_plan(
        model,
        labels.num_classes,
        features=config.features,
        coarse=coarse if config.coarse is None else config.coarse,
        divisor=config.divisor,
    )
    return _assemble(model, labels, plan, config, mean=mean, std=std, coarse=coarse)


def _find_own(
    config: CascadeConfig,
    model: nn.Module | None,
    coarse: CoarseFunction | None,
    labels: LabelSpace,
) -> nn.Module:
    if (config.coarse is None) != (coarse is not None):
        raise ValueError(
            "its P0 is a function of the model's output: pass that, pna.load(..., coarse=...)"
            if coarse is None
            else f"its P0 is the output of {config.coarse!r}, got a function too: leave it out"
        )
    if config.source is not None and model is None:
        return build_source(config.source, labels.num_classes, pretrained=False)
    if model is None:
        raise ValueError(
            f"it refines a model of your own, {config.module}: build that and pass it, "
            "pna.load(..., model=...); its weights are in the file"
        )
    return model


def _assemble(
    model: nn.Module,
    labels: LabelSpace,
    plan: Plan,
    config: CascadeConfig,
    *,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    coarse: str | CoarseFunction | None,
) -> Cascade:
    channels = [level.channels for level in plan.features]
    pna = config.pna
    built = Cascade(
        model,
        labels,
        plan,
        mean=(0.0, 0.0, 0.0) if mean is None else mean,
        std=(1.0, 1.0, 1.0) if std is None else std,
        refiner=None if pna is None else PNAHead(channels, labels.num_classes, **vars(pna)),
        coarse=coarse if callable(coarse) else None,
        config=config,
    )
    return built.to(memory_format=torch.channels_last)  # as all models here are; values stay
