"""EBLNet: a cascade that takes a map apart into edge and body, and reasons along the edge.

Source: He, Li, Cheng, Shi, Tong, Meng, Prinet, Weng, "Enhanced Boundary Learning for Glass-like
Object Segmentation" (ICCV 2021), section 3; where it leaves a size open, the authors' released
code (hehao13/EBLNet), trained as three cascaded stages of 96 points.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.model.coarse.layers import BatchNorm, ConvBNReLU
from pna.model.refiner import Refined, Refiner, Scene
from pna.model.resize import resize

_GROUPS = 8  # of the convolution that finds the edge feature


class Parts(NamedTuple):
    """What the differential module makes of a map, each (B, D, h, w).

    Attributes:
        edge: The map's feature along edges.
        body: The rest.
    """

    edge: Tensor
    body: Tensor


class RefinedDifferential(nn.Module):
    """Takes a map apart: the edge is found with fine features, the body is what it leaves.

    Args:
        channels: Channels D of the map.
        low_channels: Those of the fine features.
        high_channels: Channels of the coarse features that fill up the body.
        skip_channels: What these are reduced to.
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
    """Graph reasoning among the cells that most likely lie on an edge (PGM).

    The graph is dense and learned: one convolution mixes the points, sorted by their probability,
    another one the channels.

    Args:
        channels: Channels D.
        num_points: Points P of the graph; a smaller map fills the rest with zeros.
        threshold: Probability from which on a point's feature is replaced.
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
            probability: (B, 1, h, w), of lying on an edge.
        """
        cells = x.flatten(2)
        best = probability.flatten(1).topk(min(self.num_points, cells.shape[2]), dim=1)
        places = best.indices.unsqueeze(1).expand(-1, cells.shape[1], -1)
        points = cells.gather(2, places)  # (B, D, P)
        reasoned = self._reason(points)
        is_edge = best.values.unsqueeze(1) >= self.threshold
        replaced = torch.where(is_edge, reasoned, points).to(cells.dtype)
        return cells.scatter(2, places, replaced).view_as(x)

    def _reason(self, points: Tensor) -> Tensor:
        num_points = points.shape[2]
        nodes = F.pad(points, (0, self.num_points - num_points)).transpose(1, 2)  # (B, P, D)
        nodes = nodes + self.mix_points(nodes)
        reasoned: Tensor = self.mix_channels(nodes.transpose(1, 2))
        return reasoned[..., :num_points]


class BoundaryStage(nn.Module):
    """One stage of the cascade.

    Args:
        channels: Channels D.
        num_classes: Classes K.
        low_channels: Channels of the fine features.
        high_channels: Channels of the coarse features.
        skip_channels: What these are reduced to.
        num_points: Points of the graph.
        threshold: Probability from which on a point's feature is replaced.
        is_last: Whether the context joins once more before the classes are predicted.
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
            x: (B, D, ., .): the context at first, then what the stage before has merged.
            context: (B, D, h', w').
            low: Fine features (B, ., h, w).
            high: Coarse features of any size.

        Returns:
            The merged map (B, D, h, w), its parts, and the edge's logits (B, 1, h, w).
        """
        parts = self.split(x, low, high)
        edge_logits = self.classify_edge(parts.edge)
        # Points are chosen by the edge, they don't train it.
        merged = self.graph(parts.body + parts.edge, edge_logits.detach().float().sigmoid())
        if self.is_last:
            merged = torch.cat([resize(context, merged.shape[-2:]), merged], dim=1)
        return self.merge(merged), parts, edge_logits


class EBLNet(Refiner):
    """Refines the context of DeepLabV3's pyramid by stages of edge, body and point graph.

    Each stage predicts at the finest level's stride. Its own loss trains the edge against the
    boundary of the labels, and a prediction from the body against the labels beside it.

    Args:
        in_channels: Channels of all levels, fine to coarse; the last one is the context, a level
            of its own (`AtrousNeck`), and its channels D are the width of all stages.
        num_classes: Classes K.
        num_stages: Stages of the cascade; stage i fills the body from the i-th coarsest level.
        skip_channels: What the fine and the coarse features are reduced to.
        num_points: Points of each graph.
        threshold: Probability of an edge from which on a point's feature is replaced.
    """

    own_loss = "edges"

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
            raise ValueError(f"expected a level and the context, got channels {in_channels}")
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

    def forward(self, scene: Scene) -> Refined:
        """Refine stage by stage; while training, `aux` holds "edges" and "bodies" for the loss."""
        *levels, context = scene.features
        low = self.reduce(levels[0])
        x, stages, edges, bodies = context, [], [], []
        for stage, source in zip(self.cascade, self.sources, strict=True):
            # The authors bring every stage's input back to the size of the context.
            x, parts, edge_logits = stage(
                resize(x, context.shape[-2:]), context, low, levels[source]
            )
            stages.append(stage.classifier(x))  # type: ignore[operator]
            if self.training:
                edges.append(edge_logits)
                bodies.append(stage.classify_body(parts.body))  # type: ignore[operator]
        if not self.training:
            return Refined(stages, {})
        # (B, n, h, w) and (B, n, K, h, w)
        return Refined(stages, {"edges": torch.cat(edges, 1), "bodies": torch.stack(bodies, 1)})
