"""PointRend: predict again at points where the coarse prediction is uncertain.

Source: Kirillov, Wu, He, Girshick, "PointRend: Image Segmentation as Rendering" (CVPR 2020),
sections 3 and 5, for semantic segmentation.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.lab.baselines.sampling import sample, sample_labels
from pna.labels import IGNORE_INDEX, LabelSpace
from pna.model.coarse.deeplab import DeepLabV3Head
from pna.model.coarse.fpn import SemanticFPNHead
from pna.model.coarse.necks import FeaturePyramid
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

_PIXELS_PER_POINT = 16 * 16  # "as many points as there are on a stride 16 feature map" (section 5)


class PointHead(nn.Module):
    """Predict each point on its own, from fine features and the coarse prediction there.

    Args:
        in_channels: Channels C of the fine features.
        num_classes: Classes K.
        channels: Width of the hidden layers.
        num_layers: Hidden layers; the coarse prediction is an input of every layer.
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
        for layer in [*self.layers, self.classifier]:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Map fine features (B, C, P) and coarse logits (B, K, P) to logits (B, K, P)."""
        x = fine
        for layer in self.layers:
            x = F.relu(layer(torch.cat([x, coarse], dim=1)))
        logits: Tensor = self.classifier(torch.cat([x, coarse], dim=1))
        return logits


class PointRend(Refiner):
    """Refine by a point head on the finest features and P0.

    In training it predicts random points, most of them uncertain ones. At inference it doubles
    P0 step by step up to the padded image, and predicts the most uncertain cells again at each
    step.

    Args:
        in_channels: Channels of all levels, fine to coarse. Only the finest is used: P2 of the
            pyramid on semantic FPN, and the encoder's res2 elsewhere, as in the paper.
        num_classes: Classes K.
        channels: Width of the point head.
        num_layers: Its hidden layers.
        oversampling: Candidates for every point to train on.
        importance: Share of these points that is chosen by uncertainty.
    """

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

    def forward(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> list[Tensor]:
        """Predict P1 (B, K, H, W) at the size of the padded images."""
        assert images is not None
        H, W = images.shape[-2:]
        return [self.subdivide(features[0], coarse, (H, W), _num_points(images))]

    def forward_training(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> RefinerOutput:
        """Predict random points: "points" (B, P, 2) and "point_logits" (B, K, P) in `aux`."""
        assert images is not None
        with torch.no_grad():
            points = draw_points(
                coarse,
                _num_points(images),
                oversampling=self.oversampling,
                importance=self.importance,
            )
        logits = self.predict(features[0], coarse, points)
        return RefinerOutput([], {"points": points, "point_logits": logits})

    def losses(self, aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Compute the mean cross-entropy of the valid points (section 3.2 of the paper)."""
        # Points may lie on ignored pixels or in the padding, so the mean is over the others.
        truth = sample_labels(labels, aux["points"])
        total = F.cross_entropy(
            aux["point_logits"], truth, ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return {"points": total / (truth != IGNORE_INDEX).sum().clamp(min=1)}

    def subdivide(
        self, fine: Tensor, coarse: Tensor, size: tuple[int, int], num_points: int
    ) -> Tensor:
        """Double a prediction until it has a size, predicting uncertain cells again at each step.

        Args:
            fine: (B, C, H', W') fine features.
            coarse: (B, K, h, w) logits.
            size: (H, W) of the result.
            num_points: Cells to predict at each step.

        Returns:
            (B, K, H, W) logits; `coarse` itself where it has the size already.
        """
        logits = coarse
        while (shape := (logits.shape[-2], logits.shape[-1])) != size:
            height, width = (min(2 * now, end) for now, end in zip(shape, size, strict=True))
            logits = resize(logits, (height, width))
            cells = most_uncertain_cells(logits, num_points)  # (B, P)
            predicted = self.predict(fine, coarse, centers(cells, width, height)).to(logits.dtype)
            index = cells.unsqueeze(1).expand_as(predicted)  # (B, K, P)
            logits = logits.flatten(2).scatter(2, index, predicted).view_as(logits)
        return logits

    def predict(self, fine: Tensor, coarse: Tensor, points: Tensor) -> Tensor:
        """Predict logits (B, K, P) at points (B, P, 2), from fine features and logits there."""
        dtype = self.head.classifier.weight.dtype  # sampled in float32, also by a network in half
        logits: Tensor = self.head(sample(fine, points).to(dtype), sample(coarse, points).to(dtype))
        return logits


def _num_points(images: Tensor) -> int:
    return -(-images.shape[-2] * images.shape[-1] // _PIXELS_PER_POINT)


def uncertainty(logits: Tensor) -> Tensor:
    """Return the second largest logit minus the largest: 0 is most uncertain.

    Args:
        logits: (B, K, ...).

    Returns:
        (B, ...), at most 0; all 0 for a single class.
    """
    if logits.shape[1] == 1:
        return torch.zeros_like(logits[:, 0])
    first, second = logits.topk(2, dim=1).values.unbind(1)
    return second - first


def draw_points(logits: Tensor, num_points: int, *, oversampling: int, importance: float) -> Tensor:
    """Draw points to train on, most of them where a prediction is uncertain.

    Args:
        logits: (B, K, h, w) of the prediction.
        num_points: Number P of points per image.
        oversampling: Candidates per point; the most uncertain of them are chosen.
        importance: Share of the points that is chosen by uncertainty, in [0, 1]; the rest is
            uniform.

    Returns:
        (B, P, 2), the uncertain ones first.
    """
    B = logits.shape[0]
    num_uncertain = int(importance * num_points)
    candidates = torch.rand(B, oversampling * num_points, 2, device=logits.device)
    # Uncertainty of the interpolated logits: halfway between two certain cells of different
    # classes a point is uncertain.
    uncertain = uncertainty(sample(logits, candidates))  # (B, candidates)
    best = uncertain.topk(num_uncertain, dim=1).indices[..., None].expand(-1, -1, 2)
    uniform = torch.rand(B, num_points - num_uncertain, 2, device=logits.device)
    return torch.cat([candidates.gather(1, best), uniform], dim=1)


def most_uncertain_cells(logits: Tensor, num_cells: int) -> Tensor:
    """Return the most uncertain cells of a map (B, K, h, w), as indices (B, P) into h * w."""
    uncertain = uncertainty(logits).flatten(1)
    return uncertain.topk(min(num_cells, uncertain.shape[1]), dim=1).indices


def centers(cells: Tensor, width: int, height: int) -> Tensor:
    """Return the center points (B, P, 2) of cells (B, P), indices into a height x width map."""
    columns, rows = cells % width, cells // width
    return torch.stack([(columns + 0.5) / width, (rows + 0.5) / height], dim=-1)


def build_fpn_pointrend(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build a semantic FPN refined by PointRend; both use the same feature pyramid."""
    allow_head_options(config)
    num_classes, width = labels.num_classes, config.options.coarse_channels or 128
    encoder = build_encoder(config, weights)
    neck = FeaturePyramid(encoder.channels, 2 * width)
    coarse = SemanticFPNHead(neck.channels, num_classes, channels=width, pyramid=None)
    refiner = PointRend(neck.channels, num_classes)
    return assemble(config, labels, encoder, coarse, neck=neck, refiner=refiner)


def build_deeplabv3_pointrend(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build DeepLabV3 refined by PointRend on the encoder's finest level."""
    allow_head_options(config, "rates")
    num_classes = labels.num_classes
    encoder = build_encoder(config, weights)
    coarse = DeepLabV3Head(
        encoder.channels, num_classes, **coarse_width(config), **atrous_rates(config)
    )
    refiner = PointRend(encoder.channels, num_classes)
    return assemble(config, labels, encoder, coarse, refiner=refiner)
