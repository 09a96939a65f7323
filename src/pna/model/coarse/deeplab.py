"""DeepLab heads: parallel dilated convolutions and the picture's average on the coarsest level.

Sources: Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image
Segmentation" (2017), section 3.3, with the 3x3 convolution that today's versions fuse with; Chen,
Zhu, Papandreou, Schroff, Adam, "Encoder-Decoder with Atrous Separable Convolution for Semantic
Image Segmentation" (ECCV 2018), section 3.1, for DeepLabV3+.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pna.model.coarse.layers import Classifier, CoarseHead, ConvBNReLU, SeparableConvBNReLU
from pna.model.resize import resize

_RATES = (12, 24, 36)


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling (ASPP).

    Args:
        in_channels: channels of the map.
        channels: width of each branch and of the fused map.
        rates: dilations of the 3x3 branches, in cells; (12, 24, 36) suits output stride 8 and
            (6, 12, 18) output stride 16.
        separable: make the 3x3 branches of atrous separable convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        rates: Sequence[int] = _RATES,
        separable: bool = False,
    ) -> None:
        super().__init__()
        branch: Callable[..., nn.Module] = SeparableConvBNReLU if separable else ConvBNReLU
        self.pooled = ConvBNReLU(in_channels, channels, kernel_size=1)
        self.branches = nn.ModuleList(
            [
                ConvBNReLU(in_channels, channels, kernel_size=1),
                *(branch(in_channels, channels, dilation=rate) for rate in rates),
            ]
        )
        self.fuse = ConvBNReLU((1 + len(self.branches)) * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Look at a map (B, in_channels, h, w) through all rates: (B, channels, h, w)."""
        average = self.pooled(x.mean(dim=(2, 3), keepdim=True))  # (B, channels, 1, 1)
        branches = [branch(x) for branch in self.branches]
        fused: Tensor = self.fuse(torch.cat([resize(average, x.shape[-2:]), *branches], dim=1))
        return fused


class DeepLabV3Head(CoarseHead):
    """Coarse logits from atrous spatial pyramid pooling on the coarsest level.

    Args:
        in_channels: channels of all encoder levels, fine to coarse.
        num_classes: number of classes K.
        channels: width of each branch and of the fused map.
        rates: dilations of the 3x3 branches; see `AtrousPyramid`.
        separable: make the 3x3 branches of atrous separable convolutions.
        dropout: probability of zeroing a channel before the classifier while training.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        rates: Sequence[int] = _RATES,
        separable: bool = False,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(in_channels)
        self.pyramid = AtrousPyramid(
            self.in_channels[-1], channels, rates=rates, separable=separable
        )
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Look at the coarsest level through all rates."""
        gathered: Tensor = self.pyramid(features[-1])
        return gathered


class AtrousNeck(nn.Module):
    """The encoder's levels, and what DeepLabV3 makes of the coarsest as one more.

    `LastLevelHead` then classifies it as `DeepLabV3Head` would, and a refiner can look at it.

    Args:
        in_channels: channels of all encoder levels, fine to coarse.
        channels: width of the pyramid.
        rates: dilations of its 3x3 branches.

    Attributes:
        channels: channels of all levels of the result.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int = 512, *, rates: Sequence[int] = _RATES
    ) -> None:
        super().__init__()
        self.pyramid = AtrousPyramid(in_channels[-1], channels, rates=rates)
        self.channels = (*in_channels, channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map n features, fine to coarse, to n + 1."""
        return [*features, self.pyramid(features[-1])]


class LastLevelHead(CoarseHead):
    """Coarse logits from the last level as it is.

    Args:
        in_channels: channels of all levels.
        num_classes: number of classes K.
        dropout: probability of zeroing a channel before the classifier while training.
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, *, dropout: float = 0.1
    ) -> None:
        super().__init__(in_channels)
        self.classifier = Classifier(self.in_channels[-1], num_classes, dropout=dropout)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Take the last level."""
        return features[-1]


class DeepLabV3PlusHead(DeepLabV3Head):
    """Coarse logits at the finest stride: ASPP, then a decoder that looks at the finest level.

    All 3x3 convolutions but the one that fuses ASPP's branches are atrous separable ones.

    Args:
        in_channels: channels of all encoder levels, fine to coarse.
        num_classes: number of classes K.
        channels: width of ASPP's branches, of the fused map and of the decoder.
        low_level_channels: channels that the finest level is reduced to.
        rates: dilations of the 3x3 branches, in cells; (6, 12, 18) suits output stride 16 and
            (12, 24, 36) output stride 8.
        dropout: probability of zeroing a channel before the classifier while training.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        low_level_channels: int = 48,
        rates: Sequence[int] = (6, 12, 18),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(
            in_channels,
            num_classes,
            channels=channels,
            rates=rates,
            separable=True,
            dropout=dropout,
        )
        self.low_level = ConvBNReLU(self.in_channels[0], low_level_channels, kernel_size=1)
        self.decoder = nn.Sequential(
            SeparableConvBNReLU(channels + low_level_channels, channels),
            SeparableConvBNReLU(channels, channels),
        )

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Join what ASPP sees with the finest level, at that one's size."""
        finest = features[0]
        context = resize(super().gather(features), finest.shape[-2:])
        decoded: Tensor = self.decoder(torch.cat([context, self.low_level(finest)], dim=1))
        return decoded
