"""One refinement stage: features and the previous prediction in, a finer prediction out.

There are three variants: "released" (the authors' code), "paper" (the equations) and "mixer"
(ours). Each embeds the features `f` and the prediction `p` to one width, aggregates, and
classifies. Inside, maps are channels-last.
"""

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from pna.model.pna.config import PNAConfig
from pna.model.pna.layers import FeedForward, Pointwise, convolve, depthwise
from pna.model.pna.nam import (
    LogitGathering,
    NeighborhoodAggregation,
    PaperNeighborhoodAggregation,
)
from pna.model.pna.sam import PaperSelfAggregation, SelfAggregation
from pna.model.refiner import StageOutput
from pna.model.resize import resize


class ReleasedFusion(nn.Module):
    """`x = SAM(f) + NAM(f, p); LN(x + MLP(LN(x)))`, as the authors released it.

    Args:
        width: Channels D.
        window: Cells per side, odd.
        config: SAM and MLP ratio.
    """

    def __init__(self, width: int, window: int, config: PNAConfig) -> None:
        super().__init__()
        self.self_aggregation = SelfAggregation(width) if config.self_aggregation else None
        self.neighborhood = NeighborhoodAggregation(width, window)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = FeedForward(width, config.mlp_ratio)
        self.norm_out = nn.LayerNorm(width)

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


class MixerBlock(nn.Module):
    """`x + MLP(LN(DW(x)))` with a depth-wise 3x3 convolution DW and an MLP with ReLU.

    Args:
        width: Channels D.
        ratio: Hidden channels of the MLP per channel.
    """

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.mix = depthwise(width, bias=True)
        self.norm_mlp = nn.LayerNorm(width)
        # On a CPU GELU takes as long as a linear layer, and needs another map of that width.
        self.mlp = FeedForward(width, ratio, activation=F.relu_)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, D) to (B, H, W, D)."""
        return cast(Tensor, x + self.mlp(self.norm_mlp(convolve(self.mix, x))))


class MixerFusion(nn.Module):
    """`x = f + p`, then SAM, then `depth` blocks of `x + MLP(LN(DW(x)))` (ours).

    Nothing gathers the embedded prediction: the logits are gathered before they are embedded, and
    depth-wise convolutions mix neighbors at a fraction of the price.

    Args:
        width: Channels D.
        config: SAM, depth and MLP ratio.
    """

    def __init__(self, width: int, config: PNAConfig) -> None:
        super().__init__()
        self.self_aggregation = SelfAggregation(width) if config.self_aggregation else None
        self.blocks = nn.Sequential(
            *(MixerBlock(width, config.mlp_ratio) for _ in range(config.depth))
        )

    def forward(self, f: Tensor, p: Tensor) -> Tensor:
        """Fuse embedded features and prediction, each (B, H, W, D)."""
        x = f + p
        if self.self_aggregation is not None:
            x = self.self_aggregation(x)
        return cast(Tensor, self.blocks(x))


class ImageStem(nn.Module):
    """Features of the image itself at stride 2: a convolution of 4x4 pixels and GELU.

    Four pixels, and not three, so that a cell's center is the center of what it sees.

    Args:
        image_channels: Channels of the image.
        width: Channels of the features.
    """

    def __init__(self, image_channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(image_channels, width, 4, stride=2, padding=1)
        self.apply(_initialize)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, Y, X) in [0, 1] to (B, D, Y / 2, X / 2)."""
        return F.gelu(self.conv(images - 0.5))


class Stage(nn.Module):
    """Refine a prediction on one level of features.

    Args:
        in_channels: Channels C of the features.
        num_classes: Channels K of the prediction.
        config: Options of one level, as `PNAConfig.at_level` returns them.
        handed_on: Channels of what the previous stage hands on; None takes nothing.
    """

    def __init__(
        self, in_channels: int, num_classes: int, config: PNAConfig, handed_on: int | None = None
    ) -> None:
        super().__init__()
        assert config.widths is not None
        (width,), window = config.widths, config.window
        bias, is_paper = config.embedding_bias, config.variant == "paper"
        assert isinstance(window, int)
        assert isinstance(bias, bool)
        self.width = width
        self.upsample = config.upsample
        self.residual = config.residual
        self.embed_feature = _embedding(in_channels, width, bias=bias, norm=is_paper)
        self.embed_prediction = _embedding(num_classes, width, bias=bias, norm=is_paper)
        self.receive = None if handed_on is None else Pointwise(handed_on, width, bias=False)
        self.fusion: PaperFusion | MixerFusion | ReleasedFusion
        if is_paper:
            self.fusion = PaperFusion(width, window, config)
        elif config.variant == "mixer":
            self.fusion = MixerFusion(width, config)
        else:
            self.fusion = ReleasedFusion(width, window, config)
        is_gathered = config.residual == "gather"
        self.carry = LogitGathering(width, config.carry_window) if is_gathered else None
        self.classifier = Pointwise(width, num_classes)
        self.apply(_initialize)
        if self.residual != "none":  # a stage begins as the identity and learns corrections
            # Not zeros: the layers below would get no gradient in the first step. What the "mixer"
            # classifies is not normalized, it grows with the logits of the network.
            std = 0.0001 if config.variant == "mixer" else 0.001
            nn.init.normal_(self.classifier.weight, std=std)

    def forward(
        self,
        feature: Tensor,
        previous: Tensor,
        detail: Tensor | None = None,
        handed_on: Tensor | None = None,
        image: Tensor | None = None,
    ) -> StageOutput:
        """Refine a prediction on one level.

        Args:
            feature: (B, C, H, W) of the encoder, or of the image.
            previous: (B, K, h, w) logits of any size.
            detail: (B, K, H, W) that is added to the previous logits at this size.
            handed_on: (B, D', h', w') of the previous stage.
            image: (B, C', H, W) in [0, 1], averaged to this size, where logits are gathered by
                colors too.

        Returns:
            Logits (B, K, H, W), features (B, D, H, W) and, in training with `residual="gather"`,
            what the logits were gathered with.
        """
        size = feature.shape[-2:]
        f = self.embed(feature)  # (B, H, W, D)
        if self.receive is not None:
            assert handed_on is not None
            # Projected on the coarse grid, which has fewer cells.
            received = self.receive(_channels_last(handed_on)).permute(0, 3, 1, 2)
            f = f + _channels_last(resize(received, size))
        aux: dict[str, Tensor] = {}
        if self.carry is not None:
            coarse = _channels_last(previous)
            assert image is not None
            carried, neighborhood = self.carry(f, coarse, _channels_last(image))
            if self.training:
                aux = {name: getattr(neighborhood, name) for name in ("query", "key", "bias")}
        else:
            # Always bilinear: carried logits are output, not only an input to attention.
            carried = _channels_last(resize(previous, size, "bilinear"))
        if detail is not None:
            carried = carried + _channels_last(detail)
        # Embedding first and resizing then would be cheaper, but the authors resize the logits.
        embedded = carried
        if self.carry is None and self.upsample != "bilinear":
            embedded = _channels_last(resize(previous, size, self.upsample))
        x = self.fusion(f, self.embed_prediction(embedded))
        logits: Tensor = self.classifier(x)  # (B, H, W, K)
        if self.residual != "none":
            logits = logits + carried
        return StageOutput(logits.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), aux)

    @property
    def attention(self) -> nn.Module | None:
        """The attention whose weights are shown: that of the logits where they are gathered."""
        if self.carry is not None:
            return self.carry
        return None if isinstance(self.fusion, MixerFusion) else self.fusion.neighborhood

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
