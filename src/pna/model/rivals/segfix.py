"""SegFix: at boundaries, take the prediction of a pixel further inside.

Source: Yuan, Xie, Chen, Wang, "SegFix: Model-Agnostic Boundary Refinement for Segmentation" (ECCV
2020), section 3; what it leaves open (no biases, how far a pixel looks) as in the authors' code.
Two branches say which pixels lie at a boundary and in which of eight directions the inside is. The
paper trains them in a network of their own; here they share the segmentation's encoder.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pna.model.coarse.layers import BatchNorm
from pna.model.refiner import OwnLoss, Refined, Refiner, Scene
from pna.model.resize import resize

# (rows, columns) to the neighbour in direction k, at k times 45 degrees from the right downwards.
DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))


class SegFix(Refiner):
    """Boundary and direction branches on all levels, and one stage at the picture's own size.

    Levels are reduced to `channels` each, brought to the finest one's size and summed. This is the
    1x1 convolution of their concatenation that the paper has, for far fewer multiply-accumulates.

    While training it predicts nothing; `Refined.aux` holds what its loss needs: "boundary"
    (B, 1, h, w) and "direction" (B, 8, h, w), logits at the stride of the finest level.

    Args:
        in_channels: Channels of each level of features, fine to coarse.
        channels: Width of each branch.
        step: How many pixels a pixel at a boundary looks inside, along each axis.
    """

    own_loss: OwnLoss | None = "segfix"

    def __init__(self, in_channels: Sequence[int], *, channels: int = 256, step: int = 2) -> None:
        super().__init__()
        self.step = step
        self.reduce = nn.ModuleList(
            nn.Conv2d(width, 2 * channels, 1, bias=False) for width in in_channels
        )
        self.norm = BatchNorm(2 * channels)
        self.boundary = nn.Conv2d(channels, 1, 1, bias=False)
        self.direction = nn.Conv2d(channels, len(DIRECTIONS), 1, bias=False)

    def forward(self, scene: Scene) -> Refined:
        """Refine the scene's coarse prediction, at the size of its pictures."""
        boundary, direction = self._look(scene.features)
        if self.training:
            return Refined([], {"boundary": boundary, "direction": direction})
        size = scene.pictures.shape[-2:]
        is_boundary = resize(boundary, size)[:, 0] > 0  # a probability above 1/2
        chosen = resize(direction, size).argmax(1)
        logits = resize(scene.coarse, size)
        return Refined([take_from_inside(logits, is_boundary, chosen, step=self.step)], {})

    def _look(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        size = features[0].shape[-2:]
        reduced = [resize(reduce(x), size) for reduce, x in zip(self.reduce, features, strict=True)]
        summed: Tensor = sum(reduced[1:], start=reduced[0])
        for_boundary, for_direction = self.norm(summed).relu().chunk(2, 1)
        return self.boundary(for_boundary), self.direction(for_direction)


def take_from_inside(
    logits: Tensor, is_boundary: Tensor, direction: Tensor, *, step: int
) -> Tensor:
    """Give each pixel at a boundary the logits of the pixel that its direction leads to.

    Args:
        logits: (B, K, H, W).
        is_boundary: (B, H, W) bool.
        direction: (B, H, W) int64, places in `DIRECTIONS`.
        step: Pixels to go, along each axis; a way out of the picture ends at its edge.

    Returns:
        (B, K, H, W).
    """
    K, H, W = logits.shape[1:]
    way = step * torch.tensor(DIRECTIONS, device=logits.device)[direction]  # (B, H, W, 2)
    way = way * is_boundary[..., None]
    rows = (torch.arange(H, device=logits.device)[:, None] + way[..., 0]).clamp(0, H - 1)
    columns = (torch.arange(W, device=logits.device) + way[..., 1]).clamp(0, W - 1)
    source = (rows * W + columns).flatten(1)[:, None].expand(-1, K, -1)
    return logits.flatten(2).gather(2, source).view_as(logits)
