"""TransLab: a boundary, predicted first, weighs the features of an atrous decoder.

Source: Xie, Wang, Wang, Ding, Shen, Luo, "Segmenting Transparent Objects in the Wild" (ECCV 2020),
section 4. Sizes, the weight of 5 and outlines 8 pixels wide as in the authors' released code
(xieenze/Segment_Transparent_Objects). Two of its ways are not taken: maps are resized without
aligned corners, as everywhere here, and the squeeze of the attention averages maps of any aspect,
not square ones alone.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pna.lab.baselines.eblnet import dice, is_boundary
from pna.labels import IGNORE_INDEX, LabelSpace
from pna.model.coarse.deeplab import AtrousPyramid
from pna.model.coarse.deeplabv3plus import SeparableConvBNReLU
from pna.model.coarse.layers import Classifier, CoarseHead, ConvBNReLU
from pna.model.config import ModelConfig
from pna.model.encoder import EncoderWeights
from pna.model.presets import (
    allow_head_options,
    assemble,
    atrous_rates,
    build_encoder,
    coarse_width,
)
from pna.model.refiner import Refiner, RefinerOutput
from pna.model.resize import resize
from pna.model.segmenter import Segmenter

BOUNDARY_WEIGHT = 5.0
"""Weight of the boundary's dice loss."""
_SQUEEZE = 16  # times fewer channels inside of the channel attention


class BoundaryHead(nn.Module):
    """Predict the boundary: an atrous pyramid, joined by the finest level.

    Args:
        in_channels: Channels of the coarsest level.
        low_channels: Channels of the finest level.
        channels: Width.
        skip_channels: Channels that the finest level is reduced to.
        rates: Dilations of the pyramid, in cells.
    """

    def __init__(
        self,
        in_channels: int,
        low_channels: int,
        channels: int,
        *,
        skip_channels: int,
        rates: Sequence[int],
    ) -> None:
        super().__init__()
        self.pyramid = _pyramid(in_channels, channels, rates)
        self.reduce = ConvBNReLU(low_channels, skip_channels, kernel_size=1)
        self.decode = nn.Sequential(
            SeparableConvBNReLU(channels + skip_channels, channels),
            SeparableConvBNReLU(channels, channels),
            nn.Conv2d(channels, 1, 1),
        )

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        """Map coarse (B, ., h', w') and fine (B, ., h, w) features to logits (B, 1, h, w)."""
        context = resize(self.pyramid(high), low.shape[-2:])
        logits: Tensor = self.decode(torch.cat([context, self.reduce(low)], dim=1))
        return logits


def _pyramid(in_channels: int, channels: int, rates: Sequence[int]) -> AtrousPyramid:
    return AtrousPyramid(
        in_channels, channels, rates=rates, branch=SeparableConvBNReLU, fuse_kernel=1
    )


class BoundaryAttention(nn.Module):
    """Boundary attention module: join a map with its part at the boundary, then weigh channels.

    Args:
        channels: Channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // _SQUEEZE)
        self.join = SeparableConvBNReLU(2 * channels, channels)
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor, boundary: Tensor) -> Tensor:
        """Map (B, C, h, w), given probabilities (B, 1, ., .) of the boundary."""
        joined = self.join(torch.cat([x, x * resize(boundary, x.shape[-2:])], dim=1))
        weighed: Tensor = joined * self.weigh(joined)
        return weighed


class TransLabNeck(nn.Module):
    """Encoder levels to the decoded map at the finest level's stride, and the boundary's logits.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse; at least one.
        channels: Width of both decoders.
        rates: Dilations of both pyramids, in cells; (6, 12, 18) suits output stride 16.
        skip_channels: Channels that the finest level is reduced to in both decoders.
        middle_channels: Channels that the level after it is reduced to.

    Attributes:
        channels: Channels of the two results.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        rates: Sequence[int] = (6, 12, 18),
        skip_channels: int = 48,
        middle_channels: int = 24,
    ) -> None:
        super().__init__()
        fine, middle, coarse = (
            in_channels[0],
            in_channels[min(1, len(in_channels) - 1)],
            in_channels[-1],
        )
        self.channels = (channels, 1)
        self.boundary = BoundaryHead(
            coarse, fine, channels, skip_channels=skip_channels, rates=rates
        )
        self.attend_levels = nn.ModuleList(map(BoundaryAttention, (fine, middle, coarse)))
        self.pyramid = _pyramid(coarse, channels, rates)
        self.reduce_middle = ConvBNReLU(middle, middle_channels, kernel_size=1)
        width = channels + middle_channels
        self.attend_middle = BoundaryAttention(width)
        self.decode_middle = nn.Sequential(
            SeparableConvBNReLU(width, width), SeparableConvBNReLU(width, width)
        )
        self.reduce_fine = ConvBNReLU(fine, skip_channels, kernel_size=1)
        self.attend_fine = BoundaryAttention(width + skip_channels)
        self.decode_fine = nn.Sequential(
            SeparableConvBNReLU(width + skip_channels, channels),
            SeparableConvBNReLU(channels, channels),
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map features, fine to coarse, to (B, channels, h, w) and (B, 1, h, w)."""
        levels = features[0], features[min(1, len(features) - 1)], features[-1]
        logits = self.boundary(levels[2], levels[0])
        boundary = logits.sigmoid()
        fine, middle, coarse = (
            attend(x, boundary) for attend, x in zip(self.attend_levels, levels, strict=True)
        )
        context = resize(self.pyramid(coarse), middle.shape[-2:])
        x = self.attend_middle(torch.cat([context, self.reduce_middle(middle)], dim=1), boundary)
        x = resize(self.decode_middle(x), fine.shape[-2:])
        x = self.attend_fine(torch.cat([x, self.reduce_fine(fine)], dim=1), boundary)
        return [self.decode_fine(x), logits]


class DecodedHead(CoarseHead):
    """Logits from the first level alone: the decoded map of `TransLabNeck`.

    Args:
        in_channels: Channels of all levels.
        num_classes: Number of classes K.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int) -> None:
        super().__init__(in_channels)
        self.classifier = Classifier(self.in_channels[0], num_classes, dropout=0.0)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Return the decoded map."""
        return features[0]


class BoundaryLoss(Refiner):
    """No refinement: it hands the boundary's logits to its loss, in training.

    Args:
        of_logits: Take the dice loss of the raw logits, as the authors' code does while it trains;
            the paper's is of probabilities.
    """

    num_stages = 0

    def __init__(self, *, of_logits: bool = False) -> None:
        super().__init__()
        self.of_logits = of_logits

    def forward(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> list[Tensor]:
        """Return nothing: P0 is the prediction."""
        return []

    def forward_training(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> RefinerOutput:
        """Return the logits "boundary" (B, 1, h, w) in `aux`, and no stage."""
        return RefinerOutput([], {"boundary": features[1]})

    def losses(self, aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Compute 5 times the dice loss of the outlines of all regions."""
        predicted = resize(aux["boundary"], labels.shape[-2:])[:, 0]
        if not self.of_logits:
            predicted = predicted.sigmoid()
        loss = dice(predicted, is_boundary(labels), labels != IGNORE_INDEX)
        return {"boundary": BOUNDARY_WEIGHT * loss}


def build_translab(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build TransLab."""
    allow_head_options(config, "rates")
    encoder = build_encoder(config, weights)
    neck = TransLabNeck(encoder.channels, **coarse_width(config), **atrous_rates(config))
    coarse = DecodedHead(neck.channels, labels.num_classes)
    return assemble(config, labels, encoder, coarse, neck=neck, refiner=BoundaryLoss())
