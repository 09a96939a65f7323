"""MagNet: patches at ever larger scales refine the prediction for the reduced image.

Source: Huynh, Tran, Luu, Hoai, "Progressive Semantic Segmentation" (CVPR 2021), sections 3 and 4.1.
Written from the paper and a list of sizes alone. The paper's refinement takes its two inputs in one
order everywhere, and the fast form the patches of the highest uncertainty; the released code
departs from both.

The paper trains the segmentation network first and fixes it. Here one run trains both, and the
gradient of the refinement stops at its inputs.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.lab.baselines.reduced import (
    NO_GRAPH,
    Box,
    Normalize,
    build_reduced,
    crop,
    paste,
    plan_patches,
)
from pna.labels import IGNORE_INDEX, LabelSpace
from pna.model.coarse.fpn import SemanticFPNHead
from pna.model.coarse.layers import BatchNorm, ConvBNReLU
from pna.model.config import ModelConfig
from pna.model.encoder import Encoder, EncoderWeights
from pna.model.presets import allow_head_options, assemble, coarse_width
from pna.model.refiner import Refiner, RefinerOutput
from pna.model.resize import resize
from pna.model.segmenter import Segmenter

SHARE = 0.75
"""Share of all pixels that take the refined prediction at a scale."""
_MEDIAN = 11  # side in cells of the window that smooths the score of the pixels
_SURE = 0.7  # probability of the truth from which on a pixel is easy
_LEAST_HARD = 0.25  # share of the pixels that count at least
_LEAST_PROBABILITY = 1e-6


class Bottleneck(nn.Module):
    """A residual block of 1x1, 3x3 and 1x1 convolutions.

    Args:
        in_channels: Channels of the map.
        planes: Channels inside; four times as many leave.
    """

    def __init__(self, in_channels: int, planes: int) -> None:
        super().__init__()
        channels = 4 * planes
        self.convs = nn.Sequential(
            ConvBNReLU(in_channels, planes, kernel_size=1),
            ConvBNReLU(planes, planes),
            nn.Conv2d(planes, channels, 1, bias=False),
            BatchNorm(channels),
        )
        self.shortcut = nn.Sequential()
        if in_channels != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, bias=False), BatchNorm(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, H, W) to (B, 4 planes, H, W)."""
        return F.relu(self.convs(x) + self.shortcut(x))


