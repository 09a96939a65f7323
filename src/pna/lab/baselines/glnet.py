"""GLNet: a network on the reduced image and one on patches, which exchange all their maps.

Source: Chen, Jiang, Wang, Cui, Qian, "Collaborative Global-Local Networks for Memory-Efficient
Segmentation of Ultra-High Resolution Images" (CVPR 2019), section 3. Sizes, the focal loss's
exponent and the weight of the regularization as in the authors' released code
(VITA-Group/GLNet).

The authors train three times: the global network; the local one, with the first fixed; the global
one again, with the second fixed. Here one run does all three, with gradients stopped where their
networks are fixed, so that it is trained by the same loop and steps as what it is compared with.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.lab.baselines.reduced import (
    NO_GRAPH,
    Box,
    Canvas,
    Normalize,
    build_reduced,
    crop,
    paste,
    plan_patches,
)
from pna.labels import IGNORE_INDEX, LabelSpace
from pna.model.coarse.layers import CoarseHead
from pna.model.coarse.necks import add_top_down
from pna.model.config import ModelConfig
from pna.model.encoder import Encoder, EncoderWeights
from pna.model.presets import allow_head_options, assemble, build_encoder
from pna.model.refiner import Refiner, RefinerOutput
from pna.model.resize import resize
from pna.model.segmenter import Segmenter

FOCUS = 3.0
"""Exponent of the focal loss."""
LIKENESS = 0.15
"""Weight of the squared difference of both networks' last maps."""
OVERLAP = 0.1
"""Least share of a patch that its neighbor covers, too."""


class Maps(NamedTuple):
    """All maps of one network.

    Attributes:
        layers: What the other network takes, four lists of one map per level, fine to coarse: of
            the encoder, summed from top to bottom, after one convolution, after a second one.
        joined: The last ones at the size of the finest, (B, C, h, w).
    """

    layers: list[list[Tensor]]
    joined: Tensor


class SharingPyramid(nn.Module):
    """A feature pyramid without norms, whose every layer may take the other network's map as well.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse.
        num_classes: Classes K.
        channels: Width of the pyramid; half of it in the last maps.
        is_shared: Whether every layer takes twice the channels.
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, *, channels: int, is_shared: bool
    ) -> None:
        super().__init__()
        times, half = 2 if is_shared else 1, channels // 2
        self.laterals = nn.ModuleList(_conv(times * width, channels, 1) for width in in_channels)
        self.first = nn.ModuleList(_conv(times * channels, channels, 3) for _ in in_channels)
        self.second = nn.ModuleList(_conv(times * channels, half, 3) for _ in in_channels)
        self.channels = half * len(in_channels)
        self.join = _conv(2 * self.channels, self.channels, 3) if is_shared else None
        self.classifier = _conv(self.channels, num_classes, 3)

    def forward(
        self, levels: Sequence[Tensor], others: Sequence[Sequence[Tensor]] | None = None
    ) -> tuple[Maps, Tensor]:
        """Run the head.

        Args:
            levels: The encoder's maps, fine to coarse.
            others: The layers of the other network's maps at the sizes of these; only if shared.

        Returns:
            All maps, and logits (B, K, h, w) at the finest level's stride.
        """
        size = levels[0].shape[-2:]
        of_levels, of_merged, of_smooth, of_narrow = others or (None,) * 4
        merged = add_top_down(_apply(self.laterals, levels, of_levels), mode="bilinear")
        smooth = _apply(self.first, merged, of_merged)
        narrow = _apply(self.second, smooth, of_smooth)
        joined = torch.cat([resize(x, size) for x in (*narrow, *(of_narrow or ()))], dim=1)
        if self.join is not None:
            joined = self.join(joined)
        return Maps([list(levels), merged, smooth, narrow], joined), self.classifier(joined)


def _apply(
    convs: nn.ModuleList, maps: Sequence[Tensor], others: Sequence[Tensor] | None
) -> list[Tensor]:
    if others is not None:
        maps = [torch.cat(pair, dim=1) for pair in zip(maps, others, strict=True)]
    return [conv(x) for conv, x in zip(convs, maps, strict=True)]


def _conv(in_channels: int, channels: int, side: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, channels, side, padding=side // 2)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # nn.Conv2d declares an optional bias
    return conv


class GlobalHead(CoarseHead):
    """The global network alone: P0.

    Args:
        in_channels: Channels of all encoder levels, fine to coarse.
        num_classes: Classes K.
        channels: Width of the pyramid.
    """

    def __init__(self, in_channels: Sequence[int], num_classes: int, *, channels: int) -> None:
        super().__init__(in_channels)
        self.pyramid = SharingPyramid(in_channels, num_classes, channels=channels, is_shared=False)
        self.classifier = nn.Identity()  # the pyramid classifies

    def gather(self, features: Sequence[Tensor]) -> Tensor:
        """Return the pyramid's logits."""
        logits: Tensor = self.pyramid(features)[1]
        return logits


