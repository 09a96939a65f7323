"""Upsampling of any features, or any logits, along the edges of the image.

Each output cell is a weighted mean of the nearest feature cells. The weights come from the image
alone: from learned features of it, from its colors, and from the distance. So the weights of a cell
sum to 1, the result is linear in the features, and one network serves features of any width.

Sources: Kopf et al., "Joint bilateral upsampling", SIGGRAPH 2007; learned weights and their
training on the features of a smaller image as in Chambon et al., "NAF: Zero-shot feature upsampling
via neighborhood attention filtering", 2025. Cells of the output attend to cells of the features
directly (`pna.ops.neighborhood_attention` across grids); none of them is repeated.
"""

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from pna.errors import PnaError
from pna.model.pna.nam import LogitGathering
from pna.model.resize import average, resize

_FINER = 2
"""The image is seen at up to this multiple of the output, so that edges inside cells count."""


class ImageFeatures(nn.Module):
    """Features of an image at its own size, from three scales: the guide of the upsampling.

    Args:
        width: Channels of the result.
        widths: Channels at full, half and quarter size.
    """

    def __init__(self, width: int = 32, widths: Sequence[int] = (16, 32, 48)) -> None:
        super().__init__()
        channels = [3, *widths]
        self.scales = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels[i], channels[i + 1], 3, padding=1),
                nn.GELU(),
                nn.Conv2d(channels[i + 1], channels[i + 1], 3, padding=1, groups=channels[i + 1]),
                nn.Conv2d(channels[i + 1], channels[i + 1], 1),
                nn.GELU(),
            )
            for i in range(len(widths))
        )
        self.merge = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in widths)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, 3, H, W) in [0, 1] to (B, D, H, W)."""
        x, maps = image - 0.5, []
        for i, (scale, merge) in enumerate(zip(self.scales, self.merge, strict=True)):
            if i > 0:
                x = average(x, [max(1, (side + 1) // 2) for side in x.shape[-2:]])
            x = scale(x)
            maps.append(merge(x))
        # From coarse to fine, so that each map is resized by 2 at a time.
        total = maps.pop()
        while maps:
            finer = maps.pop()
            total = finer + resize(total, finer.shape[-2:])
        return cast(Tensor, total)


class FeatureUpsampler(nn.Module):
    """Upsample features by weights that an image gives.

    Args:
        width: Channels of the image's features.
        window: Side of the neighborhood in cells of the features, odd.
    """

    def __init__(self, width: int = 32, window: int = 7) -> None:
        super().__init__()
        self.guide = ImageFeatures(width)
        self.gather = LogitGathering(width, window)

    def forward(self, images: Tensor, features: Tensor, size: Sequence[int]) -> Tensor:
        """Upsample features.

        Args:
            images: (B, 3, H, W) in [0, 1].
            features: (B, C, h, w).
            size: (H', W') of the result, in cells.

        Returns:
            (B, C, H', W').
        """
        # A finer image than this would be averaged away below.
        sides = zip(images.shape[-2:], size, strict=True)
        seen = average(images, [min(pixels, _FINER * cells) for pixels, cells in sides])
        guide = average(self.guide(seen), size).permute(0, 2, 3, 1)
        colors = average(images, size).permute(0, 2, 3, 1)
        gathered, _ = self.gather(guide, features.permute(0, 2, 3, 1), colors)
        return cast(Tensor, gathered.permute(0, 3, 1, 2))


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
