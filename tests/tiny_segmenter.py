"""The smallest segmenter: classes by color, so that the right answer is known."""

import torch
import torch.nn.functional as F
from torch import nn

from pna.labels import generic
from pna.model.refiner import Refiner
from pna.model.segmenter import BaseSegmenter, RefinerInput, StageSimilarity


class TinyRefiner(Refiner):
    """Predictions from images pooled by 2 and by 1."""

    num_stages = 2

    def __init__(self, classify):
        super().__init__()
        self.classify = classify

    def forward(self, features, coarse, *, images=None):
        return [self.classify(feature) for feature in reversed(features)]


class TinySegmenter(BaseSegmenter):
    """Classifies each pixel by its color; coarse at stride 4, refined at strides 2 and 1."""

    strides = (1, 2)
    divisor = 4
    origin = "colors"

    def __init__(self, labels=None, num_stages=2):
        super().__init__(generic(3) if labels is None else labels, mean=[0] * 3, std=[1] * 3)
        self.config = None
        self.classify = nn.Conv2d(3, self.num_classes, 1)
        self.drop = nn.Dropout(0.5)  # forgetting evaluation mode changes what comes out
        # A function, not a module: the weights belong to the segmenter.
        self.refiner = TinyRefiner(lambda x: self.drop(self.classify(x))) if num_stages else None

    def encoder_parameters(self):
        return frozenset()

    def encode(self, images):
        features = [F.avg_pool2d(images, stride) for stride in self.strides]
        return RefinerInput(features, self.drop(self.classify(F.avg_pool2d(images, 4))), {})

    def similarity(self, images, point):
        (x, y), found = point, []
        for stage, stride in enumerate(reversed(self.strides[: self.num_stages]), start=1):
            rows, cols = (-(-side // stride) for side in images.shape[-2:])
            weights = torch.full((2, rows, cols), 1 / (rows * cols))
            query = y // stride, x // stride
            found.append(StageSimilarity(stage, stride, *query, (0, rows), (0, cols), weights))
        return found


def by_brightness(labels=None, num_stages=2):
    """A tiny segmenter whose class grows with the brightness of the pixel, for 3 classes."""
    model = TinySegmenter(labels, num_stages)
    with torch.no_grad():
        # Class c scores 2 c b - c^2 / 2 for the brightness b in [0, 1]: thresholds 1/4 and 3/4.
        scale = torch.arange(model.num_classes, dtype=torch.float32)
        model.classify.weight.copy_((2 * scale / 3)[:, None, None, None].expand(-1, 3, 1, 1))
        model.classify.bias.copy_(-(scale**2) / 2)
    return model