class GLNet(Refiner):
    """The local network on patches, the global one again, and both together.

    Args:
        local: Encoder of the patches.
        alone: The global network's own pyramid; its gradient is stopped here.
        num_classes: Classes K.
        channels: Width of the pyramids.
        ratio: Sides of the image over those of a patch.
    """

    no_graph = NO_GRAPH

    def __init__(
        self,
        local: Encoder,
        alone: SharingPyramid,
        num_classes: int,
        *,
        channels: int,
        ratio: int,
    ) -> None:
        super().__init__()
        self.ratio = ratio
        self.local = local
        # In a tuple: the module is the coarse head's, and not registered twice.
        self._alone = (alone,)
        make = partial(
            SharingPyramid, local.channels, num_classes, channels=channels, is_shared=True
        )
        self.local_pyramid, self.global_pyramid = make(), make()
        self.ensemble = _conv(2 * self.local_pyramid.channels, num_classes, 3)
        self.normalize = Normalize(local.mean, local.std)

    @torch.compiler.disable(reason=NO_GRAPH)  # type: ignore[no-untyped-call,untyped-decorator]
    def forward(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> list[Tensor]:
        """Predict P1 (B, K, h, w) at the finest stride of the patches' encoder."""
        return self._run(features, images).stages

    def forward_training(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> RefinerOutput:
        """Predict P1, and what the losses need.

        In `aux`: "local" and "global", both networks' logits, and "unlike", a scalar, the squared
        difference of their last maps.
        """
        return self._run(features, images)

    def losses(self, aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Compute the focal losses of both networks, and that of their last maps' difference."""
        return {
            "local": focal_loss(aux["local"], labels),
            "global": focal_loss(aux["global"], labels),
            "unlike": LIKENESS * aux["unlike"],
        }

    def _run(self, features: Sequence[Tensor], images: Tensor | None) -> RefinerOutput:
        assert images is not None
        (alone,) = self._alone
        # The local network takes the maps of the global one alone, which it does not train.
        with torch.no_grad():
            given, _ = alone([x.detach() for x in features])
        H, W = images.shape[-2:]
        stride = self.local.strides[0]
        boxes = plan_patches(
            (H, W), (H // self.ratio, W // self.ratio), overlap=OVERLAP, align=stride
        )
        # The convolution of two maps, as the sum of one of each: those of all patches would take
        # gigabytes, as would all their layers.
        of_local, of_global = self.ensemble.weight.chunk(2, dim=1)
        canvases = [[Canvas(level.shape[-2:]) for level in layer] for layer in given.layers]
        halves, local_logits, unlike = [], [], []
        for box in boxes:
            maps, logits, difference = self._run_patch(images, box, given)
            for layer, of_layer in zip(maps.layers, canvases, strict=True):
                for level, canvas in zip(layer, of_layer, strict=True):
                    canvas.add(box, level.detach())
            halves.append(F.conv2d(maps.joined, of_local, padding=1))
            local_logits.append(logits)
            unlike.append(difference)
        pasted = [[canvas.result() for canvas in of_layer] for of_layer in canvases]
        last, global_logits = self.global_pyramid(features, pasted)
        scores = []
        for box, half in zip(boxes, halves, strict=True):
            there = crop(last.joined, box, half.shape[-2:])
            scores.append(half + F.conv2d(there, of_global, self.ensemble.bias, padding=1))
        size = H // stride, W // stride
        aux = {
            "local": paste(zip(boxes, local_logits, strict=True), size),
            "global": global_logits,
            "unlike": torch.stack(unlike).mean(),
        }
        return RefinerOutput([paste(zip(boxes, scores, strict=True), size)], aux)

    def _run_patch(self, images: Tensor, box: Box, given: Maps) -> tuple[Maps, Tensor, Tensor]:
        """Return the local network's maps of a patch, its logits, and how unlike the last ones are.

        Args:
            images: (B, 3, H, W) in [0, 1].
            box: The patch.
            given: The global network's maps.
        """
        rows, columns = box.of(images.shape[-2:])
        levels = self.local(self.normalize(images[..., rows, columns]))
        sizes = [level.shape[-2:] for level in levels]
        around = [
            [crop(x, box, size) for x, size in zip(layer, sizes, strict=True)]
            for layer in given.layers
        ]
        maps, logits = self.local_pyramid(levels, around)
        return maps, logits, F.mse_loss(maps.joined, crop(given.joined, box, sizes[0]))


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the focal loss (Lin et al., ICCV 2017), exponent 3, over the valid pixels.

    The labels are reduced to the logits' size by the nearest pixel, as in the authors' code.

    Args:
        logits: (B, K, h, w).
        labels: (B, H, W) int64, 255 ignored.
    """
    reduced = F.interpolate(labels[:, None].float(), logits.shape[-2:], mode="nearest")[:, 0].long()
    entropy = F.cross_entropy(logits, reduced, ignore_index=IGNORE_INDEX, reduction="none")
    focused = (1 - (-entropy).exp()) ** FOCUS * entropy  # 0 where ignored
    return focused.sum() / (reduced != IGNORE_INDEX).sum().clamp(min=1)


def build_glnet(
    config: ModelConfig,
    labels: LabelSpace,
    weights: EncoderWeights | None,
    *,
    ratio: int = 5,
) -> Segmenter:
    """Build GLNet.

    Args:
        config: Its encoder is that of both networks.
        labels: The K classes.
        weights: Pretrained weights of both encoders.
        ratio: Sides of the image over those of a patch, and of the reduced image: 2448 over 508 in
            the paper.
    """
    allow_head_options(config)
    encoder = build_reduced(config, weights, ratio)
    channels = 2 * (config.options.coarse_channels or 128)
    coarse = GlobalHead(encoder.channels, labels.num_classes, channels=channels)
    refiner = GLNet(
        build_encoder(config, weights),
        coarse.pyramid,
        labels.num_classes,
        channels=channels,
        ratio=ratio,
    )
    return assemble(config, labels, encoder, coarse, refiner=refiner)
