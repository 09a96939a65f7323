"""DeepLabV3 head: parallel dilated convolutions and the picture's average on the coarsest level.

Source: Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image
Segmentation" (2017), section 3.3, with the 3x3 convolution that today's versions fuse with.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pna.model.coarse.layers import Classifier, CoarseHead, ConvBNReLU
from pna.model.resize import resize


class DeepLabV3Head(CoarseHead):
    """Coarse logits from atrous spatial pyramid pooling (ASPP).

    Args:
        in_channels: channels of all encoder levels, fine to coarse.
        num_classes: number of classes K.
        channels: width of each branch and of the fused map.
        rates: dilations of the 3x3 branches, in cells; (12, 24, 36) suits output stride 8 and
            (6, 12, 18) output stride 16.
        dropout: probability of zeroing a channel before the classifier while training.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        rates: Sequence[int] = (12, 24, 36),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(in_channels)
        width = self.in_channels[-1]
        self.pooled = ConvBNReLU(width, channels, kernel_size=1)
        self.branches = nn.ModuleList(
            [
                ConvBNReLU(width, channels, kernel_size=1),
                *(ConvBNReLU(width, channels, dilation=rate) for rate in rates),
            ]
        )
        self.fuse = ConvBNReLU((1 + len(self.branches)) * channels, channels)
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Look at the coarsest level through all rates."""
        x = features[-1]
        average = self.pooled(x.mean(dim=(2, 3), keepdim=True))  # (B, channels, 1, 1)
        branches = [branch(x) for branch in self.branches]
        fused: Tensor = self.fuse(torch.cat([resize(average, x.shape[-2:]), *branches], dim=1))
        return fused
