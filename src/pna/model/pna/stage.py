"""One refinement stage: features and the previous prediction in, a finer prediction out.

There are three variants: "released" (the authors' code), "paper" (the equations) and "prenorm"
(ours). Each embeds the features `f` and the resized prediction `p` to one width, aggregates, and
classifies. Inside, maps are channels-last.
"""

from typing import cast

from torch import Tensor, nn

from pna.model.pna.config import PNAConfig
from pna.model.pna.layers import FeedForward, Pointwise
from pna.model.pna.nam import (
    LogitAggregation,
    NeighborhoodAggregation,
    PaperNeighborhoodAggregation,
)
from pna.model.pna.sam import PaperSelfAggregation, SelfAggregation
from pna.model.resize import resize


class ReleasedFusion(nn.Module):
    """`x = SAM(f) + NAM(f, p); LN(x + MLP(LN(x)))`, as the authors released it.

    The "prenorm" variant leaves the last layer norm out. The classifier's input may then be as
    small as a correction of carried logits should be; a norm makes it equally large in every cell.

    Args:
        width: Channels D.
        window: Cells per side, odd.
        config: Variant, SAM and MLP ratio.
    """

    def __init__(self, width: int, window: int, config: PNAConfig) -> None:
        super().__init__()
        self.self_aggregation = SelfAggregation(width) if config.self_aggregation else None
        self.neighborhood = NeighborhoodAggregation(width, window)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = FeedForward(width, config.mlp_ratio)
        has_last_norm = config.variant == "released"
        self.norm_out = nn.LayerNorm(width) if has_last_norm else nn.Identity()

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
        config: SAM and MLP ratio.
    """

    def __init__(self, width: int, window: int, config: PNAConfig) -> None:
        super().__init__()
        self.self_aggregation = PaperSelfAggregation(width) if config.self_aggregation else None
        self.neighborhood = PaperNeighborhoodAggregation(width, window)
        self.feed_forward = FeedForward(width, config.mlp_ratio)

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
        config: Options of one level, as `PNAConfig.at_level` returns them.
    """

    def __init__(self, in_channels: int, num_classes: int, config: PNAConfig) -> None:
        super().__init__()
        assert config.widths is not None
        (width,), window = config.widths, config.window
        bias, is_paper = config.embedding_bias, config.variant == "paper"
        assert isinstance(window, int)
        assert isinstance(bias, bool)
        self.upsample = config.upsample
        self.residual = config.residual
        self.embed_feature = _embedding(in_channels, width, bias=bias, norm=is_paper)
        self.embed_prediction = _embedding(num_classes, width, bias=bias, norm=is_paper)
        self.fusion = (
            PaperFusion(width, window, config)
            if is_paper
            else ReleasedFusion(width, window, config)
        )
        self.carry = (
            LogitAggregation(width, window, self_bias=config.self_bias)
            if config.residual == "aggregate"
            else None
        )
        self.classifier = Pointwise(width, num_classes)
        self.apply(_initialize)
        if self.residual != "none":  # a stage begins as the identity and learns corrections
            # Not zeros: the layers below would get no gradient in the first step.
            nn.init.normal_(self.classifier.weight, std=0.001)

    @property
    def neighborhood(
        self,
    ) -> NeighborhoodAggregation | PaperNeighborhoodAggregation | LogitAggregation:
        """The attention whose weights are shown: of the logits where they are gathered."""
        return self.carry if self.carry is not None else self.fusion.neighborhood

    def forward(self, feature: Tensor, previous: Tensor) -> Tensor:
        """Refine a prediction on one level.

        Args:
            feature: (B, C, H, W) of the encoder.
            previous: (B, K, h, w) logits of any size.

        Returns:
            (B, K, H, W) logits.
        """
        size = feature.shape[-2:]
        f = self.embed(feature)  # (B, H, W, D)
        # Embedding first and resizing then would be cheaper, but the authors resize the logits.
        p = self.embed_prediction(_channels_last(resize(previous, size, self.upsample)))
        logits: Tensor = self.classifier(self.fusion(f, p))  # (B, H, W, K)
        if self.residual != "none":
            # Always bilinear: carried logits are output, not only an input to attention.
            carried = _channels_last(resize(previous, size, "bilinear"))
            logits = logits + (carried if self.carry is None else self.carry(f, carried))
        return logits.permute(0, 3, 1, 2)

    def embed(self, feature: Tensor) -> Tensor:
        """Map features (B, C, H, W) to (B, H, W, D), the input of queries and keys."""
        return cast(Tensor, self.embed_feature(_channels_last(feature)))


def _channels_last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _embedding(channels: int, width: int, *, bias: bool, norm: bool) -> nn.Module:
    linear = Pointwise(channels, width, bias=bias)
    return nn.Sequential(linear, nn.LayerNorm(width)) if norm else linear


def _initialize(module: nn.Module) -> None:
    """Initialize linear layers (normal 0.02), convolutions (Caffe2's Xavier) and biases (0)."""
    if isinstance(module, nn.Conv2d | Pointwise):
        nn.init.kaiming_uniform_(module.weight, a=1)
    elif isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
