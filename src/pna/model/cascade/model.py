"""Refinement of the prediction of a segmentation network that exists already.

The network stays as it is: forward hooks tap its features while it is called, and its own logits
are P0. PNA carries them from stage to stage, with the detail that its coarse stages cannot hold, so
that a cascade starts from the network's prediction, and learns corrections.
"""

import warnings
from collections.abc import Sequence
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pna.bands import Band, read_bands
from pna.errors import PnaError
from pna.labels import LabelSpace, choose_labels
from pna.model.cascade.inputs import floating_point_like, noise
from pna.model.cascade.normalization import Normalize, read_normalization
from pna.model.cascade.plan import CoarseFunction, Plan, make_plan
from pna.model.cascade.probe import parameters_behind
from pna.model.cascade.sources import build_source
from pna.model.cascade.taps import Tap, run_tapped
from pna.model.config import CascadeConfig, SourceConfig
from pna.model.pna.config import PNAConfig
from pna.model.pna.head import PNAHead
from pna.model.refiner import Refiner
from pna.model.saving import check_saveable
from pna.model.segmenter import BaseSegmenter, RefinerInput
from pna.model.state import fill

FOR_CASCADE = PNAConfig.for_cascade()


class Cascade(BaseSegmenter):
    """A network and its refinement, trained end to end or on the fixed network.

    Built by `pna.cascade`.

    Args:
        base: The network: images (B, C, H, W) in, logits out.
        labels: The K classes.
        plan: The places that are tapped.
        mean: Mean per channel that is subtracted from images in [0, 1].
        std: Standard deviation per channel that they are divided by.
        refiner: Refines the coarse logits; None leaves them as they are.
        coarse: Makes logits of the network's output, where the plan taps none.
        config: The configuration that is saved.

    Attributes:
        coarse_from: Where P0 comes from: the module whose logits are taken before they are
            upsampled; "" (or a key, "[out]") is the network's own output; None is a function of it.
        coarse_stride: Pixels per cell of P0.
        features_from: Where the features come from, fine to coarse.
        freeze: Whether the network is fixed: no gradients, batch norm and dropout as in evaluation.

    Example:
        >>> import torch, pna
        >>> steps = [torch.nn.Conv2d(i, o, 2, stride=2) for i, o in ((3, 8), (8, 16), (16, 32))]
        >>> network = torch.nn.Sequential(*steps, torch.nn.Conv2d(32, 5, 1))
        >>> model = pna.cascade(
        ...     network, 5, normalize=None, features=["1", "2"], pna=pna.PNAConfig(widths=(32, 32))
        ... )
        >>> model.features_from, model.strides, model.coarse_from
        (('1', '2'), (4, 8), '')
        >>> output = model(torch.rand(1, 3, 50, 70))
        >>> output.logits.shape, output.coarse.shape
        (torch.Size([1, 5, 50, 70]), torch.Size([1, 5, 7, 9]))
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
        self.bands = config.bands
        self.features_from = tuple(str(level.place) for level in plan.features)
        self.coarse_from = None if plan.coarse is None else str(plan.coarse)
        self.coarse_stride = plan.coarse_stride
        self._module, self._normalization = config.module, config.normalization
        self._strides = tuple(level.stride for level in plan.features)
        self._divisor = plan.divisor
        self._smallest = plan.smallest
        self._function = coarse
        # Hooks are registered for the time of a call, so the network is left as it was.
        self._taps = [Tap(level.place, level.is_channels_last) for level in plan.features]
        self._coarse_places = {False: plan.coarse, True: plan.coarse_in_training}
        if self.freeze:
            # Evaluation mode as well: batch norm would go on adapting its statistics.
            base.requires_grad_(False)
            base.eval()
        like = floating_point_like(base)
        if like is not None:
            self.to(like)  # the refinement follows the type and device of the network

    @property
    def strides(self) -> tuple[int, ...]:
        """Image pixels per cell of each level of features, fine to coarse."""
        return self._strides

    @property
    def divisor(self) -> int:
        """Images are padded to multiples of this."""
        return self._divisor

    @property
    def origin(self) -> str:
        """Where features, coarse prediction and normalization come from, in words."""
        coarse = self.coarse_from
        if coarse is None:
            coarse = "a function of the model's output"
        elif not coarse or coarse.startswith("["):
            coarse = "the model's own output"
        mean, std = (
            ", ".join(f"{value:.4g}" for value in values.flatten().tolist())
            for values in (self.mean, self.std)
        )
        return (
            f"{'frozen ' if self.freeze else ''}{self._module}, P0 from {coarse} "
            f"(stride {self.coarse_stride}), features from {', '.join(self.features_from)}, "
            f"images normalized by mean {mean}, std {std} ({self._normalization})"
        )

    def encoder_parameters(self) -> frozenset[str]:
        """Return the names of the trainable parameters behind the features, by a run on noise."""
        found = parameters_behind(
            self.base, lambda images: self.encode(images).features, self.padded_size((1, 1))
        )
        return frozenset(f"base.{name}" for name in found)

    def padded_size(self, size: Sequence[int]) -> tuple[int, int]:
        """Return (H, W) of an image of that size once it is padded, right and bottom."""
        # Below the smallest size some networks fail, such as a group norm on a single value.
        if self._smallest <= self.divisor:
            return super().padded_size(size)
        d, least = self.divisor, self._smallest // self.divisor
        H, W = (cast(int, torch.sym_max((side + d - 1) // d, least)) * d for side in size)
        return H, W

    def encode(self, images: Tensor) -> RefinerInput:
        """Compute features, coarse logits and auxiliary outputs of images (B, C, H, W)."""
        like = floating_point_like(self.base)
        # Normalization is in float32, the network perhaps in half precision.
        images = images if like is None else images.to(like.dtype)
        # Some networks return another structure in training (auxiliary logits, deep supervision).
        place = self._coarse_places[self.base.training]
        taps = self._taps if place is None else [*self._taps, Tap(place)]
        output, features = run_tapped(self.base, images, taps)
        # The last tap is P0's.
        coarse = features.pop() if self._function is None else self._function(output)
        # The field's name for an auxiliary head (torchvision); a frozen one has nothing to learn.
        has_auxiliary = self.training and not self.freeze and isinstance(output, dict)
        aux = {"aux": output["aux"]} if has_auxiliary and "aux" in output else {}
        return RefinerInput(features, coarse, aux)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; a frozen network stays in evaluation."""
        super().train(mode)
        if self.freeze:
            self.base.eval()
        return self

    def extra_repr(self) -> str:
        """Return the source of features, P0 and normalization."""
        return f"{self.origin}; strides {self.strides}"


