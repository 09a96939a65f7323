"""SAM, the self-aggregation module: attention over channels instead of pixels.

Paper, section "Self-Aggregation Module", equations 5 and 6. The released block is the transformer
block of Restormer (Zamir et al. 2022): MDTA, then GDFN. Maps are channels-last: (B, H, W, D).
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.model.aggregation.layers import FeedForward, Pointwise, convolve, depthwise

_GDFN_RATIO = 2.66
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
        B, H, W, D = x.shape
        qkv = convolve(self.qkv_depthwise, self.qkv(x)).reshape(B, H * W, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 4, 1)  # each (B, heads, d, HW)
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        weights = (query @ key.transpose(-1, -2) * self.temperature).softmax(-1)
        out = (weights @ value).permute(0, 3, 1, 2).reshape(B, H, W, D)
        return cast(Tensor, self.project(out))


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
