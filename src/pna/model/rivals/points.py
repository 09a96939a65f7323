"""Points on a picture: where a prediction is uncertain, and what a map says there.

A point is (x, y) in [0, 1] x [0, 1], from the left and the top of the padded picture, so that it
means the same place on maps of any stride.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def sample(x: Tensor, points: Tensor) -> Tensor:
    """Read a map at points, bilinearly between the centres of its cells.

    Args:
        x: (B, C, h, w).
        points: (B, P, 2), as (x, y) in [0, 1].

    Returns:
        (B, C, P), in float32 at least: half precision can't tell neighbouring points apart.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    grid = (2 * points - 1).to(x.dtype).unsqueeze(2)  # (B, P, 1, 2), where -1 and 1 are the borders
    read = F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return read.squeeze(3)


def sample_labels(labels: Tensor, points: Tensor) -> Tensor:
    """Read labels (B, H, W) at points (B, P, 2), from the pixel that each lies in: (B, P)."""
    H, W = labels.shape[-2:]
    columns = (points[..., 0] * W).long().clamp(0, W - 1)
    rows = (points[..., 1] * H).long().clamp(0, H - 1)
    return labels.flatten(1).gather(1, rows * W + columns)


def uncertainty(logits: Tensor) -> Tensor:
    """How close the second class comes to the first: their difference, 0 where they are equal.

    Args:
        logits: (B, K, ...).

    Returns:
        (B, ...), at most 0; all 0 for a single class.
    """
    if logits.shape[1] == 1:
        return torch.zeros_like(logits[:, 0])
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return second - first


def draw_points(logits: Tensor, num_points: int, *, oversampling: int, importance: float) -> Tensor:
    """Draw points to train on, most of them where a prediction is uncertain.

    Args:
        logits: (B, K, h, w) of the prediction.
        num_points: Number P of points per picture.
        oversampling: Candidates per point; the most uncertain of them are taken.
        importance: Share of the points that is taken so, in [0, 1]; the rest is uniform.

    Returns:
        (B, P, 2), the uncertain ones first.
    """
    B = logits.shape[0]
    num_uncertain = int(importance * num_points)
    candidates = torch.rand(B, oversampling * num_points, 2, device=logits.device)
    # Of the logits between the cells: two sure cells that disagree are unsure halfway.
    unsure = uncertainty(sample(logits, candidates))
    best = unsure.topk(num_uncertain, dim=1).indices[..., None].expand(-1, -1, 2)
    uniform = torch.rand(B, num_points - num_uncertain, 2, device=logits.device)
    return torch.cat([candidates.gather(1, best), uniform], dim=1)


def most_uncertain_cells(logits: Tensor, num_cells: int) -> Tensor:
    """The cells of a map (B, K, h, w) that it's least sure of, as indices (B, P) into h * w."""
    unsure = uncertainty(logits).flatten(1)
    return unsure.topk(min(num_cells, unsure.shape[1]), dim=1).indices


def centres(cells: Tensor, width: int, height: int) -> Tensor:
    """The points (B, P, 2) in the middle of cells (B, P), indices into a height x width map."""
    columns, rows = cells % width, cells // width
    return torch.stack([(columns + 0.5) / width, (rows + 0.5) / height], dim=-1)
