"""The arguments of every upsampler: an image, features of any grid, and the size of the result."""

from collections.abc import Sequence

from torch import Tensor

from pna.errors import PnaError


def check_arguments(image: Tensor, features: Tensor, size: Sequence[int]) -> None:
    """Check that an image, features and a size fit together.

    Args:
        image: (B, 3, H, W) floating point.
        features: (B, C, h, w) floating point.
        size: (height, width) of the result in cells, each at least 1.

    Raises:
        PnaError: A shape, type or device does not fit.

    Example:
        >>> import torch
        >>> check_arguments(torch.rand(1, 3, 32, 32), torch.rand(2, 8, 4, 4), (32, 32))
        Traceback (most recent call last):
        pna.errors.PnaError: expected one batch size, got 1 images and 2 maps of features
    """
    if image.dim() != 4 or image.shape[1] != 3 or 0 in image.shape:
        raise PnaError(f"expected images (B, 3, H, W), got {tuple(image.shape)}")
    if features.dim() != 4 or 0 in features.shape:
        raise PnaError(f"expected features (B, C, h, w), got {tuple(features.shape)}")
    if len(image) != len(features):
        raise PnaError(
            f"expected one batch size, got {len(image)} images and {len(features)} maps of features"
        )
    if not (image.is_floating_point() and features.is_floating_point()):
        raise PnaError(
            f"expected images and features in floating point, got {image.dtype} and "
            f"{features.dtype}; divide uint8 images by 255"
        )
    if image.device != features.device:
        raise PnaError(
            f"expected images and features on one device, got {image.device} and {features.device}"
        )
    if len(size) != 2 or min(size) < 1:
        raise PnaError(f"expected a size (height, width) of at least (1, 1), got {tuple(size)}")
