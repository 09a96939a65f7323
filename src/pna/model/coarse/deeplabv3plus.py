"""DeepLabV3+: atrous pyramid of separable convolutions, and a decoder on the finest level.

Source: Chen, Zhu, Papandreou, Schroff, Adam, "Encoder-Decoder with Atrous Separable Convolution for
Semantic Image Segmentation" (ECCV 2018), section 3.1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pna.model.coarse.deeplab import AtrousPyramid
from pna.model.coarse.layers import BatchNorm, Classifier, CoarseHead, ConvBNReLU
from pna.model.resize import resize


class SeparableConvBNReLU(nn.Sequential):
    """An atrous separable convolution: 3x3 depth-wise, then 1x1, each with batch norm and ReLU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the result.
        dilation: Distance of the depth-wise kernel's taps, in cells.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dilation: int = 1) -> None:
        conv = nn.Conv2d(
            in_channels,
            in_channels,
            3,
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            bias=False,
        )
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        super().__init__(
            conv,
            BatchNorm(in_channels),
            nn.ReLU(inplace=True),
            *ConvBNReLU(in_channels, out_channels, kernel_size=1),
        )


class DeepLabV3PlusHead(CoarseHead):
    """Coarse logits at the finest stride: atrous pyramid, then a decoder with the finest level.

    All 3x3 convolutions but the one that fuses the pyramid's branches are atrous separable ones.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse.
        num_classes: Number of classes K.
        channels: Width of the pyramid's branches, of the fused map and of the decoder.
        low_level_channels: Channels that the finest level is reduced to.
        rates: Dilations of the 3x3 branches, in cells; (6, 12, 18) suits output stride 16 and
            (12, 24, 36) output stride 8.
        dropout: Probability of zeroing a channel before the classifier while training.
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
        super().__init__(in_channels)
        self.pyramid = AtrousPyramid(
            self.in_channels[-1], channels, rates=rates, branch=SeparableConvBNReLU
        )
        self.classifier = Classifier(channels, num_classes, dropout=dropout)
        self.low_level = ConvBNReLU(self.in_channels[0], low_level_channels, kernel_size=1)
        self.decoder = nn.Sequential(
            SeparableConvBNReLU(channels + low_level_channels, channels),
            SeparableConvBNReLU(channels, channels),
        )

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Decode the pyramid's map and the finest level, at the finest level's size."""
        finest = features[0]
        # (B, channels, H, W), joined by few channels of the finest level: many would outweigh it.
        context = resize(self.pyramid(features[-1]), finest.shape[-2:])
        decoded: Tensor = self.decoder(torch.cat([context, self.low_level(finest)], dim=1))
        return decoded
