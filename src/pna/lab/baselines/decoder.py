"""The equal-size decoder: a control with PNA's inputs, losses, stages and number of parameters.

A stage adds the features and the resized previous prediction, both after a 1x1 convolution, and
classifies them after two 3x3 convolutions with batch norm and ReLU. A gain of PNA over this decoder
comes from neighborhood aggregation, and not from more parameters, finer features or the losses of
the stages.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pna.errors import PnaError
from pna.labels import LabelSpace
from pna.model.coarse.fcn import FCNHead
from pna.model.coarse.layers import ConvBNReLU
from pna.model.config import ModelConfig
from pna.model.encoder import EncoderWeights
from pna.model.pna.head import PNAHead
from pna.model.presets import allow_head_options, assemble, build_encoder, coarse_width
from pna.model.refiner import StagedRefiner, StageOutput
from pna.model.resize import ResizeMode, resize
from pna.model.segmenter import Segmenter

DecoderResidual = Literal["none", "add"]


class DecoderStage(nn.Module):
    """Refine a prediction with one level of features.

    Args:
        in_channels: Channels C of the features.
        num_classes: Channels K of the prediction.
        width: Channels of the convolutions.
        upsample: How the previous prediction is resized before it is embedded.
        residual: Whether the previous logits are resized and added ("add"), or not ("none").
        handed_on: Channels of what the previous stage hands on; None takes nothing.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int,
        upsample: ResizeMode = "bilinear",
        residual: DecoderResidual = "none",
        handed_on: int | None = None,
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.residual = residual
        self.embed_feature = nn.Conv2d(in_channels, width, 1, bias=False)
        self.embed_prediction = nn.Conv2d(num_classes, width, 1, bias=False)
        self.receive = None if handed_on is None else nn.Conv2d(handed_on, width, 1, bias=False)
        self.convs = nn.Sequential(ConvBNReLU(width, width), ConvBNReLU(width, width))
        self.classifier = nn.Conv2d(width, num_classes, 1)
        # With "add" a stage starts as the identity and learns corrections, as PNA's stages do.
        nn.init.normal_(self.classifier.weight, std=0.01 if residual == "none" else 0.001)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]  # declared as optional

    def forward(
        self,
        feature: Tensor,
        previous: Tensor,
        detail: Tensor | None = None,
        handed_on: Tensor | None = None,
        images: Tensor | None = None,
    ) -> StageOutput:
        """Refine the previous logits.

        Args:
            feature: (B, C, H, W) of the encoder.
            previous: (B, K, h, w) logits of any size.
            detail: Not used.
            handed_on: (B, D', h', w') of the previous stage.
            images: Not used.

        Returns:
            Logits (B, K, H, W) and features (B, D, H, W).
        """
        size = feature.shape[-2:]
        x = self.embed_feature(feature) + self.embed_prediction(
            resize(previous, size, self.upsample)
        )
        if self.receive is not None:
            assert handed_on is not None
            x = x + resize(self.receive(handed_on), size)
        x = self.convs(x)
        logits: Tensor = self.classifier(x)
        if self.residual != "none":
            logits = logits + resize(previous, size)
        return StageOutput(logits, x)


class PlainDecoder(StagedRefiner):
    """A convolutional decoder: one `DecoderStage` per level of features, coarse to fine.

    Args:
        in_channels: Channels of each level of features, fine to coarse.
        num_classes: Channels K of the logits.
        widths: Channels of each stage, fine to coarse.
        upsample: How a prediction is resized before the next stage embeds it.
        residual: Whether the previous logits are resized and added ("add"), or not ("none").
        pass_features: Whether a stage hands its features on to the next finer one.

    Raises:
        PnaError: The number of widths is not that of the levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[int],
        upsample: ResizeMode = "bilinear",
        residual: DecoderResidual = "none",
        pass_features: bool = False,
    ) -> None:
        levels = len(in_channels)
        if len(widths) != levels:
            raise PnaError(f"expected one width for each of {levels} levels, got {tuple(widths)}")
        handed_on: Sequence[int | None] = [None] * levels
        if pass_features:
            handed_on = [*widths[1:], None]
        stages = (
            DecoderStage(
                in_channels[i],
                num_classes,
                width=widths[i],
                upsample=upsample,
                residual=residual,
                handed_on=handed_on[i],
            )
            for i in reversed(range(levels))
        )
        super().__init__(in_channels, num_classes, stages)


def equal_size_decoder(head: PNAHead, *, pass_features: bool = False) -> PlainDecoder:
    """Build the plain decoder whose stages have as many parameters as those of a PNA head.

    Every parameter of both is used once per cell, so stages of equal size also take about as many
    multiply-accumulates, those of the attention products aside. The decoder resizes predictions as
    the head does, and carries logits ("add") where the head carries them.

    Args:
        head: The head, possibly on the meta device.
        pass_features: Whether the decoder's stages hand their features on.

    Example:
        >>> head = PNAHead([16, 32], num_classes=3)
        >>> decoder = equal_size_decoder(head)
        >>> sizes = [sum(p.numel() for p in m.parameters()) for m in (head, decoder)]
        >>> abs(sizes[1] / sizes[0] - 1) < 0.02
        True
    """

    def miss(width: int, in_channels: int, handed_on: int | None, target: int) -> int:
        # Counted on a stage itself, without memory for it.
        with torch.device("meta"):
            stage = DecoderStage(in_channels, head.num_classes, width=width, handed_on=handed_on)
        return abs(sum(p.numel() for p in stage.parameters()) - target)

    widths: list[int] = []  # coarse to fine
    targets = [sum(p.numel() for p in stage.parameters()) for stage in head.stages]
    levels = len(head.in_channels)
    # The decoder has no stage on the image: those parameters go to its finest one.
    targets[levels - 1] += sum(p.numel() for p in head.parameters()) - sum(targets[:levels])
    for channels, target in zip(reversed(head.in_channels), targets[:levels], strict=True):
        handed_on = widths[-1] if pass_features and widths else None
        # A stage of width D has 18 D^2 + (C + 2 K + 4 + handed on) D + K parameters: solve for D,
        # then take the better of its two integer neighbors.
        linear = channels + 2 * head.num_classes + 4 + (handed_on or 0)
        constant = max(target - head.num_classes, 0)
        exact = int((-linear + (linear**2 + 72 * constant) ** 0.5) / 36)
        candidates = (max(1, exact), exact + 1)
        widths.append(min(candidates, key=lambda width: miss(width, channels, handed_on, target)))
    return PlainDecoder(
        head.in_channels,
        head.num_classes,
        widths=widths[::-1],
        upsample=head.config.upsample,
        residual="none" if head.config.residual == "none" else "add",
        pass_features=pass_features,
    )


def build_fcn_decoder(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build an FCN refined by the equal-size decoder of the PNA head in `config.pna`."""
    return _build(config, labels, weights, pass_features=False)


def build_fcn_decoder_features(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build the same with stages that hand their features on."""
    return _build(config, labels, weights, pass_features=True)


def _build(
    config: ModelConfig,
    labels: LabelSpace,
    weights: EncoderWeights | None,
    *,
    pass_features: bool,
) -> Segmenter:
    allow_head_options(config)
    assert config.pna is not None
    encoder = build_encoder(config, weights)
    coarse = FCNHead(encoder.channels, labels.num_classes, **coarse_width(config))
    with torch.device("meta"):
        head = PNAHead(encoder.channels, labels.num_classes, config.pna)
    decoder = equal_size_decoder(head, pass_features=pass_features)
    return assemble(config, labels, encoder, coarse, refiner=decoder)
