"""PointRend: predicts anew at points, where the coarse prediction is uncertain.

Source: Kirillov, Wu, He, Girshick, "PointRend: Image Segmentation as Rendering" (CVPR 2020),
sections 3 and 5: what it does for semantic segmentation.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.model.refiner import Refined, Refiner, Scene
from pna.model.resize import resize
from pna.model.rivals.points import centres, draw_points, most_uncertain_cells, sample

_PIXELS_PER_POINT = 16 * 16  # "as many points as there are on a stride 16 feature map" (section 5)


class PointHead(nn.Module):
    """Predicts points from fine features and the coarse prediction, each point by itself.

    Args:
        in_channels: Channels C of the fine features.
        num_classes: Classes K.
        channels: Width of the hidden layers.
        num_layers: Hidden layers; each of them, and the last one, sees the coarse prediction again.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, channels: int = 256, num_layers: int = 3
    ) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * num_layers]
        self.layers = nn.ModuleList(
            nn.Conv1d(width + num_classes, channels, 1) for width in widths[:-1]
        )
        self.classifier = nn.Conv1d(widths[-1] + num_classes, num_classes, 1)
        self.apply(_initialise)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Map fine features (B, C, P) and coarse logits (B, K, P) to logits (B, K, P)."""
        x = fine
        for layer in self.layers:
            x = F.relu(layer(torch.cat([x, coarse], dim=1)))
        logits: Tensor = self.classifier(torch.cat([x, coarse], dim=1))
        return logits


class PointRend(Refiner):
    """Refines by a point head on the finest features and P0.

    While training it predicts random points, most of them uncertain ones. At inference it doubles
    P0 step by step up to the padded picture, each time predicting the most uncertain cells anew.

    Args:
        in_channels: Channels of all levels, fine to coarse; the finest is read. It is P2 of the
            pyramid on semantic FPN, and the encoder's own (res2) elsewhere, as in the paper.
        num_classes: Classes K.
        channels: Width of the point head.
        num_layers: Its hidden layers.
        oversampling: Candidates for every point to train on.
        importance: Share of these points that is taken for being uncertain.
    """

    own_loss = "points"

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 256,
        num_layers: int = 3,
        oversampling: int = 3,
        importance: float = 0.75,
    ) -> None:
        super().__init__()
        self.head = PointHead(in_channels[0], num_classes, channels=channels, num_layers=num_layers)
        self.oversampling = oversampling
        self.importance = importance

    def forward(self, scene: Scene) -> Refined:
        """Predict the points to train on, or, in evaluation, the padded picture as P1."""
        H, W = scene.pictures.shape[-2:]
        num_points = -(-H * W // _PIXELS_PER_POINT)
        fine, coarse = scene.features[0], scene.coarse
        if not self.training:
            return Refined([self.subdivide(fine, coarse, (H, W), num_points)], {})
        with torch.no_grad():
            points = draw_points(
                coarse, num_points, oversampling=self.oversampling, importance=self.importance
            )
        return Refined([], {"points": points, "point_logits": self.predict(fine, coarse, points)})

    def subdivide(
        self, fine: Tensor, coarse: Tensor, size: tuple[int, int], num_points: int
    ) -> Tensor:
        """Double a prediction until it has a size, predicting uncertain cells anew at each step.

        Args:
            fine: (B, C, H', W') fine features.
            coarse: (B, K, h, w) logits.
            size: (H, W) to reach.
            num_points: Cells to predict at each step.

        Returns:
            (B, K, H, W) logits; `coarse` itself where it has the size already.
        """
        logits = coarse
        while (shape := (logits.shape[-2], logits.shape[-1])) != size:
            height, width = (min(2 * now, end) for now, end in zip(shape, size, strict=True))
            logits = resize(logits, (height, width))
            cells = most_uncertain_cells(logits, num_points)
            anew = self.predict(fine, coarse, centres(cells, width, height)).to(logits.dtype)
            places = cells.unsqueeze(1).expand_as(anew)
            logits = logits.flatten(2).scatter(2, places, anew).view_as(logits)
        return logits

    def predict(self, fine: Tensor, coarse: Tensor, points: Tensor) -> Tensor:
        """Logits (B, K, P) at points (B, P, 2), from fine features and coarse logits there."""
        logits: Tensor = self.head(sample(fine, points), sample(coarse, points))
        return logits


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv1d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
