"""UPerNet head: pyramid pooling on the coarsest level, a feature pyramid above it, all fused.

Source: Xiao, Liu, Zhou, Jiang, Sun, "Unified Perceptual Parsing for Scene Understanding"
(ECCV 2018), section 3.2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pna.model.coarse.layers import Classifier, CoarseHead, ConvBNReLU
from pna.model.coarse.necks import add_top_down
from pna.model.coarse.psp import PyramidPooling
from pna.model.resize import resize


class UPerHead(CoarseHead):
    """Coarse logits at the finest stride, from all levels.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse.
        num_classes: Number of classes K.
        channels: Width of every level and of the fused map.
        bins: Bins along each side of the pooling pyramid, one number per branch.
        dropout: Probability of zeroing a channel before the classifier while training.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        bins: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__(in_channels)
        *finer, coarsest = self.in_channels
        self.pyramid = PyramidPooling(coarsest, channels, bins=bins)
        self.laterals = nn.ModuleList(ConvBNReLU(width, channels, kernel_size=1) for width in finer)
        self.outputs = nn.ModuleList(ConvBNReLU(channels, channels) for _ in finer)
        self.fuse = ConvBNReLU(len(self.in_channels) * channels, channels)
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Fuse all levels at the finest one's size."""
        laterals = [lateral(x) for lateral, x in zip(self.laterals, features[:-1], strict=True)]
        # The coarsest map comes out of the pyramid's own 3x3 convolution, so it needs no output.
        *finer, coarsest = add_top_down([*laterals, self.pyramid(features[-1])], mode="bilinear")
        levels = [output(x) for output, x in zip(self.outputs, finer, strict=True)]
        size = features[0].shape[-2:]
        fused: Tensor = self.fuse(torch.cat([resize(x, size) for x in [*levels, coarsest]], dim=1))
        return fused
