"""Fully convolutional head: a few 3x3 convolutions on one level of the encoder.

Source: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation"
(CVPR 2015), in the form the field has settled on: the level's features join the result of the
convolutions once more before the classifier. PNA's coarse head (paper, section 4.1), and its
auxiliary head in a smaller size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pna.errors import PnaError
from pna.model.coarse.layers import Classifier, CoarseHead, ConvBNReLU


class FCNHead(CoarseHead):
    """Coarse logits from one level.

    The auxiliary head of the field is `channels=256, num_convs=1, concat_input=False, level=-2`.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse.
        num_classes: Number of classes K.
        channels: Width of the convolutions.
        num_convs: 3x3 convolutions before the join, at least 1.
        concat_input: Join the level's features with the result by one more 3x3 convolution.
        level: Which level to read, counted as in Python (-1 is the coarsest); one beyond the
            levels there are becomes the nearest that is, so -2 serves an encoder of one level.
        dropout: Probability of zeroing a channel before the classifier while training.

    Raises:
        PnaError: `in_channels` is empty or `num_convs` is below 1.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        num_convs: int = 2,
        concat_input: bool = True,
        level: int = -1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(in_channels)
        if num_convs < 1:
            raise PnaError(f"expected num_convs of at least 1, got {num_convs}")
        num_levels = len(self.in_channels)
        if num_levels == 0:
            raise PnaError("expected at least one encoder level, got in_channels=()")
        index = level + num_levels if level < 0 else level
        # Clamped: some encoders have one level alone, and the auxiliary head then shares it.
        self.level = min(max(index, 0), num_levels - 1)
        width = self.in_channels[self.level]
        self.convs = nn.Sequential(
            ConvBNReLU(width, channels),
            *(ConvBNReLU(channels, channels) for _ in range(num_convs - 1)),
        )
        self.join = ConvBNReLU(width + channels, channels) if concat_input else None
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Convolve the chosen level."""
        x = features[self.level]  # (B, C, h, w)
        out: Tensor = self.convs(x)
        if self.join is not None:
            out = self.join(torch.cat([x, out], dim=1))
        return out
