"""The paper's models by name. A preset's function builds finished parts and wires them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import nn

from pna.errors import PnaError
from pna.labels import LabelSpace, choose_labels
from pna.model.coarse.deeplab import DeepLabV3Head
from pna.model.coarse.deeplabv3plus import DeepLabV3PlusHead
from pna.model.coarse.fcn import FCNHead
from pna.model.coarse.fpn import SemanticFPNHead
from pna.model.coarse.psp import PSPHead
from pna.model.coarse.upernet import UPerHead
from pna.model.config import ModelConfig, ModelOptions
from pna.model.encoder import Encoder, EncoderWeights, FixedStrideError, TimmEncoder, create_encoder
from pna.model.pna.config import PNAConfig
from pna.model.pna.head import PNAHead
from pna.model.refiner import Refiner
from pna.model.segmenter import Segmenter

_AUX = ModelOptions(aux=True)
_ATROUS = ("rates", "pool_window", "pool_norm", "fuse_kernel")
_HEAD_OPTIONS = (*_ATROUS, "coarse_norm")


class BuildModel(Protocol):
    """The type of a preset's function."""

    def __call__(
        self, config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
    ) -> Segmenter:
        """Build the model that a configuration describes."""


@dataclass(frozen=True)
class Preset:
    """A model by name.

    Attributes:
        build: Builds it.
        encoder: Its encoder, unless another is given.
        options: Its options of encoder and coarse head.
        pna: Its refinement by PNA, or the one that a baseline is compared with; None without.
    """

    build: BuildModel
    encoder: str = "resnet50c"
    options: ModelOptions = _AUX
    pna: PNAConfig | None = None


def build_fcn(config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None) -> Segmenter:
    """Build an FCN on the coarsest level, as the paper has it."""
    allow_head_options(config)
    encoder = build_encoder(config, weights)
    head = FCNHead(encoder.channels, labels.num_classes, **coarse_width(config))
    return assemble(config, labels, encoder, head)


def build_psp(config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None) -> Segmenter:
    """Build PSPNet: pyramid pooling on the coarsest level."""
    allow_head_options(config)
    encoder = build_encoder(config, weights)
    head = PSPHead(encoder.channels, labels.num_classes, **coarse_width(config))
    return assemble(config, labels, encoder, head)


