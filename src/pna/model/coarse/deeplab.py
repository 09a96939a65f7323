"""DeepLabV3 head: parallel dilated convolutions and the map's average, on the coarsest level.

Source: Chen, Papandreou, Schroff, Adam, "Rethinking Atrous Convolution for Semantic Image
Segmentation" (2017), section 3.3. By default the branches are fused by a 3x3 convolution, as in
mmsegmentation, where the paper, and detectron2, have a 1x1 one.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pna.model.coarse.layers import Classifier, CoarseHead, ConvBNReLU
from pna.model.coarse.necks import plain_conv
from pna.model.resize import resize

_RATES = (12, 24, 36)


def average_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Average a map over a window at every position inside it, like `F.avg_pool2d` at stride 1.

    Written as two small matrix products: windows are large (32x64 cells), so it is faster than the
    fused operator. It exports with free heights and widths that are no less than the window.

    Args:
        x: (B, C, h, w), of any size.
        window: Height and width in cells; a side that is longer than the map's is cut to it.

    Returns:
        (B, C, h - height + 1, w - width + 1).
    """
    rows = _averaging_matrix(x, x.shape[-2], window[0])
    columns = _averaging_matrix(x, x.shape[-1], window[1])
    return rows @ x @ columns.T


def _averaging_matrix(x: Tensor, length: int, window: int) -> Tensor:
    """Return (length - window + 1, length): row i averages the `window` cells from i."""
    cells: Any = torch.sym_min(window, length)  # a symbol while exporting with free sizes
    start = torch.arange(length - cells + 1, device=x.device)[:, None]
    cell = torch.arange(length, device=x.device)[None]
    inside = (cell >= start) & (cell < start + cells)
    averaging: Tensor = inside.to(x.dtype) / cells
    return averaging


class AtrousPyramid(nn.Module):
    """Atrous spatial pyramid pooling (ASPP).

    Args:
        in_channels: Channels of the map.
        channels: Width of each branch and of the fused map.
        rates: Dilations of the 3x3 branches, in cells; (12, 24, 36) suits output stride 8 and
            (6, 12, 18) output stride 16.
        branch: Makes a 3x3 branch from channels in, channels out and `dilation=`.
        pool_window: Height and width, in cells, of the windows that the pooled branch averages, at
            every position inside the map; one that is larger than the map is cut to it. None
            averages the whole map.
        pool_norm: Whether the pooled branch has batch norm; without, its convolution has a bias.
        fuse_kernel: Side of the convolution that fuses the branches.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        rates: Sequence[int] = _RATES,
        branch: Callable[..., nn.Module] = ConvBNReLU,
        pool_window: tuple[int, int] | None = None,
        pool_norm: bool = True,
        fuse_kernel: int = 3,
    ) -> None:
        super().__init__()
        self.pool_window = pool_window
        self.pooled: nn.Module
        if pool_norm:
            self.pooled = ConvBNReLU(in_channels, channels, kernel_size=1)
        else:
            self.pooled = nn.Sequential(plain_conv(in_channels, channels, 1), nn.ReLU(inplace=True))
        self.branches = nn.ModuleList(
            [
                ConvBNReLU(in_channels, channels, kernel_size=1),
                *(branch(in_channels, channels, dilation=rate) for rate in rates),
            ]
        )
        self.fuse = ConvBNReLU((1 + len(self.branches)) * channels, channels, fuse_kernel)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, channels, h, w)."""
        pooled = self.pooled(self._pool(x))  # (B, channels, 1, 1), or one cell per window
        # The averages fill the map again: the branch is the context of the whole image.
        branches = [branch(x) for branch in self.branches]
        fused: Tensor = self.fuse(torch.cat([resize(pooled, x.shape[-2:]), *branches], dim=1))
        return fused

    def _pool(self, x: Tensor) -> Tensor:
        if self.pool_window is None:
            return x.mean(dim=(2, 3), keepdim=True)
        return average_windows(x, self.pool_window)


class DeepLabV3Head(CoarseHead):
    """Coarse logits from atrous spatial pyramid pooling on the coarsest level.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse.
        num_classes: Number of classes K.
        channels: Width of each branch and of the fused map.
        rates: Dilations of the 3x3 branches; see `AtrousPyramid`.
        pool_window: Windows of the pooled branch, in cells; see `AtrousPyramid`.
        pool_norm: Whether the pooled branch has batch norm, or a bias.
        fuse_kernel: Side of the convolution that fuses the branches.
        dropout: Probability of zeroing a channel before the classifier while training.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        rates: Sequence[int] = _RATES,
        pool_window: tuple[int, int] | None = None,
        pool_norm: bool = True,
        fuse_kernel: int = 3,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(in_channels)
        self.pyramid = AtrousPyramid(
            self.in_channels[-1],
            channels,
            rates=rates,
            pool_window=pool_window,
            pool_norm=pool_norm,
            fuse_kernel=fuse_kernel,
        )
        self.classifier = Classifier(channels, num_classes, dropout=dropout)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Apply the pyramid to the coarsest level."""
        gathered: Tensor = self.pyramid(features[-1])
        return gathered