class RefinementModule(nn.Module):
    """Merge two predictions of one place, without seeing the image.

    Args:
        num_classes: Classes K.
        channels: Width of the first convolutions; half of it inside of the blocks.
    """

    def __init__(self, num_classes: int, *, channels: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            BatchNorm(2 * num_classes),
            ConvBNReLU(2 * num_classes, channels),
            ConvBNReLU(channels, channels),
            Bottleneck(channels, channels // 2),
            Bottleneck(2 * channels, channels // 2),
            nn.Conv2d(2 * channels, num_classes, 1, bias=False),
        )

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Merge probabilities (B, K, H, W) of the scale before and of this one, into logits."""
        merged: Tensor = self.layers(torch.cat([coarse, fine], dim=1))
        return merged


class MagNet(Refiner):
    """Segment patches at each scale, and refine the most promising pixels by them.

    Args:
        encoder: The segmentation network's, for patches.
        head: Its head.
        num_classes: Classes K.
        ratio: Sides of the image over those of a patch and of the reduced image.
        scales: Sides of the image at each scale over those of a patch, growing; the last one is
            `ratio`.
        share: Share of the pixels that take the refined prediction, in (0, 1].
    """

    no_graph = NO_GRAPH

    def __init__(
        self,
        encoder: Encoder,
        head: nn.Module,
        num_classes: int,
        *,
        ratio: int,
        scales: Sequence[int],
        share: float = SHARE,
    ) -> None:
        super().__init__()
        # In a tuple: they are the model's own, and not registered twice.
        self._network = (encoder, head)
        self.ratio = ratio
        self.scales = tuple(scales)
        self.share = share
        self.num_stages = len(self.scales)
        self.module = RefinementModule(num_classes)
        self.normalize = Normalize(encoder.mean, encoder.std)

    @torch.compiler.disable(reason=NO_GRAPH)  # type: ignore[no-untyped-call,untyped-decorator]
    def forward(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> list[Tensor]:
        """Refine scale by scale: the logarithms of probabilities, each at its scale's size."""
        assert images is not None
        stages, probabilities = [], coarse.softmax(1)
        for scale in self.scales:
            probabilities = self._refine(images, probabilities, scale)
            stages.append(probabilities.clamp(min=_LEAST_PROBABILITY).log())
        return stages

    def forward_training(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> RefinerOutput:
        """Run one random patch of a random scale, without a stage.

        In `aux`: "fine", logits (B, K, h, w) of the segmentation network; "merged", those of the
        refinement; "box", (4,), the patch in shares of the image.
        """
        assert images is not None
        scale = self.scales[int(torch.randint(len(self.scales), ()))]
        side = 1 / scale
        top, left = (torch.rand(2) * (1 - side)).tolist()
        box = Box(top, left, top + side, left + side)
        fine = self._segment(images, box)
        size = fine.shape[-2:]
        merged = self.module(crop(coarse.detach().softmax(1), box, size), fine.detach().softmax(1))
        aux = {"fine": fine, "merged": merged, "box": torch.tensor(box, device=images.device)}
        return RefinerOutput([], aux)

    def losses(self, aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Compute the cross-entropy of the patch, and of the refinement's hard pixels."""
        box = Box(*aux["box"].tolist())
        size = aux["fine"].shape[-2:]
        there = crop_labels(labels, box, size)
        number = (there != IGNORE_INDEX).sum().clamp(min=1)
        fine = F.cross_entropy(aux["fine"], there, ignore_index=IGNORE_INDEX, reduction="sum")
        return {"fine": fine / number, "merged": hard_cross_entropy(aux["merged"], there)}

    def _segment(self, images: Tensor, box: Box) -> Tensor:
        """Return the segmentation network's logits of a part, at the size of a patch."""
        encoder, head = self._network
        size = [side // self.ratio for side in images.shape[-2:]]
        logits: Tensor = head(encoder(self.normalize(crop(images, box, size))))
        return resize(logits, size)

    def _refine(self, images: Tensor, coarse: Tensor, scale: int) -> Tensor:
        """Refine probabilities (B, K, h, w) at a scale, in patches."""
        height, width = (side // self.ratio for side in images.shape[-2:])
        size = height * scale, width * scale
        coarse = resize(coarse, size)

        def refine(box: Box) -> Tensor:
            fine = self._segment(images, box).softmax(1)
            rows, columns = box.of(size)
            merged: Tensor = self.module(coarse[..., rows, columns], fine)
            return merged.softmax(1)

        boxes = plan_patches(size, (height, width))
        refined = paste(((box, refine(box)) for box in boxes), size)
        chosen = choose_pixels(coarse, refined, (height, width), self.share)
        return torch.where(chosen[:, None], refined, coarse)


def choose_pixels(coarse: Tensor, refined: Tensor, size: Sequence[int], share: float) -> Tensor:
    """Choose the pixels where the refined prediction is sure and the coarse one is not.

    Args:
        coarse: (B, K, H, W) probabilities.
        refined: The same.
        size: (h, w) at which their score is smoothed.
        share: Share of the pixels to choose.

    Returns:
        (B, H, W) bool.
    """
    score = certainty(refined) * (1 - certainty(coarse))  # (B, H, W)
    smooth = resize(median(resize(score[:, None], size)), score.shape[-2:])
    scores = smooth.flatten(1)
    number = max(1, round(share * scores.shape[1]))
    chosen = torch.zeros_like(scores, dtype=torch.bool)
    chosen.scatter_(1, scores.topk(number, dim=1).indices, True)
    return chosen.view_as(score)


def certainty(probabilities: Tensor) -> Tensor:
    """Return the highest probability less the second highest: (B, K, H, W) to (B, H, W)."""
    if probabilities.shape[1] == 1:
        return torch.ones_like(probabilities[:, 0])
    first, second = probabilities.topk(2, dim=1).values.unbind(1)
    return first - second


def median(x: Tensor) -> Tensor:
    """Take the median of a window of 11x11 cells around each: (B, 1, H, W), the same shape."""
    padded = F.pad(x, (_MEDIAN // 2,) * 4, mode="replicate")
    windows = padded.unfold(2, _MEDIAN, 1).unfold(3, _MEDIAN, 1)  # (B, 1, H, W, 11, 11)
    return windows.flatten(4).median(dim=4).values


def crop_labels(labels: Tensor, box: Box, size: Sequence[int]) -> Tensor:
    """Cut a part out of labels (B, H, W), resized by the nearest pixel: (B, *size)."""
    H, W = labels.shape[-2:]
    rows, columns = box.centers(size, labels.device)
    y, x = (rows * H).long().clamp(max=H - 1), (columns * W).long().clamp(max=W - 1)
    return labels[:, y][:, :, x]


def hard_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean cross-entropy of hard pixels, or of the hardest quarter if that is more.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64, 255 ignored.
    """
    losses = F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="none")
    losses = losses[labels != IGNORE_INDEX]
    if not len(losses):
        return logits.sum() * 0
    is_hard = losses.detach().exp() > 1 / _SURE
    number = max(1, round(_LEAST_HARD * len(losses)), int(is_hard.sum()))
    return losses.topk(number).values.mean()


def build_magnet(
    config: ModelConfig,
    labels: LabelSpace,
    weights: EncoderWeights | None,
    *,
    scales: Sequence[int] = (2, 4),
) -> Segmenter:
    """Build MagNet around a semantic FPN.

    Args:
        config: Its encoder is that of the segmentation network.
        labels: The K classes.
        weights: Pretrained weights of the encoder.
        scales: Sides of the image at each scale over those of a patch; the paper's are 1,224 and
            2,448 over 612.
    """
    allow_head_options(config)
    ratio = scales[-1]
    reduced = build_reduced(config, weights, ratio)
    encoder = reduced.encoder
    head = SemanticFPNHead(encoder.channels, labels.num_classes, **coarse_width(config))
    refiner = MagNet(encoder, head, labels.num_classes, ratio=ratio, scales=scales)
    return assemble(config, labels, reduced, head, refiner=refiner)
