"""EBLNet: a cascade that splits a map into edge and body, with a point graph along the edge.

Source: He, Li, Cheng, Shi, Tong, Meng, Prinet, Weng, "Enhanced Boundary Learning for Glass-like
Object Segmentation" (ICCV 2021), section 3. Sizes that the paper leaves open, the dice loss, its
weight of 3 and boundaries 8 pixels wide as in the authors' released code (hehao13/EBLNet), in its
configuration of three stages and 96 points. That code draws the outlines of everything but class
0; here a boundary is wherever two classes meet.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.errors import PnaError
from pna.labels import IGNORE_INDEX, LabelSpace
from pna.model.coarse.deeplab import AtrousPyramid
from pna.model.coarse.layers import BatchNorm, Classifier, CoarseHead, ConvBNReLU
from pna.model.config import ModelConfig
from pna.model.encoder import EncoderWeights
from pna.model.presets import (
    allow_head_options,
    assemble,
    atrous_rates,
    build_encoder,
    coarse_width,
)
from pna.model.refiner import Refiner, RefinerOutput
from pna.model.resize import resize
from pna.model.segmenter import Segmenter

_GROUPS = 8  # of the convolution that computes the edge feature

BOUNDARY_RADIUS = 4
"""Pixels on each side of a boundary that count as boundary."""
EDGE_WEIGHT = 3.0
"""Weight of the edges' loss against that of the bodies."""


class AtrousNeck(nn.Module):
    """The encoder's levels, and DeepLabV3's atrous pyramid of the coarsest as one more.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse.
        channels: Width of the pyramid.
        rates: Dilations of its 3x3 branches, in cells.

    Attributes:
        channels: Channels of all levels of the result.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        *,
        rates: Sequence[int] = (12, 24, 36),
    ) -> None:
        super().__init__()
        self.pyramid = AtrousPyramid(in_channels[-1], channels, rates=rates)
        self.channels = (*in_channels, channels)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Map n features, fine to coarse, to n + 1."""
        return [*features, self.pyramid(features[-1])]


class LastLevelHead(CoarseHead):
    """Coarse logits from the last level alone: with `AtrousNeck`, those of DeepLabV3.

    Args:
        in_channels: Channels of all levels.
        num_classes: Number of classes K.
        dropout: Probability of zeroing a channel before the classifier while training.
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, *, dropout: float = 0.1
    ) -> None:
        super().__init__(in_channels)
        self.classifier = Classifier(self.in_channels[-1], num_classes, dropout=dropout)

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Return the last level."""
        return features[-1]


class Parts(NamedTuple):
    """Edge and body of a map, each (B, D, h, w).

    Attributes:
        edge: The map's feature along edges.
        body: The rest.
    """

    edge: Tensor
    body: Tensor


class RefinedDifferential(nn.Module):
    """Split a map: compute the edge with fine features, subtract it, and fill up the body.

    Args:
        channels: Channels D of the map.
        low_channels: Channels of the fine features.
        high_channels: Channels of the coarse features that fill up the body.
        skip_channels: Channels that these are reduced to.
    """

    def __init__(
        self, channels: int, low_channels: int, high_channels: int, *, skip_channels: int
    ) -> None:
        super().__init__()
        groups = math.gcd(_GROUPS, channels, low_channels)
        self.edge = nn.Sequential(
            nn.Conv2d(channels + low_channels, channels, 3, padding=1, groups=groups, bias=False),
            BatchNorm(channels),
            nn.ReLU(inplace=True),
        )
        self.reduce = nn.Conv2d(high_channels, skip_channels, 1, bias=False)
        self.fill = nn.Conv2d(channels + skip_channels, channels, 1, bias=False)

    def forward(self, x: Tensor, low: Tensor, high: Tensor) -> Parts:
        """Split `x` (B, D, ., .) at the size of `low` (B, ., h, w); `high` is of any size."""
        size = low.shape[-2:]
        x = resize(x, size)
        edge = self.edge(torch.cat([x, low], dim=1))
        body = self.fill(torch.cat([x - edge, resize(self.reduce(high), size)], dim=1))
        return Parts(edge, body)