def build_deeplabv3(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build DeepLabV3: an atrous pyramid on the coarsest level."""
    allow_head_options(config, *_ATROUS)
    options = config.options
    encoder = build_encoder(config, weights)
    head = DeepLabV3Head(
        encoder.channels,
        labels.num_classes,
        **coarse_width(config),
        **atrous_rates(config),
        pool_window=options.pool_window,
        pool_norm=options.pool_norm is not False,
        fuse_kernel=options.fuse_kernel or 3,
    )
    return assemble(config, labels, encoder, head)


def build_deeplabv3plus(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build DeepLabV3+: an atrous pyramid, and a decoder on the finest level."""
    allow_head_options(config, "rates")
    encoder = build_encoder(config, weights)
    head = DeepLabV3PlusHead(
        encoder.channels, labels.num_classes, **coarse_width(config), **atrous_rates(config)
    )
    return assemble(config, labels, encoder, head)


def build_fpn(config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None) -> Segmenter:
    """Build a semantic FPN on all levels."""
    allow_head_options(config, "coarse_norm")
    encoder = build_encoder(config, weights)
    head = SemanticFPNHead(
        encoder.channels,
        labels.num_classes,
        **coarse_width(config),
        norm=config.options.coarse_norm or "batch",
    )
    return assemble(config, labels, encoder, head)


def build_upernet(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build UPerNet on all levels."""
    allow_head_options(config)
    encoder = build_encoder(config, weights)
    head = UPerHead(encoder.channels, labels.num_classes, **coarse_width(config))
    return assemble(config, labels, encoder, head)


_OS16 = ModelOptions(output_stride=16, aux=True)
_OS8 = ModelOptions(output_stride=8, aux=True)
_NO_AUX = ModelOptions(aux=False)
_RELEASED = PNAConfig.released()

LITE_ENCODER = "tf_efficientnet_lite0"
LITE_OPTIONS = ModelOptions(coarse_channels=128, aux=False)
LITE_PNA = PNAConfig(widths=(32, 64, 96, 128))

PRESETS: Mapping[str, Preset] = {
    # Any timm encoder goes with each of them; the paper's are resnet50c, resnet101c,
    # swin_tiny_patch4_window7_224 and swin_base_patch4_window7_224.
    "fcn": Preset(build_fcn),
    "fcn-os8": Preset(build_fcn, options=_OS8),
    "fcn-pna": Preset(build_fcn, pna=_RELEASED),
    "fcn-pna-nam": Preset(build_fcn, pna=replace(_RELEASED, self_aggregation=False)),
    "psp": Preset(build_psp, options=_OS8),
    "psp-pna": Preset(build_psp, options=_OS16, pna=_RELEASED),
    "deeplabv3": Preset(build_deeplabv3, options=_OS8),
    "deeplabv3-pna": Preset(build_deeplabv3, options=_OS16, pna=_RELEASED),
    "deeplabv3plus": Preset(build_deeplabv3plus, options=_OS16),
    "fpn": Preset(build_fpn, options=_NO_AUX),
    "fpn-pna": Preset(build_fpn, options=_NO_AUX, pna=replace(_RELEASED, window=7)),
    "upernet": Preset(build_upernet),
    "upernet-pna": Preset(build_upernet, pna=_RELEASED),
    # Ours: the logits are gathered from stage to stage; "lite" is small.
    "fcn-pna-gather": Preset(build_fcn, pna=PNAConfig()),
    "lite-fcn": Preset(build_fcn, LITE_ENCODER, LITE_OPTIONS),
    "lite": Preset(build_fcn, LITE_ENCODER, LITE_OPTIONS, LITE_PNA),
}
"""The presets of the library. `pna.lab.baselines` has those of other methods."""


def create_model(
    preset: str,
    num_classes: int | None = None,
    *,
    labels: LabelSpace | None = None,
    encoder: str | None = None,
    encoder_weights: EncoderWeights | None = "imagenet",
    pna: PNAConfig | None = None,
    options: ModelOptions = ModelOptions(),
    presets: Mapping[str, Preset] = PRESETS,
) -> Segmenter:
    """Build one of the paper's models, or ours, on any encoder. Only the encoder is pretrained.

    The model normalizes its input itself: images are RGB in [0, 1].

    Args:
        preset: A key of `pna.model.presets.PRESETS`, such as "fcn-pna" or "lite".
        num_classes: Number of classes K, where they have no names.
        labels: The classes with names and colors; instead of `num_classes`.
        encoder: Name of a timm model; None takes the preset's.
        encoder_weights: "imagenet" loads the encoder's pretrained weights; None starts at random.
        pna: Options of the refinement; None takes the preset's.
        options: Options of encoder and coarse head. A preset's own output stride of 16 or 8 becomes
            32 on an encoder that cannot be dilated (Swin); one given here is an error there.
        presets: Where `preset` is looked up.

    Raises:
        PnaError: Unknown preset or encoder, no number of classes, or options that do not fit.
        WeightsError: The ImageNet weights cannot be had.

    Example:
        >>> import torch, pna
        >>> model = pna.create_model("lite", num_classes=3, encoder_weights=None).eval()
        >>> model(torch.rand(1, 3, 60, 90)).logits.shape
        torch.Size([1, 3, 60, 90])
    """
    known = find_preset(preset, presets)
    for name, value, kind in (("pna", pna, PNAConfig), ("options", options, ModelOptions)):
        if value is not None and not isinstance(value, kind):
            raise PnaError(f"expected {name} as a {kind.__name__}, got {type(value).__name__}")
    if pna is not None and known.pna is None:
        having = ", ".join(name for name, other in presets.items() if other.pna is not None)
        raise PnaError(
            f"preset {preset!r} has no PNA that options could be of; take one that has: {having}"
        )
    config = ModelConfig(
        preset,
        known.encoder if encoder is None else encoder,
        options.over(known.options),
        known.pna if pna is None else pna,
    )
    labels = choose_labels(num_classes, labels)
    try:
        return known.build(config, labels, encoder_weights)
    # Swin and ViT have no dilated form; the paper runs its heads on them at stride 32.
    except FixedStrideError:
        if options.output_stride is not None:
            raise
        wider = replace(config.options, output_stride=32)
        return known.build(replace(config, options=wider), labels, encoder_weights)


def find_preset(name: str, presets: Mapping[str, Preset]) -> Preset:
    """Look a preset up.

    Raises:
        PnaError: There is none of that name; the known ones are listed.
    """
    if name not in presets:
        known = ", ".join(presets)
        if presets is PRESETS:
            known += "; those of other methods are in pna.lab.baselines.PRESETS, pass it as presets"
        raise PnaError(f"unknown preset {name!r}; known are {known}")
    return presets[name]


def build_encoder(config: ModelConfig, weights: EncoderWeights | None) -> TimmEncoder:
    """Build the encoder that a configuration describes."""
    options = config.options
    return create_encoder(
        config.encoder,
        weights=weights,
        output_stride=options.output_stride or 32,
        multi_grid=options.multi_grid,
        drop_path=options.drop_path or 0.0,
        dense_swin=bool(options.dense_swin),
        bands=options.bands,
        any_size=options.padding == "none",
    )


def coarse_width(config: ModelConfig) -> dict[str, Any]:
    """Return the coarse head's argument `channels`; empty for its own default."""
    channels = config.options.coarse_channels
    return {} if channels is None else {"channels": channels}


def atrous_rates(config: ModelConfig) -> dict[str, Any]:
    """Return the argument `rates` of DeepLab's heads; empty for their own default."""
    rates = config.options.rates
    return {} if rates is None else {"rates": rates}


def allow_head_options(config: ModelConfig, *names: str) -> None:
    """Refuse options of coarse heads, but those that the preset's own head has.

    Raises:
        PnaError: Another one is given.
    """
    for name in _HEAD_OPTIONS:
        value = getattr(config.options, name)
        if value is not None and name not in names:
            raise PnaError(
                f"preset {config.preset!r} has no {name}, got {value}; leave {name} at None"
            )


def assemble(
    config: ModelConfig,
    labels: LabelSpace,
    encoder: Encoder,
    coarse: nn.Module,
    *,
    neck: nn.Module | None = None,
    channels: Sequence[int] | None = None,
    refiner: Refiner | None = None,
) -> Segmenter:
    """Wire finished parts, and add PNA and the auxiliary head where the configuration has them.

    Args:
        config: The configuration that the parts were built from.
        labels: The K classes.
        encoder: Images to features.
        coarse: Features to P0.
        neck: Features to the features that coarse head and refiner share.
        channels: Channels of the features that PNA refines on; the encoder's by default.
        refiner: A baseline, instead of PNA.
    """
    num_classes, options = labels.num_classes, config.options
    if refiner is None and config.pna is not None:
        refiner = PNAHead(
            channels or encoder.channels,
            num_classes,
            config.pna,
            image_channels=len(encoder.mean),
        )
    auxiliary = None
    if options.aux:
        # The field's auxiliary head, on stride 16 of a plain encoder (as in PSPNet).
        auxiliary = FCNHead(
            encoder.channels, num_classes, channels=256, num_convs=1, concat_input=False, level=-2
        )
    model = Segmenter(
        encoder,
        coarse,
        labels,
        neck=neck,
        refiner=refiner,
        auxiliary=auxiliary,
        # "none" is the encoder's: its divisor is then 1.
        padding="mean" if options.padding == "mean" else "replicate",
        inference_size=options.inference_size,
        config=config,
    )
    # Convolutions follow the memory format of their weights. Channels-last is the fast one on CPUs
    # and GPUs alike, and the stages, whose linear layers need it, then copy nothing.
    model.to(memory_format=torch.channels_last)
    for module in model.modules():
        # On a CPU, torch 2.14 writes past its buffer in the backward pass of a strided 1x1
        # convolution of an image whose weights are channels-last (stems of RepVGG, FastViT).
        if (
            isinstance(module, nn.Conv2d)
            and module.in_channels <= 4
            and module.kernel_size == (1, 1)
            and module.stride != (1, 1)
        ):
            module.to(memory_format=torch.contiguous_format)
    return model
