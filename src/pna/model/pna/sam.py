"""SAM, the self-aggregation module: attention over channels instead of pixels.

Paper, section "Self-Aggregation Module", equations 5 and 6. The released block is the transformer
block of Restormer (Zamir et al. 2022): MDTA, then GDFN. Maps are channels-last: (B, H, W, D).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.model.pna.layers import (
    FeedForward,
    Pointwise,
    convolve,
    cut_strips,
    depthwise,
    map_strips,
)

_GDFN_RATIO = 2.66  # hidden channels per channel, as in Restormer
_SMALLEST_SQUARE = 1e-24  # of a norm of 1e-12, the bound of torch's F.normalize
_REFERENCE_CELLS = 64 * 64  # the map for which alpha starts at the usual 1 / sqrt(cells)


class ChannelAttention(nn.Module):
    """MDTA: channels attend to channels, per head, with unit-length queries and keys.

    Args:
        width: Channels D, a multiple of `head_width`.
        head_width: Channels of one head.
    """

    def __init__(self, width: int, head_width: int = 32) -> None:
        super().__init__()
        self.heads = width // head_width
        self.qkv = Pointwise(width, 3 * width, bias=False)
        self.qkv_depthwise = depthwise(3 * width, bias=False)
        self.temperature = nn.Parameter(torch.ones(self.heads, 1, 1))
        self.project = Pointwise(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, D) to (B, H, W, D)."""
        # Channel attention needs sums over all pixels before any output: a first pass over the
        # strips sums q k^T and the norms, a second one applies the weights.
        products = squares = x.new_zeros(())
        values = []
        for strip in cut_strips(x):
            qkv = convolve(self.qkv_depthwise, self.qkv(strip.x))[:, strip.inner]
            B, rows, W, _ = qkv.shape
            qkv = qkv.reshape(B, rows * W, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            # (3, B, heads, cells, d); divided by the number of cells, sums fit into float16.
            query, key = qkv[:2] * (x.shape[1] * x.shape[2]) ** -0.5
            products = products + query.transpose(-1, -2) @ key  # (B, heads, d, d)
            squares = squares + torch.stack([query.square().sum(-2), key.square().sum(-2)])
            values.append(qkv[2])
        # In float16 the bound would be 0, and a channel of zeros 0 / 0.
        squares = squares.to(torch.promote_types(squares.dtype, torch.float32))
        query_norm, key_norm = squares.clamp(min=_SMALLEST_SQUARE).sqrt()  # each (B, heads, d)
        # Unit-length queries and keys (MDTA): the norms are divided out of the summed products.
        cosine = products / (query_norm[..., :, None] * key_norm[..., None, :])
        weights = (cosine * self.temperature).softmax(-1).transpose(-1, -2).to(products.dtype)
        # (B, heads, cells, d) @ (B, heads, d, d), strips joined: (B, HW, heads, d).
        out = torch.cat([(value @ weights).transpose(1, 2) for value in values], 1)
        return cast(Tensor, self.project(out.reshape(x.shape)))


class GatedFeedForward(nn.Module):
    """GDFN: two depth-wise branches, one gates the other.

    Args:
        width: Channels D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = int(_GDFN_RATIO * width)
        self.expand = Pointwise(width, 2 * hidden, bias=False)
        self.depthwise = depthwise(2 * hidden, bias=False)
        self.reduce = Pointwise(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, D) to (B, H, W, D)."""

        # 5.32 D channels inside: strip by strip the wide map never exists as a whole.
        def gated(strip: Tensor) -> Tensor:
            gate, value = convolve(self.depthwise, self.expand(strip)).chunk(2, -1)
            return cast(Tensor, self.reduce(F.gelu(gate) * value))

        return map_strips(gated, x)


class SelfAggregation(nn.Module):
    """SAM as released: `x + MDTA(LN(x))`, then `x + GDFN(LN(x))`.

    Args:
        width: Channels D, a multiple of `head_width`.
        head_width: Channels of one head.
    """

    def __init__(self, width: int, head_width: int = 32) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = ChannelAttention(width, head_width)
        self.norm_feed_forward = nn.LayerNorm(width)
        self.feed_forward = GatedFeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, D) to (B, H, W, D)."""
        x = x + self.attention(self.norm_attention(x))
        return cast(Tensor, x + self.feed_forward(self.norm_feed_forward(x)))


class PaperSelfAggregation(nn.Module):
    """SAM by equations 5 and 6: all channels at once, `softmax(Q K^T / alpha)`, then an FFN.

    Args:
        width: Channels D.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_feature = nn.LayerNorm(width)
        self.qkv = Pointwise(width, 3 * width)
        self.qkv_depthwise = depthwise(3 * width, bias=True)
        self.alpha = nn.Parameter(torch.tensor(float(_REFERENCE_CELLS) ** 0.5))
        self.norm_aggregated = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, D) to (B, H, W, D)."""
        qkv = convolve(self.qkv_depthwise, self.qkv(self.norm_feature(x))).flatten(1, 2)
        query, key, value = qkv.transpose(1, 2).chunk(3, 1)  # each (B, D, HW)
        # (B, D, D): every channel attends to every channel.
        scores = query @ key.transpose(-1, -2) / self.alpha
        # float32: the scores are sums over all pixels.
        weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
        aggregated = (weights @ value).transpose(1, 2).reshape(x.shape)
        return cast(Tensor, aggregated + self.feed_forward(self.norm_aggregated(aggregated)))
