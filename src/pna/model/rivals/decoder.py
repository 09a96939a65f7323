"""A plain decoder, the control: what convolutions make of all that PNA sees, for as much.

Per level, coarse to fine: features and resized prediction through a 1x1 convolution each, added,
two 3x3 convolutions with batch norm and ReLU, and a 1x1 classifier. A gain of PNA over it is the
method's own, and not that of more parameters, finer features or the losses of the stages.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pna.model.aggregation.head import PNAHead
from pna.model.aggregation.stage import Stage
from pna.model.coarse.layers import ConvBNReLU
from pna.model.refiner import StagedRefiner
from pna.model.resize import ResizeMode, resize

DecoderResidual = Literal["none", "add"]


class DecoderStage(nn.Module):
    """Refine a prediction on one level of features.

    Args:
        in_channels: Channels C of the features.
        num_classes: Channels K of the prediction.
        width: Channels of the convolutions.
        upsample: How the previous prediction is resized before it is embedded.
        residual: Whether the previous logits are resized and added ("add"), or not ("none").
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int,
        upsample: ResizeMode = "bilinear",
        residual: DecoderResidual = "none",
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.residual = residual
        self.embed_feature = nn.Conv2d(in_channels, width, 1, bias=False)
        self.embed_prediction = nn.Conv2d(num_classes, width, 1, bias=False)
        self.convs = nn.Sequential(ConvBNReLU(width, width), ConvBNReLU(width, width))
        self.classifier = nn.Conv2d(width, num_classes, 1)
        # With "add" a stage begins as the identity and learns corrections, as PNA's does.
        nn.init.normal_(self.classifier.weight, std=0.01 if residual == "none" else 0.001)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]  # declared as optional

    def forward(self, feature: Tensor, previous: Tensor) -> Tensor:
        """Refine.

        Args:
            feature: (B, C, H, W) of the encoder.
            previous: (B, K, h, w) logits of any size.

        Returns:
            (B, K, H, W) logits.
        """
        size = feature.shape[-2:]
        prediction = self.embed_prediction(resize(previous, size, self.upsample))
        logits: Tensor = self.classifier(self.convs(self.embed_feature(feature) + prediction))
        return logits if self.residual == "none" else logits + resize(previous, size)


class PlainDecoder(StagedRefiner):
    """The control: `DecoderStage` on every level.

    Args:
        in_channels: Channels of each level of features, fine to coarse.
        num_classes: Channels K of the logits.
        widths: Channels of each stage, fine to coarse.
        upsample: How a prediction is resized before the next stage embeds it.
        residual: Whether the previous logits are resized and added ("add"), or not ("none").

    Raises:
        ValueError: The number of widths is not that of the levels.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[int],
        upsample: ResizeMode = "bilinear",
        residual: DecoderResidual = "none",
    ) -> None:
        levels = len(in_channels)
        if len(widths) != levels:
            raise ValueError(f"expected one width for each of {levels} levels, got {tuple(widths)}")
        stages = (
            DecoderStage(
                in_channels[i], num_classes, width=widths[i], upsample=upsample, residual=residual
            )
            for i in reversed(range(levels))
        )
        super().__init__(in_channels, num_classes, stages)


def decoder_beside(head: PNAHead) -> PlainDecoder:
    """The plain decoder to compare a PNA head with: as many parameters, stage by stage.

    All convolutions are plain ones, so each parameter is used once per cell: stages of equal
    parameters also take about as many multiply-accumulates, the attention product aside. The
    decoder resizes as the head does, and carries the logits ("add") where the head does.

    Args:
        head: The head, possibly on the meta device.
    """
    coarsest = head.stages[0]
    assert isinstance(coarsest, Stage)
    widths = [
        _matching_width(channels, head.num_classes, sum(p.numel() for p in stage.parameters()))
        for channels, stage in zip(head.in_channels, reversed(head.stages), strict=True)
    ]
    return PlainDecoder(
        head.in_channels,
        head.num_classes,
        widths=widths,
        upsample=coarsest.upsample,
        residual="none" if coarsest.residual == "none" else "add",
    )


def _matching_width(in_channels: int, num_classes: int, parameters: int) -> int:
    """The width whose `DecoderStage` has nearest to so many parameters."""

    def miss(width: int) -> int:
        with torch.device("meta"):
            stage = DecoderStage(in_channels, num_classes, width=width)
        return abs(sum(p.numel() for p in stage.parameters()) - parameters)

    # 18 D^2 + (C + 2 K + 4) D + K = parameters
    linear = in_channels + 2 * num_classes + 4
    exact = (-linear + (linear**2 + 72 * max(parameters - num_classes, 0)) ** 0.5) / 36
    return min((max(1, int(exact)), int(exact) + 1), key=miss)
