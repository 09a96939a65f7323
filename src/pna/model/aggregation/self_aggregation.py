"""SAM, the self-aggregation module: attention over channels instead of pixels.

Paper, section "Self-Aggregation Module", equations 5 and 6. The released block is the transformer
block of Restormer (Zamir et al. 2022): MDTA, then GDFN. Maps are channels-last: (B, H, W, D).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.model.aggregation.layers import (
    FeedForward,
    Pointwise,
    Strip,
    convolve,
    cut_strips,
    depthwise,
    map_strips,
)

_GDFN_RATIO = 2.66
_SMALLEST_SQUARE = 1e-24
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
        """(B, H, W, D) -> (B, H, W, D)."""
        products = squares = x.new_zeros(())
        values = []
        for strip in cut_strips(x):
            qkv = self._query_key_value(strip)
            query, key = qkv[:2] * (x.shape[1] * x.shape[2]) ** -0.5  # means fit into float16
            products = products + query.transpose(-1, -2) @ key
            squares = squares + torch.stack([query.square().sum(-2), key.square().sum(-2)])
            values.append(qkv[2])
        query_norm, key_norm = squares.clamp(min=_SMALLEST_SQUARE).sqrt()  # each (B, heads, d)
        cosine = products / (query_norm[..., :, None] * key_norm[..., None, :])
        weights = (cosine * self.temperature).softmax(-1).transpose(-1, -2)
        out = torch.cat([(value @ weights).transpose(1, 2) for value in values], 1)
        return cast(Tensor, self.project(out.reshape(x.shape)))

    def _query_key_value(self, strip: Strip) -> Tensor:
        """(3, B, heads, cells, d)."""
        qkv = convolve(self.qkv_depthwise, self.qkv(strip.x))[:, strip.inner]
        B, rows, W, _ = qkv.shape
        return qkv.reshape(B, rows * W, 3, self.heads, -1).permute(2, 0, 3, 1, 4)


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
        """(B, H, W, D) -> (B, H, W, D)."""
        return map_strips(self._forward, x)

    def _forward(self, x: Tensor) -> Tensor:
        gate, value = convolve(self.depthwise, self.expand(x)).chunk(2, -1)
        return cast(Tensor, self.reduce(F.gelu(gate) * value))


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
        """(B, H, W, D) -> (B, H, W, D)."""
        x = x + self.attention(self.norm_attention(x))
        return cast(Tensor, x + self.feed_forward(self.norm_feed_forward(x)))


class PaperSelfAggregation(nn.Module):
    """SAM as equations 5 and 6 say: all channels at once, `softmax(Q K^T / alpha)`, then an FFN.

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
        """(B, H, W, D) -> (B, H, W, D)."""
        qkv = convolve(self.qkv_depthwise, self.qkv(self.norm_feature(x))).flatten(1, 2)
        query, key, value = qkv.transpose(1, 2).chunk(3, 1)  # each (B, D, HW)
        scores = query @ key.transpose(-1, -2) / self.alpha
        weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
        aggregated = (weights @ value).transpose(1, 2).reshape(x.shape)
        return cast(Tensor, aggregated + self.feed_forward(self.norm_aggregated(aggregated)))