def cascade(
    network: nn.Module,
    num_classes: int,
    *,
    normalize: Normalize = "auto",
    pna: PNAConfig | None = FOR_CASCADE,
    features: Sequence[str] | None = None,
    coarse: str | CoarseFunction | None = None,
    freeze: bool = False,
    labels: LabelSpace | None = None,
    divisor: int | None = None,
    source: SourceConfig | None = None,
    bands: Sequence[Band] | None = None,
) -> Cascade:
    """Wrap a segmentation network, and refine its prediction by PNA.

    Places that are not named are found by runs on noise. The network is wrapped, not copied: it
    keeps its weights, its type, its device and its memory format, and hooks stay in it only while
    the cascade is called. The refinement takes the network's type and device. A compiled or
    parallel network is wrapped without that shell: compile or parallelize the cascade instead.

    Args:
        network: Takes images (B, C, H, W), returns logits: a tensor, a dict with "out", an object
            with `logits`, or a tuple that begins with them.
        num_classes: Number of classes K.
        normalize: Normalization of images in [0, 1] before the network: "imagenet"; (mean, std), a
            number per channel; or None for a network that takes them as they are. "auto" reads it
            where a library keeps it for the part of the network that is given the images: timm's
            `pretrained_cfg`, the preprocessing parameters of the encoder weights that a network of
            segmentation_models_pytorch was built with, the image processor of a pretrained model of
            transformers, the weights of a model of torchvision that `source` names. Where there is
            no such record, "auto" is an error.
        pna: Options of the refinement; None leaves it out: the network alone, to be trained by the
            same loop. With `residual="none"` a cascade starts from nothing.
        features: Names of the modules whose outputs are the features, fine to coarse; of one that
            returns several, as in `encoder[2]`. By default the encoder's levels: the last map at
            each resolution from stride 4 before resolution first grows again.
        coarse: Name of the module whose output is P0, or a function from the network's output to
            (B, K, h, w). By default the last map that becomes the network's output by bilinear
            upsampling (corners not aligned); where there is none, and for "", the output itself.
        freeze: Fix the network: its weights, and the statistics of its batch norm.
        labels: The classes with names and colors.
        divisor: Number of pixels that the sides of images must be multiples of; found by default.
        source: The library and name that the network was built by; `pna.load` then builds it. It
            is built once here, to see that the weights fit.
        bands: The channels of its images, where they are not red, green and blue. Their statistics
            are the normalization, unless `normalize` is given.

    Returns:
        The cascade: (B, C, H, W) in [0, 1] of any size in, logits (B, K, H, W) out. Its `origin`,
        which `print(model)` shows, names all that was found.

    Raises:
        PnaError: The network needs more than images, predicts another number of classes, returns
            no logits, has no features that nest, has no known normalization, or has no weight to
            train.

    Example:
        >>> import torch, pna
        >>> class Network(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fine = torch.nn.Conv2d(3, 16, 4, stride=4)
        ...         self.middle = torch.nn.Conv2d(16, 24, 2, stride=2)
        ...         self.coarse = torch.nn.Conv2d(24, 32, 2, stride=2)
        ...         self.head = torch.nn.Conv2d(32, 5, 1)
        ...
        ...     def forward(self, images):
        ...         return self.head(self.coarse(self.middle(self.fine(images))))
        >>> model = pna.cascade(Network(), 5, normalize=None)
        >>> model.features_from, model.strides
        (('fine', 'middle', 'coarse'), (4, 8, 16))
        >>> model(torch.rand(1, 3, 50, 70)).logits.shape
        torch.Size([1, 5, 50, 70])
    """
    if pna is not None and not isinstance(pna, PNAConfig):
        raise PnaError(f"expected pna as a PNAConfig, got {type(pna).__name__}")
    labels = choose_labels(num_classes, labels)
    network = _bare(network)
    plan = make_plan(
        network,
        num_classes,
        features=features,
        coarse=coarse,
        divisor=divisor,
        trains=not freeze,
    )
    if not freeze:
        parameters = list(network.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            raise PnaError(
                f"{type(network).__name__} is to be trained (freeze=False), but none of its "
                "weights requires a gradient, as after freeze=True: call "
                "network.requires_grad_(True) first, or pass freeze=True"
            )
    images = noise(network, 1, (plan.smallest, plan.smallest))  # (1, C, h, w)
    if bands is not None:
        bands = read_bands(bands)
        if normalize == "auto":
            normalize = tuple(b.unit_mean for b in bands), tuple(b.unit_std for b in bands)
    normalization = read_normalization(network, normalize, images, source=source)
    if bands is not None and len(bands) != images.shape[1]:
        raise PnaError(
            f"{type(network).__name__} takes images of {images.shape[1]} channels, got "
            f"{len(bands)} bands"
        )
    config = CascadeConfig(
        source=source,
        module=type(network).__name__,
        features=tuple(str(level.place) for level in plan.features),
        coarse=None if plan.coarse is None else str(plan.coarse),
        divisor=plan.divisor,
        normalization=normalization.origin,
        freeze=freeze,
        pna=pna,
        bands=bands,
    )
    if source is not None:
        _check_source(network, source, num_classes)
    model = _assemble(network, labels, plan, config, normalization[:2], coarse)
    try:
        check_saveable(model)
    except PnaError as error:  # it may still be used, so this is no error yet
        warnings.warn(f"this cascade cannot be saved: {error}", stacklevel=2)
    return model


def rebuild_cascade(
    config: CascadeConfig,
    labels: LabelSpace,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    network: nn.Module | None = None,
    coarse: CoarseFunction | None = None,
) -> Cascade:
    """Build the cascade that a configuration describes, with random weights.

    Args:
        config: The parts.
        labels: The classes.
        mean: Mean per channel.
        std: Standard deviation per channel.
        network: The wrapped network, where it comes from no library.
        coarse: The function that made P0 of its output, where one did.

    Raises:
        PnaError: A part of the user's own is missing, or is given where there is none.
    """
    if config.coarse is None and coarse is None:
        raise PnaError(
            "expected the function that makes P0 of the network's output, got none: pass the one "
            "that was given to pna.cascade, pna.load(..., coarse=...)"
        )
    if config.coarse is not None and coarse is not None:
        raise PnaError(
            f"expected no coarse=, since P0 is the output of {config.coarse!r}, got a function: "
            "leave it out"
        )
    if network is None and config.source is not None:
        network = build_source(config.source, labels.num_classes, encoder_weights=None)
    if network is None:
        raise PnaError(
            f"expected the network that the cascade refines, got none: it is one of your own, "
            f"{config.module}; build it and pass it, pna.load(..., network=...). Its weights are "
            "in the file"
        )
    network = _bare(network)
    plan = make_plan(
        network,
        labels.num_classes,
        features=config.features,
        coarse=coarse if config.coarse is None else config.coarse,
        divisor=config.divisor,
        trains=not config.freeze,
    )
    return _assemble(network, labels, plan, config, (mean, std), coarse)


def _bare(network: nn.Module) -> nn.Module:
    """Take a network out of `torch.compile` and out of wrappers that run it in parallel.

    A compiled one would be compiled again for the hooks of every call; replicas run in threads
    whose tensors do not belong to the call.
    """
    if not isinstance(network, nn.Module):
        raise PnaError(f"expected a network (torch.nn.Module), got {type(network).__name__}")
    shells = {nn.DataParallel: "module", nn.parallel.DistributedDataParallel: "module"}
    while hasattr(network, "_orig_mod") or type(network) in shells:
        network = getattr(network, shells.get(type(network), "_orig_mod"))
    if any(parameter.is_meta for parameter in network.parameters()):
        raise PnaError(
            f"{type(network).__name__} has weights without values, on the meta device: load them "
            "first, and call pna.cascade then"
        )
    if any(is_lazy(parameter) for parameter in network.parameters()):
        raise PnaError(
            f"{type(network).__name__} has lazy layers without weights: call it on images once, "
            "and call pna.cascade then"
        )
    return network


def _check_source(network: nn.Module, source: SourceConfig, num_classes: int) -> None:
    """Build the network once by its source, as `pna.load` will."""
    # Building draws initial weights, which must not shift the caller's random numbers.
    with torch.random.fork_rng(devices=[]):
        built = build_source(source, num_classes, encoder_weights=None)
    try:
        fill(built, network.state_dict(), f"{source}: the network that is wrapped")
    except PnaError as error:
        raise PnaError(
            f"{error}. Correct the source, or leave it out and pass pna.load(..., network=...)"
        ) from error


def _assemble(
    network: nn.Module,
    labels: LabelSpace,
    plan: Plan,
    config: CascadeConfig,
    normalization: tuple[Sequence[float], Sequence[float]],
    coarse: str | CoarseFunction | None,
) -> Cascade:
    channels = [level.channels for level in plan.features]
    mean, std = normalization
    refiner = None
    if config.pna is not None:
        refiner = PNAHead(channels, labels.num_classes, config.pna, image_channels=len(mean))
    return Cascade(
        network,
        labels,
        plan,
        mean=mean,
        std=std,
        refiner=refiner,
        coarse=coarse if callable(coarse) else None,
        config=config,
    )
