"""Pyramid scene parsing head: the coarsest level with its averages over a pyramid of bins.

Source: Zhao, Shi, Qi, Wang, Jia, "Pyramid Scene Parsing Network" (CVPR 2017), section 3.2.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pna.model.coarse.layers import Classifier, CoarseHead, ConvBNReLU
from pna.model.resize import adaptive_average_pool, resize


class PyramidPooling(nn.Module):
    """The pooling pyramid of PSPNet, fused back into one map.

    Args:
        in_channels: Channels of the input.
        channels: Channels of each pooled branch and of the result.
        bins: Bins along each side, one number per branch.
    """

    def __init__(self, in_channels: int, channels: int, *, bins: Sequence[int]) -> None:
        super().__init__()
        self.bins = tuple(bins)
        self.branches = nn.ModuleList(
            ConvBNReLU(in_channels, channels, kernel_size=1) for _ in self.bins
        )
        self.fuse = ConvBNReLU(in_channels + len(self.bins) * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, channels, h, w)."""
        pooled = [
            branch(adaptive_average_pool(x, (bins, bins)))
            for bins, branch in zip(self.bins, self.branches, strict=True)
        ]
        # (B, channels, bins, bins) each, resized to (h, w) and joined to the map.
        fused: Tensor = self.fuse(torch.cat([x, *(resize(p, x.shape[-2:]) for p in pooled)], dim=1))
        return fused


class PSPHead(CoarseHead):
    """Coarse logits from pyramid pooling on the coarsest level.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse.
        num_classes: Number of classes K.
        channels: Width of each pooled branch and of the fused map.
        bins: Bins along each side, one number per branch.
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
        self.pyramid = PyramidPooling(self.in_channels[-1], channels, bins=bins)
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Pool the coarsest level."""
        pooled: Tensor = self.pyramid(features[-1])
        return pooled
