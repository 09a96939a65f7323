"""One refinement stage: features and the previous prediction in, a finer prediction out.

Three variants, the released code's, the paper's equations, and one of ours, "prenorm"; all embed
the features `f` and the resized prediction `p` to one width, aggregate, and classify. Inside, maps
are channels-last.
"""

from functools import partial
from typing import Literal, cast

from torch import Tensor, nn

from pna.model.aggregation.layers import FeedForward, Pointwise
from pna.model.aggregation.neighborhood import (
    LogitAggregation,
    NeighborhoodAggregation,
    PaperNeighborhoodAggregation,
)
from pna.model.aggregation.self_aggregation import PaperSelfAggregation, SelfAggregation
from pna.model.resize import ResizeMode, resize

Variant = Literal["released", "paper", "prenorm"]
Residual = Literal["none", "add", "aggregate"]


class ReleasedFusion(nn.Module):
    """`x = SAM(f) + NAM(f, p); LN(x + MLP(LN(x)))`, as the authors released it.

    Without the last norm, `x + MLP(LN(x))`, what is classified may be as small as a correction of
    carried logits should be: a norm makes it as large in every cell.

    Args:
        width: Channels D.
        window: Cells per side, odd.
        self_aggregation: Put SAM on the shortcut.
        mlp_ratio: Hidden channels of the MLP per channel.
        last_norm: Normalise what comes out.
    """

    def __init__(
        self,
        width: int,
        window: int,
        *,
        self_aggregation: bool,
        mlp_ratio: float,
        last_norm: bool,
    ) -> None:
        super().__init__()
        self.self_aggregation = SelfAggregation(width) if self_aggregation else None
        self.neighborhood = NeighborhoodAggregation(width, window)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = FeedForward(width, mlp_ratio)
        self.norm_out = nn.LayerNorm(width) if last_norm else nn.Identity()

    def forward(self, f: Tensor, p: Tensor) -> Tensor:
        """Fuse embedded features and prediction, each (B, H, W, D)."""
        # Queries and keys take f itself: only the shortcut has been through SAM. NAM, which needs
        # more memory, runs first, while there is no shortcut to keep.
        x = self.neighborhood(f, p)
        x = x + (f if self.self_aggregation is None else self.self_aggregation(f))
        return cast(Tensor, self.norm_out(x + self.mlp(self.norm_mlp(x))))


class PaperFusion(nn.Module):
    """`x = SAM(f) + NAM(f, p); x + FFN(x)` (paper, equation 1).

    Args:
        width: Channels D.
        window: Cells per side, odd.
        self_aggregation: Send the features through SAM.
        mlp_ratio: Hidden channels of the FFN per channel.
    """

    def __init__(
        self, width: int, window: int, *, self_aggregation: bool, mlp_ratio: float
    ) -> None:
        super().__init__()
        self.self_aggregation = PaperSelfAggregation(width) if self_aggregation else None
        self.neighborhood = PaperNeighborhoodAggregation(width, window)
        self.feed_forward = FeedForward(width, mlp_ratio)

    def forward(self, f: Tensor, p: Tensor) -> Tensor:
        """Fuse embedded features and prediction, each (B, H, W, D)."""
        x = self.neighborhood(f, p)
        x = x + (f if self.self_aggregation is None else self.self_aggregation(f))
        return cast(Tensor, x + self.feed_forward(x))


class Stage(nn.Module):
    """Refine a prediction on one level of features.

    Args:
        in_channels: Channels C of the features.
        num_classes: Channels K of the prediction.
        width: Channels D of the embedding, a multiple of 32.
        window: Cells per side, odd.
        self_aggregation: Use SAM.
        upsample: How the previous prediction is resized before it is embedded.
        variant: "released", "paper" or "prenorm".
        residual: How the previous logits are carried: "none" (they are not), "add" (resized and
            added), "aggregate" (resized, then gathered by `LogitAggregation`, and added).
        embedding_bias: Whether the two embeddings have a bias.
        mlp_ratio: Hidden channels of the feed-forward network per channel.
        centre: Bias at the start with which "aggregate" gathers a cell's own logits.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int,
        window: int,
        self_aggregation: bool = True,
        upsample: ResizeMode = "nearest",
        variant: Variant = "released",
        residual: Residual = "none",
        embedding_bias: bool = True,
        mlp_ratio: float = 1.0,
        centre: float = 5.0,
    ) -> None:
        super().__init__()
        self.upsample = upsample
        self.residual = residual
        is_paper = variant == "paper"
        self.embed_feature = _embedding(in_channels, width, bias=embedding_bias, norm=is_paper)
        self.embed_prediction = _embedding(num_classes, width, bias=embedding_bias, norm=is_paper)
        last_norm = variant == "released"
        fusion = PaperFusion if is_paper else partial(ReleasedFusion, last_norm=last_norm)
        self.fusion: nn.Module = fusion(
            width, window, self_aggregation=self_aggregation, mlp_ratio=mlp_ratio
        )
        self.carry = (
            LogitAggregation(width, window, centre=centre) if residual == "aggregate" else None
        )
        self.classifier = Pointwise(width, num_classes)
        self.apply(_initialise)
        if residual != "none":  # a stage begins as the identity and learns corrections
            nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, feature: Tensor, previous: Tensor) -> Tensor:
        """Refine.

        Args:
            feature: (B, C, H, W) of the encoder.
            previous: (B, K, h, w) logits of any size.

        Returns:
            (B, K, H, W) logits.
        """
        size = feature.shape[-2:]
        f = self.embed(feature)
        p = self.embed_prediction(_channels_last(resize(previous, size, self.upsample)))
        logits: Tensor = self.classifier(self.fusion(f, p))
        if self.residual != "none":
            carried = _channels_last(resize(previous, size, "bilinear"))
            logits = logits + (carried if self.carry is None else self.carry(f, carried))
        return logits.permute(0, 3, 1, 2)

    def embed(self, feature: Tensor) -> Tensor:
        """Encoder features (B, C, H, W) -> (B, H, W, D), what queries and keys are made of."""
        return cast(Tensor, self.embed_feature(_channels_last(feature)))


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _embedding(channels: int, width: int, *, bias: bool, norm: bool) -> nn.Module:
    linear = Pointwise(channels, width, bias=bias)
    return nn.Sequential(linear, nn.LayerNorm(width)) if norm else linear


def _initialise(module: nn.Module) -> None:
    """Linear layers truncated normal 0.02, convolutions Caffe2's Xavier, biases zero."""
    if isinstance(module, nn.Conv2d | Pointwise):
        nn.init.kaiming_uniform_(module.weight, a=1)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
