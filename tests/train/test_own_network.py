"""PNA in a network of one's own, with public names alone; `docs/network.md` shows a longer loop."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pna


class Network(nn.Module):
    """Two levels of features, a coarse prediction, and its refinement."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fine = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4, padding=1), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU())
        self.classify = nn.Conv2d(32, num_classes, 1)
        config = pna.PNAConfig(widths=(32, 64))
        self.refine = pna.PNAHead((16, 32), num_classes, config)

    def forward(self, images: Tensor) -> pna.SegmenterOutput:
        fine = self.fine(images)
        deep = self.deep(fine)
        coarse = self.classify(deep)
        stages = self.refine([fine, deep], coarse, images=images)
        logits = F.interpolate(stages[-1], images.shape[-2:], mode="bilinear")
        return pna.SegmenterOutput(logits, coarse, stages, aux={})


def test_it_trains_in_twenty_lines() -> None:
    torch.manual_seed(0)
    images = F.interpolate(torch.rand(4, 3, 4, 6), scale_factor=8)  # squares of one color
    labels = (images[:, 0] > images[:, 1]).long()  # more red than green
    labels[:, :2] = pna.IGNORE_INDEX  # pixels without a class
    model = Network(num_classes=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        loss = pna.segmentation_loss(model(images), labels)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(float(loss.total.detach()))
    assert set(loss.parts) == {"P0", "P1", "P2"}
    assert losses[-1] < 0.7 * losses[0]