class PointGraph(nn.Module):
    """Point-based graph module (PGM): mix the features of the most likely edge cells.

    The graph is dense and learned. One convolution mixes the points, sorted by their probability,
    another one the channels.

    Args:
        channels: Channels D.
        num_points: Points P of the graph; a smaller map fills the rest with zeros.
        threshold: Least probability of an edge at which a point's feature is replaced.
    """

    def __init__(self, channels: int, *, num_points: int, threshold: float) -> None:
        super().__init__()
        self.num_points = num_points
        self.threshold = threshold
        self.mix_points = nn.Sequential(
            nn.Conv1d(num_points, num_points, 1, bias=False), nn.BatchNorm1d(num_points), nn.ReLU()
        )
        self.mix_channels = nn.Sequential(
            nn.Conv1d(channels, channels, 1, bias=False), nn.BatchNorm1d(channels), nn.ReLU()
        )

    def forward(self, x: Tensor, probability: Tensor) -> Tensor:
        """Replace the features of edge cells.

        Args:
            x: (B, D, h, w).
            probability: (B, 1, h, w) of an edge.
        """
        cells = x.flatten(2)  # (B, D, h * w)
        best = probability.flatten(1).topk(min(self.num_points, cells.shape[2]), dim=1)
        index = best.indices.unsqueeze(1).expand(-1, cells.shape[1], -1)
        points = cells.gather(2, index)  # (B, D, P)
        num_points = points.shape[2]
        nodes = F.pad(points, (0, self.num_points - num_points)).transpose(1, 2)  # (B, P, D)
        nodes = nodes + self.mix_points(nodes)
        mixed = self.mix_channels(nodes.transpose(1, 2))[..., :num_points]
        # Cells below the threshold join the graph, and keep their own features.
        is_edge = best.values.unsqueeze(1) >= self.threshold  # (B, 1, P)
        replaced = torch.where(is_edge, mixed, points).to(cells.dtype)
        return cells.scatter(2, index, replaced).view_as(x)


