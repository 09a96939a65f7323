"""DeepLabV3 head: parallel dilated convolutions and the map's average, on the coarsest level.

Source: Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image
Segmentation" (2017), section 3.3. The branches are fused by a 3x3 convolution, as in
mmsegmentation, where the paper has a 1x1 one.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pna.model.coarse.layers import Classifier, CoarseHead, ConvBNReLU
from pna.model.resize import resize

_RATES = (12, 24, 36)


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling (ASPP).

    Args:
        in_channels: Channels of the map.
        channels: Width of each branch and of the fused map.
        rates: Dilations of the 3x3 branches, in cells; (12, 24, 36) suits output stride 8 and
            (6, 12, 18) output stride 16.
        branch: Makes a 3x3 branch from channels in, channels out and `dilation=`.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        rates: Sequence[int] = _RATES,
        branch: Callable[..., nn.Module] = ConvBNReLU,
    ) -> None:
        super().__init__()
        self.pooled = ConvBNReLU(in_channels, channels, kernel_size=1)
        self.branches = nn.ModuleList(
            [
                ConvBNReLU(in_channels, channels, kernel_size=1),
                *(branch(in_channels, channels, dilation=rate) for rate in rates),
            ]
        )
        self.fuse = ConvBNReLU((1 + len(self.branches)) * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, channels, h, w)."""
        average = self.pooled(x.mean(dim=(2, 3), keepdim=True))  # (B, channels, 1, 1)
        # The average fills the map again: the branch is the context of the whole image.
        branches = [branch(x) for branch in self.branches]
        fused: Tensor = self.fuse(torch.cat([resize(average, x.shape[-2:]), *branches], dim=1))
        return fused


class DeepLabV3Head(CoarseHead):
    """Coarse logits from atrous spatial pyramid pooling on the coarsest level.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse.
        num_classes: Number of classes K.
        channels: Width of each branch and of the fused map.
        rates: Dilations of the 3x3 branches; see `AtrousPyramid`.
        dropout: Probability of zeroing a channel before the classifier while training.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        rates: Sequence[int] = _RATES,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(in_channels)
        self.pyramid = AtrousPyramid(self.in_channels[-1], channels, rates=rates)
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Apply the pyramid to the coarsest level."""
        gathered: Tensor = self.pyramid(features[-1])
        return gathered
