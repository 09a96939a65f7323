"""The smallest model with a segmenter's interface: proof that nothing else is relied on."""

import torch
import torch.nn.functional as F
from torch import nn

from pna.labels import generic
from pna.model.segmenter import SegmenterOutput, StageSimilarity


class TinySegmenter(nn.Module):
    """Classifies each pixel by its colour; coarse at stride 4, refined at strides 2 and 1."""

    def __init__(self, labels=None, num_stages=2):
        super().__init__()
        self.labels = generic(3) if labels is None else labels
        self.num_classes = self.labels.num_classes
        self.num_stages = num_stages
        self.classify = nn.Conv2d(3, self.num_classes, 1)
        self.drop = nn.Dropout(0.5)  # forgetting evaluation mode changes what comes out

    def _at_stride(self, pictures, stride):
        pooled = F.avg_pool2d(pictures, stride, ceil_mode=True, count_include_pad=False)
        return self.drop(self.classify(pooled))

    def forward(self, pictures, *, stages=False):
        coarse = self._at_stride(pictures, 4)
        refined = [self._at_stride(pictures, stride) for stride in (2, 1)[: self.num_stages]]
        logits = self.upsample([coarse, *refined][-1], pictures.shape[-2:])
        return SegmenterOutput(logits, coarse, refined if stages or self.training else [], {})

    def upsample(self, logits, size):
        return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)

    def similarity(self, pictures, *, point):
        x, y = point
        found = []
        for stage, stride in enumerate((2, 1)[: self.num_stages], start=1):
            rows, cols = (-(-side // stride) for side in pictures.shape[-2:])
            weights = torch.full((2, rows, cols), 1 / (rows * cols))
            found.append(
                StageSimilarity(
                    stage, stride, y // stride, x // stride, (0, rows), (0, cols), weights
                )
            )
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