class BoundaryStage(nn.Module):
    """One stage of the cascade.

    Args:
        channels: Channels D.
        num_classes: Classes K.
        low_channels: Channels of the fine features.
        high_channels: Channels of the coarse features.
        skip_channels: Channels that the coarse features are reduced to.
        num_points: Points of the graph.
        threshold: Least probability of an edge at which a point's feature is replaced.
        is_last: Whether the context is concatenated again before the classes are predicted.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        low_channels: int,
        high_channels: int,
        skip_channels: int,
        num_points: int,
        threshold: float,
        is_last: bool,
    ) -> None:
        super().__init__()
        self.split = RefinedDifferential(
            channels, low_channels, high_channels, skip_channels=skip_channels
        )
        self.classify_edge = nn.Sequential(
            ConvBNReLU(channels, channels), nn.Conv2d(channels, 1, 1, bias=False)
        )
        self.classify_body = nn.Sequential(
            ConvBNReLU(channels, channels), nn.Conv2d(channels, num_classes, 1, bias=False)
        )
        self.graph = PointGraph(channels, num_points=num_points, threshold=threshold)
        self.is_last = is_last
        self.merge = nn.Sequential(
            *([ConvBNReLU(2 * channels, channels)] if is_last else []),
            ConvBNReLU(channels, channels),
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1, bias=False)

    def forward(
        self, x: Tensor, context: Tensor, low: Tensor, high: Tensor
    ) -> tuple[Tensor, Parts, Tensor]:
        """Run the stage.

        Args:
            x: (B, D, ., .): the context in the first stage, then the previous stage's merged map.
            context: (B, D, h', w').
            low: Fine features (B, ., h, w).
            high: Coarse features of any size.

        Returns:
            The merged map (B, D, h, w), its parts, and the edge's logits (B, 1, h, w).
        """
        parts = self.split(x, low, high)
        edge_logits = self.classify_edge(parts.edge)
        # The edge chooses the points; it is trained by its own loss only, as in the authors' code.
        merged = self.graph(parts.body + parts.edge, edge_logits.detach().float().sigmoid())
        if self.is_last:
            merged = torch.cat([resize(context, merged.shape[-2:]), merged], dim=1)
        return self.merge(merged), parts, edge_logits


class EBLNet(Refiner):
    """Refine the context of DeepLabV3's pyramid by stages of edge, body and point graph.

    Each stage predicts at the finest level's stride.

    Args:
        in_channels: Channels of all levels, fine to coarse; the last one is the context, an extra
            level (`AtrousNeck`), and its channels D are the width of all stages.
        num_classes: Classes K.
        num_stages: Stages of the cascade; stage i fills the body from the i-th coarsest level.
        skip_channels: Channels that fine and coarse features are reduced to.
        num_points: Points of each graph.
        threshold: Least probability of an edge at which a point's feature is replaced.

    Raises:
        PnaError: There is no level but the context.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        num_stages: int = 3,
        skip_channels: int = 48,
        num_points: int = 96,
        threshold: float = 0.9,
    ) -> None:
        super().__init__()
        *levels, channels = in_channels
        if not levels:
            raise PnaError(f"expected a level and the context, got channels {in_channels}")
        self.num_stages = num_stages
        self.sources = [max(len(levels) - 1 - i, 0) for i in range(num_stages)]
        self.reduce = nn.Conv2d(levels[0], skip_channels, 1, bias=False)
        self.cascade = nn.ModuleList(
            BoundaryStage(
                channels,
                num_classes,
                low_channels=skip_channels,
                high_channels=levels[source],
                skip_channels=skip_channels,
                num_points=num_points,
                threshold=threshold,
                is_last=i == num_stages - 1,
            )
            for i, source in enumerate(self.sources)
        )

    def forward(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> list[Tensor]:
        """Refine stage by stage; `coarse` and `images` are not used."""
        return [stage.classifier(merged) for stage, merged, _, _ in self._run(features)]

    def forward_training(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> RefinerOutput:
        """Refine; "edges" (B, n, h, w) and "bodies" (B, n, K, h, w) are the n stages' logits."""
        stages, edges, bodies = [], [], []
        for stage, merged, parts, edge_logits in self._run(features):
            stages.append(stage.classifier(merged))
            edges.append(edge_logits)
            bodies.append(stage.classify_body(parts.body))
        return RefinerOutput(
            stages, {"edges": torch.cat(edges, 1), "bodies": torch.stack(bodies, 1)}
        )

    def losses(self, aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Compute 3 times the dice loss of the edges, and cross-entropy of the bodies elsewhere.

        Both are summed over the stages (section 3.4 of the paper).
        """
        edge, valid = is_boundary(labels), labels != IGNORE_INDEX
        probability = resize(aux["edges"], labels.shape[-2:]).sigmoid()
        edges = [dice(stage, edge, valid) for stage in probability.unbind(1)]
        # The body's loss leaves out the edges, which are the other part's.
        off_edge = labels.masked_fill(edge, IGNORE_INDEX)
        num_off_edge = (off_edge != IGNORE_INDEX).sum().clamp(min=1)
        bodies = [
            F.cross_entropy(
                resize(logits, labels.shape[-2:]),
                off_edge,
                ignore_index=IGNORE_INDEX,
                reduction="sum",
            )
            / num_off_edge
            for logits in aux["bodies"].unbind(1)
        ]
        return {
            "edges": EDGE_WEIGHT * torch.stack(edges).sum(),
            "bodies": torch.stack(bodies).sum(),
        }

    def _run(
        self, features: Sequence[Tensor]
    ) -> Iterator[tuple[BoundaryStage, Tensor, Parts, Tensor]]:
        """Yield each stage with its merged map, its parts and its edge logits."""
        *levels, context = features
        low = self.reduce(levels[0])
        merged = context
        for stage, source in zip(self.cascade, self.sources, strict=True):
            assert isinstance(stage, BoundaryStage)
            # As in the authors' code, the input of every stage is resized to the context's size.
            x = resize(merged, context.shape[-2:])
            merged, parts, edge_logits = stage(x, context, low, levels[source])
            yield stage, merged, parts, edge_logits


def is_boundary(labels: Tensor, *, radius: int = BOUNDARY_RADIUS) -> Tensor:
    """Mask the pixels that have another class nearby: a band of twice the radius.

    Args:
        labels: (B, H, W) int64, 255 ignored: such a pixel is no boundary and makes none.
        radius: Largest distance of the other class along either axis, in pixels.

    Returns:
        (B, H, W) bool.
    """

    def highest(x: Tensor) -> Tensor:  # maximum filter, separable
        side = 2 * radius + 1
        rows = F.max_pool2d(x, (1, side), stride=1, padding=(0, radius))
        return F.max_pool2d(rows, (side, 1), stride=1, padding=(radius, 0))

    # Where the highest and the lowest class of the square differ, two classes meet.
    ignored = labels == IGNORE_INDEX
    classes = labels.float()  # max_pool2d takes no integers
    lowest_class = -highest(-classes)  # 255, ignored, is above all classes
    return (highest(classes.masked_fill(ignored, -1.0)) != lowest_class) & ~ignored


def dice(probability: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Compute the dice loss, with squares in the denominator, smoothed by 1; mean over images.

    Args:
        probability: (B, H, W).
        target: (B, H, W) bool.
        valid: (B, H, W) bool: the pixels that count.
    """
    p, t = (probability * valid).flatten(1), (target & valid).float().flatten(1)
    overlap = 2 * (p * t).sum(1) + 1
    return (1 - overlap / (p.square().sum(1) + t.sum(1) + 1)).mean()


def build_eblnet(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build DeepLabV3 refined by EBLNet."""
    allow_head_options(config, "rates")
    num_classes = labels.num_classes
    encoder = build_encoder(config, weights)
    neck = AtrousNeck(encoder.channels, **coarse_width(config), **atrous_rates(config))
    coarse = LastLevelHead(neck.channels, num_classes)
    refiner = EBLNet(neck.channels, num_classes)
    return assemble(config, labels, encoder, coarse, neck=neck, refiner=refiner)
