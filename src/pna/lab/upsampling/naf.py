"""NAF: a small network on the image alone decides how features of any backbone are upsampled.

Queries are a map of the image at the size of the result, keys its averages on the grid of the
features, values the features themselves. Every query gathers the features of 9 x 9 cells around it,
so the result is a weighted mean of them, with weights of its own for each of four groups of
channels. Rotary embeddings make the weights depend on the distance, measured in shares of the map,
so one network serves all ratios.

Source: Chambon, Couairon, Zablocki, Boulch, Thome, Cord, "NAF: Zero-Shot Feature Upsampling via
Neighborhood Attention Filtering", CVPR 2026. Rotary embedding: Su, Lu, Pan, Murtadha, Wen, Liu,
"RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, section 3.2, here along two
axes.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pna.errors import PnaError
from pna.model.cascade.normalization import IMAGENET
from pna.model.resize import average, resize
from pna.ops import neighborhood_attention
from pna.refinement.upsampler import check_arguments

HEADS = 4
"""Groups of channels, each with weights of its own."""
_GROUPS = 8  # of the group norms
_BASE = 100.0  # ratio of the highest frequency to the lowest, nearly
_PIXELS_PER_CELL = 4  # of the result, at most, per side: the image is shrunk to that


class NAF(nn.Module):
    """The upsampler: 662,528 parameters whatever the features are.

    Args:
        width: Channels of queries and keys, a multiple of 16.
        window: Cells of the features per side of a neighborhood, odd.

    Raises:
        PnaError: `width` does not divide.

    Example:
        >>> import torch
        >>> upsampler = NAF().eval()
        >>> sum(p.numel() for p in upsampler.parameters())
        662528
        >>> image, features = torch.rand(1, 3, 64, 96), torch.rand(1, 384, 4, 6)
        >>> with torch.inference_mode():
        ...     upsampler(image, features, (64, 96)).shape
        torch.Size([1, 384, 64, 96])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, width: int = 256, window: int = 9) -> None:
        super().__init__()
        if width < 1 or width % 16:
            raise PnaError(f"expected a width in multiples of 16, got {width=}")
        self.window = window
        # Two branches that differ in what they see: a pixel alone, and its surroundings.
        self.pixel = _branch(width // 2, kernel_size=1)
        self.context = _branch(width // 2, kernel_size=3)
        for name, values in zip(("mean", "std"), IMAGENET, strict=True):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def forward(
        self, image: Tensor, features: Tensor, size: Sequence[int], *, repeated: bool = False
    ) -> Tensor:
        """Upsample features.

        While training, the coordinates are stretched by a random factor in [1/2, 2].

        Args:
            image: (B, 3, H, W) in [0, 1], at least 2 pixels per side.
            features: (B, C, h, w) of any range, C a multiple of 4.
            size: (height, width) of the result.
            repeated: The authors' way, for comparisons of time and memory: keys and values are
                repeated to the size of the result, and each query sees every r-th of them, with
                r the rounded-down ratio of the sizes, the same along both axes.

        Returns:
            (B, C, height, width): weighted means of features.

        Raises:
            PnaError: Shapes or types do not fit.
        """
        check_arguments(image, features, size)
        if min(image.shape[-2:]) < 2:
            raise PnaError(
                f"expected images of at least 2x2 pixels, got {tuple(image.shape)}: their border "
                "is mirrored"
            )
        C, h, w = features.shape[1:]
        if C % HEADS:
            raise PnaError(
                f"expected features with a multiple of {HEADS} channels, one part per head, got "
                f"{C}; append {-C % HEADS} channels of zeros"
            )
        guidance = _split(self.guide(image, size))  # (B, heads, d, H, W)
        stretch = 2.0 ** (2 * torch.rand((), device=image.device) - 1) if self.training else 1.0
        queries = rotate(guidance, stretch=stretch).flatten(1, 2)
        keys = average(queries, (h, w))
        dilation = 1
        if repeated:
            dilation = _whole_ratio((h, w), size)
            keys, features = (resize(x, size, "nearest") for x in (keys, features))
        out = neighborhood_attention(
            *(_split(x).permute(0, 1, 3, 4, 2) for x in (queries, keys, features)),
            window=self.window,
            dilation=dilation,
        )  # (B, heads, H, W, C / heads)
        return out.permute(0, 1, 4, 2, 3).flatten(1, 2)

    def guide(self, image: Tensor, size: Sequence[int]) -> Tensor:
        """Encode images (B, 3, H, W) in [0, 1] as a map (B, width, height, width of `size`)."""
        sides = zip(image.shape[-2:], size, strict=True)
        image = resize(image, [min(side, _PIXELS_PER_CELL * cells) for side, cells in sides])
        x = (image - self.mean) / self.std
        return average(torch.cat([self.pixel(x), self.context(x)], 1), size)


class _Block(nn.Sequential):
    """Twice group norm, SiLU, convolution; no residual."""

    def __init__(self, width: int, kernel_size: int) -> None:
        super().__init__(
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            _convolution(width, width, kernel_size),
            nn.GroupNorm(_GROUPS, width),
            nn.SiLU(),
            _convolution(width, width, kernel_size),
        )


def _branch(width: int, *, kernel_size: int) -> nn.Sequential:
    """Map (B, 3, H, W) to (B, width, H, W)."""
    blocks = [_Block(width, kernel_size) for _ in range(2)]
    return nn.Sequential(_convolution(3, width, kernel_size), *blocks)


def _convolution(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        padding_mode="reflect",
    )


def rotate(x: Tensor, *, stretch: Tensor | float = 1.0) -> Tensor:
    """Embed positions by rotation: products of two rotated vectors depend on their distance.

    The first half of the pairs of channels turns with the row, the second with the column. Rows and
    columns run from -1 to 1, whatever the size; pair i of n turns `100^(-i / n)` times per unit.

    Args:
        x: (..., d, H, W), d a multiple of 4; channels c and c + d / 2 form a pair.
        stretch: Factor on rows and columns.

    Returns:
        Of the shape of `x`; each pair keeps its length.

    Example:
        >>> import torch
        >>> rotated = rotate(torch.ones(8, 1, 3))  # the middle stands at (0, 0)
        >>> rotated[:, 0, 1].tolist()
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    """
    d, H, W = x.shape[-3:]
    n = d // 4  # pairs per axis
    turns = _BASE ** -(torch.arange(n, device=x.device) / n)

    def angles(cells: int) -> Tensor:  # (n, cells)
        position = (torch.arange(cells, device=x.device) + 0.5) * 2 / cells - 1
        return 2 * math.pi * turns[:, None] * position * stretch

    rows = angles(H)[:, :, None].expand(n, H, W)
    columns = angles(W)[:, None].expand(n, H, W)
    angle = torch.cat([rows, columns])  # (d / 2, H, W)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x.chunk(2, -3)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -3)


def _split(x: Tensor) -> Tensor:
    """Map (B, heads * d, H, W) to (B, heads, d, H, W)."""
    B, C, H, W = x.shape
    return x.reshape(B, HEADS, C // HEADS, H, W)


def _whole_ratio(grid: Sequence[int], size: Sequence[int]) -> int:
    """Return the rounded-down ratio of two sizes, which both axes must share."""
    down, right = (long // short for long, short in zip(size, grid, strict=True))
    if down != right or down < 1:
        raise PnaError(
            f"expected a result at least as large as the features, by one ratio along both axes, "
            f"for repeated=True, got {tuple(size)} from {tuple(grid)}; pass repeated=False"
        )
    return down
