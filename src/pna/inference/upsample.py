"""Upsampling of features or logits along the edges of an image, by the bundled network."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from pna.errors import PnaError
from pna.model.state import fill, read_weights
from pna.refinement.upsampler import FeatureUpsampler, check_arguments

WEIGHTS = Path(__file__).parent.parent / "bundled" / "upsampler" / "model.safetensors"
"""Weights of the bundled network."""


def upsample(images: Tensor, features: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Upsample the features of any backbone, or the logits of any network, along image edges.

    Each output cell is a weighted mean of the nearest feature cells. The weights depend on the
    image alone and sum to 1, so the result is linear in the features, and differentiable.

    Args:
        images: (B, 3, H, W) RGB in [0, 1], not normalized.
        features: (B, C, h, w) floating point, any C, on the device of the images; they span the
            images.
        size: (H', W') of the result in cells, at least (h, w); None takes the images' size.

    Returns:
        (B, C, H', W') in the type of `features`.

    Raises:
        PnaError: The shapes do not fit together, or the images are not in [0, 1].

    Example:
        >>> import pna, torch
        >>> images = torch.rand(1, 3, 64, 96)
        >>> pna.upsample(images, torch.rand(1, 10, 4, 6)).shape
        torch.Size([1, 10, 64, 96])
        >>> constant = pna.upsample(images, torch.ones(1, 1, 4, 6), (16, 24))
        >>> torch.allclose(constant, torch.ones(1, 1, 16, 24))
        True
    """
    size = tuple(images.shape[-2:] if size is None else size)
    _check(images, features, size)
    network = bundled_upsampler(features.device)
    upsampled = network(images.float(), features.float(), size)
    return cast(Tensor, upsampled.to(features.dtype))


@lru_cache(maxsize=2)
def bundled_upsampler(device: torch.device) -> FeatureUpsampler:
    """Return the network that comes with the package, ready to use."""
    # Made outside of inference mode, whoever calls first: later calls may need gradients.
    with torch.inference_mode(False):
        network = FeatureUpsampler()
        fill(network, read_weights(WEIGHTS), str(WEIGHTS))
        return network.requires_grad_(False).eval().to(device)


def _check(images: Tensor, features: Tensor, size: tuple[int, ...]) -> None:
    check_arguments(images, features, size)
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # also for NaN
        raise PnaError(
            f"expected images in [0, 1], got values in [{low:.3g}, {high:.3g}]: divide gray levels "
            "by 255, and leave out the backbone's normalization"
        )
    (H, W), (h, w) = images.shape[-2:], features.shape[-2:]
    if size[0] < h or size[1] < w:
        raise PnaError(f"expected a size of at least ({h}, {w}), that of the features, got {size}")
    # Strides that do not divide the image leave up to a cell along each axis.
    if abs(h * W - w * H) > H + W:
        raise PnaError(
            f"expected features that span their images of {H}x{W}, got {h}x{w} cells: another "
            "aspect; crop the images as the backbone saw them"
        )
