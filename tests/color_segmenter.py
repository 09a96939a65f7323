"""A segmenter of two convolutions, with two stages: small enough to be exported in every test."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.labels import generic
from pna.model.refiner import Refiner
from pna.model.segmenter import BaseSegmenter, RefinerInput


class ColorRefiner(Refiner):
    """The coarse logits, resized and corrected by the features of strides 2 and 1."""

    num_stages = 2

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features, coarse, *, images=None):
        stages = [coarse]
        for feature in reversed(features):
            size = feature.shape[-2:]
            carried = F.interpolate(stages[-1], size=size, mode="bilinear", align_corners=False)
            stages.append(carried + self.classify(feature))
        return stages[1:]


class ColorSegmenter(BaseSegmenter):
    """Pads to multiples of 4; coarse at stride 4, refined at strides 2 and 1."""

    strides = (1, 2)
    divisor = 4
    origin = "two convolutions"

    def __init__(self, num_classes: int = 3, channels: int = 3) -> None:
        torch.manual_seed(0)
        super().__init__(generic(num_classes), mean=[0.4] * channels, std=[0.25] * channels)
        self.config = None
        self.features = nn.Conv2d(channels, 4, 3, padding=1)
        self.head = nn.Conv2d(4, num_classes, 1)
        self.refiner = ColorRefiner(4, num_classes)

    def encoder_parameters(self):
        return frozenset()

    def encode(self, images: Tensor) -> RefinerInput:
        fine = self.features(images).relu()
        half = F.avg_pool2d(fine, 2)
        return RefinerInput([fine, half], self.head(F.avg_pool2d(half, 2)), {})
