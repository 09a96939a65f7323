"""Maps looked up at points between their cells.

A point is (x, y) in [0, 1] x [0, 1], from the left and the top of the padded image, so that it
is independent of the strides of maps.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def sample(x: Tensor, points: Tensor) -> Tensor:
    """Interpolate a map at points, bilinearly between the centers of its cells.

    Args:
        x: (B, C, h, w).
        points: (B, P, 2).

    Returns:
        (B, C, P), in float32 at least: half precision cannot resolve neighboring points.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    grid = (2 * points - 1).to(x.dtype).unsqueeze(2)  # (B, P, 1, 2); the borders are -1 and 1
    sampled = F.grid_sample(
        x, grid, mode="bilinear", padding_mode="border", align_corners=False
    )  # (B, C, P, 1)
    return sampled.squeeze(3)


def sample_labels(labels: Tensor, points: Tensor) -> Tensor:
    """Look up the labels (B, H, W) of the pixels that contain points (B, P, 2): (B, P)."""
    H, W = labels.shape[-2:]
    columns = (points[..., 0] * W).long().clamp(0, W - 1)
    rows = (points[..., 1] * H).long().clamp(0, H - 1)
    return labels.flatten(1).gather(1, rows * W + columns)
