"""The paper's models by name, and how a model is built from its configuration."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from pna.labels import LabelSpace, generic
from pna.model.aggregation.head import PNAHead
from pna.model.aggregation.stage import Residual, Variant
from pna.model.coarse import (
    AtrousNeck,
    DeepLabV3Head,
    DeepLabV3PlusHead,
    FaPNHead,
    FCNHead,
    FeaturePyramid,
    LastLevelHead,
    PSPHead,
    SemanticFPNHead,
    UPerHead,
)
from pna.model.config import ModelConfig, PNAConfig, RivalName
from pna.model.encoder import TimmEncoder, create_encoder
from pna.model.refiner import Refiner
from pna.model.resize import ResizeMode
from pna.model.rivals.decoder import decoder_beside
from pna.model.rivals.dense_crf import DenseCRF
from pna.model.rivals.eblnet import EBLNet
from pna.model.rivals.pointrend import PointRend
from pna.model.rivals.segfix import SegFix
from pna.model.segmenter import Segmenter

_RELEASED = PNAConfig()
_LITE = PNAConfig(widths=(32, 64, 96, 128), window=7, upsample="bilinear", residual="aggregate")

PRESETS: dict[str, ModelConfig] = {
    # Any encoder goes with each of them; the paper's are resnet50c, resnet101c,
    # swin_tiny_patch4_window7_224 and swin_base_patch4_window7_224.
    "fcn": ModelConfig("resnet50c"),
    "fcn-os8": ModelConfig("resnet50c", output_stride=8),
    "fcn-crf": ModelConfig("resnet50c", rival="crf"),
    "fcn-pna": ModelConfig("resnet50c", pna=_RELEASED),
    "fcn-pna-nam": ModelConfig("resnet50c", pna=replace(_RELEASED, self_aggregation=False)),
    "psp": ModelConfig("resnet50c", "psp", output_stride=8),
    "psp-pna": ModelConfig("resnet50c", "psp", output_stride=16, pna=_RELEASED),
    "deeplabv3": ModelConfig("resnet50c", "deeplabv3", output_stride=8),
    "deeplabv3-pna": ModelConfig("resnet50c", "deeplabv3", output_stride=16, pna=_RELEASED),
    "fpn": ModelConfig("resnet50c", "fpn", aux=False),
    "fpn-pna": ModelConfig("resnet50c", "fpn", aux=False, pna=replace(_RELEASED, window=7)),
    "upernet": ModelConfig("resnet50c", "upernet"),
    "upernet-pna": ModelConfig("resnet50c", "upernet", pna=_RELEASED),
    # The rivals, as in their papers: PointRend on an encoder of stride 16, and of stride 4 by a
    # feature pyramid; EBLNet on DeepLabV3's pyramid at its own width.
    "fpn-pointrend": ModelConfig("resnet50c", "fpn", aux=False, rival="pointrend"),
    "deeplabv3-pointrend": ModelConfig(
        "resnet50c", "deeplabv3", rates=(6, 12, 18), output_stride=16, rival="pointrend"
    ),
    "eblnet": ModelConfig(
        "resnet50c", "deeplabv3", coarse_channels=256, output_stride=8, aux=False, rival="eblnet"
    ),
    # Ours: small, and the logits are carried from stage to stage.
    "lite-fcn": ModelConfig("tf_efficientnet_lite0", coarse_channels=128, aux=False),
    "lite": ModelConfig("tf_efficientnet_lite0", coarse_channels=128, aux=False, pna=_LITE),
    # Rivals: coarse heads first.
    "deeplabv3plus": ModelConfig("resnet50c", "deeplabv3plus", output_stride=16),
    "fapn": ModelConfig("resnet50c", "fapn", aux=False),
    # A decoder has the parameters of the PNA head whose options stand with it.
    "fcn-decoder": ModelConfig("resnet50c", pna=_RELEASED, rival="decoder"),
    "lite-decoder": ModelConfig(
        "tf_efficientnet_lite0", coarse_channels=128, aux=False, pna=_LITE, rival="decoder"
    ),
    "fcn-segfix": ModelConfig("resnet50c", rival="segfix"),
}

_COARSE = {
    "fcn": FCNHead,
    "psp": PSPHead,
    "deeplabv3": DeepLabV3Head,
    "deeplabv3plus": DeepLabV3PlusHead,
    "fpn": SemanticFPNHead,
    "fapn": FaPNHead,
    "upernet": UPerHead,
}

# One file of `model/rivals` each: (channels of the encoder's levels, classes) -> refiner.
_RIVALS: dict[RivalName, Callable[[Sequence[int], int], Refiner]] = {
    "crf": lambda channels, num_classes: DenseCRF(),
    "pointrend": PointRend,
    "eblnet": EBLNet,
    "segfix": lambda channels, _: SegFix(channels),
}


def create_model(
    preset: str,
    *,
    encoder: str | None = None,
    num_classes: int | None = None,
    labels: LabelSpace | None = None,
    pretrained: bool = True,
    output_stride: int | None = None,
    multi_grid: tuple[int, ...] | None = None,
    coarse_channels: int | None = None,
    rates: tuple[int, ...] | None = None,
    aux: bool | None = None,
    drop_path: float | None = None,
    widths: tuple[int, ...] | None = None,
    window: int | None = None,
    self_aggregation: bool | None = None,
    upsample: ResizeMode | None = None,
    variant: Variant | None = None,
    residual: Residual | None = None,
    centre: float | None = None,
    embedding_bias: bool | None = None,
) -> Segmenter:
    """Build one of the paper's models, or ours, on any encoder.

    Options left at None keep the preset's value.

    Args:
        preset: A key of `pna.model.presets.PRESETS`.
        encoder: Name of a timm model.
        num_classes: Number of classes K, where they have no names.
        labels: The classes with names and colours; instead of `num_classes`.
        pretrained: Load the encoder's ImageNet weights.
        output_stride: 32, 16 or 8. A preset's own 16 or 8 becomes 32 on an encoder that cannot be
            dilated (Swin); one given here is an error there.
        multi_grid: Factors on the dilation in the last stage of a dilated ResNet.
        coarse_channels: Width of the coarse head.
        rates: Dilations of DeepLabV3's branches, in cells.
        aux: Whether to add the auxiliary head.
        drop_path: Stochastic depth of the encoder.
        widths: Channels of the stages, fine to coarse.
        window: Cells per side of the neighborhood.
        self_aggregation: Whether stages use SAM.
        upsample: How predictions are resized between stages.
        variant: "released", "paper" or "prenorm".
        residual: How logits are carried: "none", "add" or "aggregate".
        centre: Bias with which "aggregate" gathers a cell's own logits at the start.
        embedding_bias: Whether the stages' 1x1 embeddings have a bias.

    Raises:
        ValueError: Unknown preset or encoder, no number of classes, or options that do not fit.
        WeightsError: The ImageNet weights cannot be had.
    """
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    config = _override(
        PRESETS[preset],
        preset,
        {
            "encoder": encoder,
            "output_stride": output_stride,
            "multi_grid": multi_grid,
            "coarse_channels": coarse_channels,
            "rates": rates,
            "aux": aux,
            "drop_path": drop_path,
        },
        {
            "widths": widths,
            "window": window,
            "self_aggregation": self_aggregation,
            "upsample": upsample,
            "variant": variant,
            "residual": residual,
            "centre": centre,
            "embedding_bias": embedding_bias,
        },
    )
    labels = choose_labels(num_classes, labels)
    if output_stride is None and config.output_stride != 32 and not _can_dilate(config):
        config = replace(config, output_stride=32)
    return build(config, labels, pretrained=pretrained)


def build(config: ModelConfig, labels: LabelSpace, *, pretrained: bool = False) -> Segmenter:
    """Build the model that a configuration describes.

    Args:
        config: The parts.
        labels: The classes.
        pretrained: Load the encoder's ImageNet weights.
    """
    encoder = _encoder(config, pretrained=pretrained)
    neck = _neck(config, encoder.channels)
    num_classes = labels.num_classes
    channels = encoder.channels if neck is None else neck.channels
    model = Segmenter(
        encoder,
        _coarse_head(config, channels, num_classes),
        labels,
        neck=neck,
        refiner=_refiner(config, channels, num_classes),
        auxiliary=_auxiliary_head(encoder.channels, num_classes) if config.aux else None,
        config=config,
    )
    # Convolutions follow the layout of their weights; on CPUs and GPUs alike this is the fast one,
    # and the stages, whose linear layers want channels last, then copy nothing.
    return model.to(memory_format=torch.channels_last)


def _encoder(config: ModelConfig, *, pretrained: bool) -> TimmEncoder:
    return create_encoder(
        config.encoder,
        pretrained=pretrained,
        output_stride=config.output_stride,
        multi_grid=config.multi_grid,
        drop_path=config.drop_path,
    )


def _neck(config: ModelConfig, channels: tuple[int, ...]) -> FeaturePyramid | AtrousNeck | None:
    """What coarse head and rival both look at, where that is more than the encoder."""
    if config.rival == "pointrend" and config.coarse == "fpn":
        width = 128 if config.coarse_channels is None else config.coarse_channels
        return FeaturePyramid(channels, 2 * width)
    if config.rival == "eblnet":
        if config.coarse != "deeplabv3":
            raise ValueError(f"eblnet is for deeplabv3, got {config.coarse!r}")
        return AtrousNeck(channels, **_coarse_options(config))
    return None


def _coarse_head(config: ModelConfig, channels: tuple[int, ...], num_classes: int) -> nn.Module:
    if config.rival == "eblnet":
        return LastLevelHead(channels, num_classes)
    options = _coarse_options(config)
    if config.rival == "pointrend" and config.coarse == "fpn":
        options["pyramid"] = None
    head: Any = _COARSE[config.coarse]
    built: nn.Module = head(channels, num_classes, **options)
    return built


def _coarse_options(config: ModelConfig) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if config.coarse_channels is not None:
        options["channels"] = config.coarse_channels
    if config.rates is not None:
        if not config.coarse.startswith("deeplabv3"):
            raise ValueError(f"rates are for deeplabv3, got {config.coarse!r}; leave them at None")
        options["rates"] = config.rates
    return options


def _auxiliary_head(channels: tuple[int, ...], num_classes: int) -> nn.Module:
    return FCNHead(channels, num_classes, channels=256, num_convs=1, concat_input=False, level=-2)


def _refiner(config: ModelConfig, channels: tuple[int, ...], num_classes: int) -> Refiner | None:
    if config.rival == "decoder":
        return _decoder(config.pna, channels, num_classes)
    if config.pna is not None and config.rival is not None:
        raise ValueError(f"expected pna or a rival, got both: pna and {config.rival!r}")
    if config.pna is not None:
        return PNAHead(channels, num_classes, **vars(config.pna))
    if config.rival is not None:
        return _RIVALS[config.rival](channels, num_classes)
    return None


def _decoder(pna: PNAConfig | None, channels: tuple[int, ...], num_classes: int) -> Refiner:
    if pna is None:
        raise ValueError("expected the options of the PNA head that a decoder stands beside")
    with torch.device("meta"):
        head = PNAHead(channels, num_classes, **vars(pna))
    return decoder_beside(head)


def _can_dilate(config: ModelConfig) -> bool:
    try:
        _encoder(config, pretrained=False)
    except ValueError:
        return False
    return True


def _override(
    config: ModelConfig, preset: str, model: dict[str, Any], pna: dict[str, Any]
) -> ModelConfig:
    model = {key: value for key, value in model.items() if value is not None}
    pna = {key: value for key, value in pna.items() if value is not None}
    if pna and config.pna is None:
        raise ValueError(
            f"preset {preset!r} has no refinement, got {', '.join(pna)}; take one that has: "
            f"{', '.join(name for name, known in PRESETS.items() if known.pna)}"
        )
    if config.pna is not None:
        model["pna"] = replace(config.pna, **pna)
    return replace(config, **model)


def choose_labels(num_classes: int | None, labels: LabelSpace | None) -> LabelSpace:
    """The classes that were given, by name or by number.

    Raises:
        ValueError: Neither was given, or they differ.
    """
    if labels is None and num_classes is None:
        raise ValueError("expected num_classes or labels, got neither")
    if labels is None:
        assert num_classes is not None
        return generic(num_classes)
    if num_classes not in (None, labels.num_classes):
        raise ValueError(
            f"got num_classes={num_classes}, but labels {labels.name!r} has {labels.num_classes}"
        )
    return labels
