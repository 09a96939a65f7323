"""Mean boundary accuracy (mBA): the share of right pixels near the true boundaries.

The measure of Cheng, Chung, Tai and Tang, "CascadePSP: Toward Class-Agnostic and Very
High-Resolution Segmentation via Global and Local Refinement", CVPR 2020, section 4: pixel accuracy
within a radius of the true boundary, averaged over five radii that grow with the image. The radii,
their rounding and the shape of the disk follow the evaluation that the authors published
(github.com/hkchengrex/CascadePSP, `util/compute_boundary_acc.py`): radii from 1 to (H + W) / 300,
where the paper begins at 3.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pna.labels import IGNORE_INDEX
from pna.metrics.confusion import LabelMap, checked_pair

NUM_RADII = 5


def boundary_accuracy(
    prediction: LabelMap, labels: LabelMap, *, regions: Sequence[Tensor] | None = None
) -> float:
    """Compute the mBA of one image; the mBA of a set is the mean over its images.

    Args:
        prediction: (H, W) integers.
        labels: (H, W) integers, 255 ignored.
        regions: `boundary_regions(labels)`, where several predictions share it.

    Returns:
        A share in [0, 1]; NaN if the labels hold no boundary.

    Raises:
        PnaError: If the shapes differ or a map isn't of integers.

    Example:
        >>> labels = torch.tensor([[0, 0, 0, 1, 1, 1]] * 6)
        >>> boundary_accuracy(labels.roll(1, 1), labels)
        0.5
    """
    prediction, labels = checked_pair(prediction, labels)
    regions = boundary_regions(labels) if regions is None else regions
    is_right = prediction == labels
    # By identity: in small images several radii share a region, and counting is a pass over it.
    shares: dict[int, float] = {}
    for region in regions:
        if id(region) not in shares:
            num_pixels = int(region.sum())
            if num_pixels == 0:
                return math.nan  # the smallest disk meets an edge wherever a larger one does
            shares[id(region)] = int((region & is_right).sum()) / num_pixels
    return math.fsum(shares[id(region)] for region in regions) / NUM_RADII


def boundary_regions(labels: Tensor) -> list[Tensor]:
    """Find the pixels near a boundary, for each of the five radii.

    The region of a radius holds the labeled pixels whose disk of that radius holds another label
    than their own. As in the authors' evaluation, 255 is another label: a band of ignored pixels
    around an object does not hide its edge. Ignored pixels themselves, and the outside of the
    image, never count.

    Args:
        labels: (H, W) integers, 255 ignored.

    Returns:
        (H, W) bool for each radius; one object for equal radii.

    Example:
        >>> regions = boundary_regions(torch.tensor([[0, 0, 1, 1]] * 4))
        >>> regions[0][0].int().tolist()
        [0, 1, 1, 0]
    """
    assert labels.ndim == 2, "one image at a time"
    is_valid = labels != IGNORE_INDEX
    if labels.numel() and int(labels.min()) >= 0 and int(labels.max()) <= 255:
        labels = labels.to(torch.uint8)  # hundreds of comparisons of whole maps: bytes are fastest
    near = torch.zeros_like(is_valid)
    regions: dict[int, Tensor] = {}
    done: set[tuple[int, int]] = set()
    radii = boundary_radii(*labels.shape)
    for radius in sorted(set(radii)):
        # Disks grow: only the pixels that a disk has beyond the one before are compared.
        disk = _half_disk(radius)
        for offset in sorted(disk - done):
            _mark_differing(near, labels, *offset)
        done |= disk
        regions[radius] = near & is_valid
    return [regions[radius] for radius in radii]


def boundary_radii(height: int, width: int) -> list[int]:
    """Return the five radii for an image, in whole pixels.

    Example:
        >>> boundary_radii(1024, 2048), boundary_radii(375, 500)
        ([1, 2, 4, 6, 8], [1, 1, 1, 2, 2])
    """
    # Truncated, not rounded, and short of the largest radius: as the authors' script steps.
    largest = (height + width) / 300
    return [1 + int((largest - 1) / NUM_RADII * step) for step in range(NUM_RADII)]


def _half_disk(radius: int) -> set[tuple[int, int]]:
    """Return offsets (rows, columns) of one half of a disk; the other half mirrors it.

    The row at distance y from the center is `round(sqrt(radius^2 - y^2))` wide on either side, as
    in OpenCV's ellipse.
    """
    offsets = set()
    for y in range(radius + 1):
        half = round(math.sqrt(radius * radius - y * y))
        offsets |= {(y, x) for x in range(-half, half + 1) if y or x > 0}
    return offsets


def _mark_differing(near: Tensor, labels: Tensor, y: int, x: int) -> None:
    """Mark, in place, every two pixels at the distance (y, x) whose labels differ."""
    H, W = labels.shape
    if y >= H or abs(x) >= W:
        return  # no two pixels of the image are so far apart
    here = slice(0, H - y), slice(max(0, -x), W - max(0, x))
    there = slice(y, H), slice(max(0, x), W - max(0, -x))
    differs = labels[here] != labels[there]
    near[here] |= differs
    near[there] |= differs
