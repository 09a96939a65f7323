"""ISDNet: a deep network on the reduced image, a shallow one on the details of the whole.

Source: Guo, Liu, Gan, Wang, Yan, Fan, "ISDNet: Integrating Shallow and Deep Networks for Efficient
Ultra-high Resolution Segmentation" (CVPR 2022), section 3. Sizes and weights as in the authors'
released code (cedricgsh/ISDNet). The shallow network is the first four stages of STDC (Fan et al.,
"Rethinking BiSeNet For Real-time Semantic Segmentation", CVPR 2021, section 3.2), here from random
weights. The image is reduced by averaging; their code takes every fourth pixel.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.errors import PnaError
from pna.lab.baselines.eblnet import AtrousNeck, LastLevelHead
from pna.lab.baselines.reduced import Normalize, build_reduced
from pna.labels import IGNORE_INDEX, LabelSpace
from pna.model.coarse.layers import BatchNorm, ConvBNReLU
from pna.model.config import ModelConfig
from pna.model.encoder import EncoderWeights
from pna.model.presets import allow_head_options, assemble, atrous_rates
from pna.model.refiner import Refiner, RefinerOutput
from pna.model.resize import average, resize
from pna.model.segmenter import Segmenter

RATIO = 4
"""Sides of the image over those of the one that the deep network sees."""
DETAIL_WEIGHT = 0.1
"""Weight of the loss of the reconstructed details."""
_GROUPS = 16  # that a vector of channels is cut into for the affinity


def laplacian(images: Tensor, *, levels: int = 2) -> list[Tensor]:
    """Return the details of images at each level of their Laplacian pyramid, fine to coarse.

    With the image that is left over, they rebuild the image: see `rebuild`.

    Args:
        images: (B, C, H, W), H and W multiples of 2 ** levels.
        levels: Number of levels.

    Returns:
        `levels` maps (B, C, H / 2 ** i, W / 2 ** i), and the rest (B, C, ...).
    """
    details = []
    for _ in range(levels):
        smaller = blur(images)[..., ::2, ::2]
        details.append(images - expand(smaller, images.shape[-2:]))
        images = smaller
    return [*details, images]


def rebuild(pyramid: Sequence[Tensor]) -> Tensor:
    """Return the images (B, C, H, W) of a Laplacian pyramid."""
    *details, images = pyramid
    for detail in reversed(details):
        images = detail + expand(images, detail.shape[-2:])
    return images


def blur(x: Tensor) -> Tensor:
    """Blur a map (B, C, H, W) by the binomial kernel of five cells."""
    kernel = x.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    C = x.shape[1]
    x = F.pad(x, (2, 2, 2, 2), mode="replicate")
    rows = F.conv2d(x, kernel.view(1, 1, 5, 1).expand(C, -1, -1, -1), groups=C)
    return F.conv2d(rows, kernel.view(1, 1, 1, 5).expand(C, -1, -1, -1), groups=C)


def expand(x: Tensor, size: Sequence[int]) -> Tensor:
    """Double a map: (B, C, h, w) to (B, C, 2h, 2w), smoothly."""
    return blur(resize(x, size, "nearest"))


class STDCBlock(nn.Module):
    """Short-term dense concatenation: convolutions whose results, ever fewer channels, are joined.

    Args:
        in_channels: Channels of the map.
        channels: Channels of the result.
        stride: 1 or 2, of the second convolution.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride = stride
        half, quarter, eighth = channels // 2, channels // 4, channels // 8
        self.first = ConvBNReLU(in_channels, half, kernel_size=1)
        self.second = _strided(half, quarter, stride)
        self.third = ConvBNReLU(quarter, eighth)
        self.fourth = ConvBNReLU(eighth, channels - half - quarter - eighth)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in_channels, h, w) to (B, channels, h / stride, w / stride)."""
        first = self.first(x)
        second = self.second(first)
        third = self.third(second)
        if self.stride == 2:
            first = F.avg_pool2d(first, 3, stride=2, padding=1)
        return torch.cat([first, second, third, self.fourth(third)], dim=1)


def _strided(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(conv, BatchNorm(channels), nn.ReLU(inplace=True))


class ShallowNetwork(nn.Module):
    """The first four stages of STDC.

    Args:
        in_channels: Channels of the details.
        widths: Channels at strides 2, 4, 8 and 16.
    """

    def __init__(
        self, in_channels: int, widths: tuple[int, int, int, int] = (32, 64, 256, 512)
    ) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = widths
        self.stem = nn.Sequential(_strided(in_channels, half, 2), _strided(half, quarter, 2))
        self.eighth = nn.Sequential(STDCBlock(quarter, eighth, stride=2), STDCBlock(eighth, eighth))
        self.sixteenth = nn.Sequential(
            STDCBlock(eighth, sixteenth, stride=2), STDCBlock(sixteenth, sixteenth)
        )

    def forward(self, details: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, in_channels, H, W) to maps of strides 8 and 16."""
        eighth = self.eighth(self.stem(details))
        return eighth, self.sixteenth(eighth)


class RelationalFusion(nn.Module):
    """Relation-aware feature fusion: each side is weighed by channels that both decide.

    Args:
        shallow_channels: Channels of the shallow map.
        deep_channels: Channels of the deep one.
        channels: Channels of the result, a multiple of 16.
    """

    def __init__(self, shallow_channels: int, deep_channels: int, channels: int) -> None:
        super().__init__()
        self.shallow = ConvBNReLU(shallow_channels, channels)
        self.deep = ConvBNReLU(deep_channels, channels)
        self.vectors = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), BatchNorm(channels))
            for _ in range(2)
        )
        self.relations = nn.ModuleList(
            nn.Sequential(
                nn.Linear(_GROUPS**2, channels), nn.ReLU(), nn.Linear(channels, channels), nn.ReLU()
            )
            for _ in range(2)
        )
        self.gammas = nn.Parameter(torch.zeros(2))
        self.context = ConvBNReLU(channels, channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), BatchNorm(channels)
        )

    def forward(self, shallow: Tensor, deep: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse a shallow map (B, ., h, w) and a deep one of any size.

        Returns:
            The fused map and the deep one at its size, both (B, channels, h, w).
        """
        maps = self.shallow(shallow), self.deep(deep)
        # (B, D) each; the affinity of their groups is (B, 16, 16).
        vectors = [
            vector(x.mean((2, 3), keepdim=True)).flatten(1)
            for vector, x in zip(self.vectors, maps, strict=True)
        ]
        first, second = (vector.unflatten(1, (_GROUPS, -1)) for vector in vectors)
        affinity = (first @ second.transpose(1, 2)).flatten(1)
        weights = [
            torch.sigmoid(vector + gamma * relation(affinity))[:, :, None, None]
            for vector, gamma, relation in zip(vectors, self.gammas, self.relations, strict=True)
        ]
        weighed, context = (x * weight for x, weight in zip(maps, weights, strict=True))
        context = self.context(resize(context, weighed.shape[-2:]))
        fused: Tensor = self.smooth(weighed + context)
        return fused, context


class ISDNet(Refiner):
    """Fuse the deep map with the details of the image, at strides 16 and 8.

    Args:
        in_channels: Channels of all levels, fine to coarse; the last one is the deep map.
        num_classes: Classes K.
        normalize: Of the images; their details are those of normalized ones.
        head_channels: Width of the heads that classify.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        normalize: Normalize,
        head_channels: int = 64,
    ) -> None:
        super().__init__()
        width, image_channels = in_channels[-1], len(normalize.mean)
        self.normalize = normalize
        self.shallow = ShallowNetwork(2 * image_channels)
        self.fusions = nn.ModuleList(
            [RelationalFusion(512, width, width), RelationalFusion(256, width, width)]
        )
        self.head = _head(width, head_channels, num_classes)
        self.context_heads = nn.ModuleList(
            _head(width, head_channels, num_classes) for _ in self.fusions
        )
        self.reconstruct = nn.ModuleList(
            [
                ConvBNReLU(width, head_channels),
                ConvBNReLU(head_channels, head_channels),
                ConvBNReLU(head_channels, width),
            ]
        )
        self.to_details = nn.Conv2d(width, image_channels, 1)

    def forward(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> list[Tensor]:
        """Predict P1 (B, K, h, w) at stride 8."""
        assert images is not None
        fused, _ = self._fuse(features[-1], two_details(self.normalize(images)))
        return [self.head(fused)]

    def forward_training(
        self, features: Sequence[Tensor], coarse: Tensor, *, images: Tensor | None = None
    ) -> RefinerOutput:
        """Predict P1, and what the losses need.

        In `aux`: "context1" and "context2", logits of the resized deep maps; "details", what was
        reconstructed of the deep map, less the image's own; "relations", how like each other the
        cells are in the deep map, less how like they are in the reconstruction.
        """
        assert images is not None
        deep, details = features[-1], two_details(self.normalize(images))
        fused, contexts = self._fuse(deep, details)
        aux = {
            f"context{number}": head(context)
            for number, (head, context) in enumerate(
                zip(self.context_heads, contexts, strict=True), 1
            )
        }
        x = deep
        for factor, conv in zip((4, 2, 2), self.reconstruct, strict=True):
            x = conv(resize(x, [factor * side for side in x.shape[-2:]]))
        fine, coarse_details = details.chunk(2, 1)
        target = average(fine + coarse_details, x.shape[-2:])
        aux["details"] = self.to_details(x) - target
        # The reconstruction is the example here, so it gets no gradient of it.
        aux["relations"] = relations(deep) - relations(average(x, deep.shape[-2:])).detach()
        return RefinerOutput([self.head(fused)], aux)

    def losses(self, aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Compute the cross-entropies of both contexts, and the losses of details and relations."""
        number = (labels != IGNORE_INDEX).sum().clamp(min=1)
        contexts = [
            F.cross_entropy(
                resize(aux[name], labels.shape[-2:]),
                labels,
                ignore_index=IGNORE_INDEX,
                reduction="sum",
            )
            / number
            for name in ("context1", "context2")
        ]
        return {
            "contexts": torch.stack(contexts).sum(),
            "details": DETAIL_WEIGHT * aux["details"].square().mean(),
            "relations": aux["relations"].abs().mean(),
        }

    def _fuse(self, deep: Tensor, details: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the fused map at stride 8, and the deep map's contexts at strides 16 and 8."""
        eighth, sixteenth = self.shallow(details)
        fused, contexts = deep, []
        for fusion, shallow in zip(self.fusions, (sixteenth, eighth), strict=True):
            fused, context = fusion(shallow, fused)
            contexts.append(context)
        return fused, contexts


def two_details(images: Tensor) -> Tensor:
    """Return two levels of details (B, 2C, H, W), the second brought to the images' size."""
    fine, coarse, _ = laplacian(images)
    return torch.cat([fine, resize(coarse, fine.shape[-2:])], dim=1)


def relations(x: Tensor) -> Tensor:
    """Return the cosine of the features of every two cells: (B, C, h, w) to (B, hw, hw)."""
    cells = F.normalize(x.flatten(2), dim=1)
    return cells.transpose(1, 2) @ cells


def _head(channels: int, width: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(ConvBNReLU(channels, width), nn.Conv2d(width, num_classes, 1))


def build_isdnet(
    config: ModelConfig, labels: LabelSpace, weights: EncoderWeights | None
) -> Segmenter:
    """Build ISDNet; the encoder of the configuration is the deep network's."""
    allow_head_options(config, "rates")
    width = config.options.coarse_channels or 128
    if width % _GROUPS:
        raise PnaError(
            f"preset {config.preset!r} takes a multiple of {_GROUPS} coarse_channels, got {width}"
        )
    encoder = build_reduced(config, weights, RATIO)
    neck = AtrousNeck(encoder.channels, width, **atrous_rates(config))
    coarse = LastLevelHead(neck.channels, labels.num_classes)
    refiner = ISDNet(
        neck.channels, labels.num_classes, normalize=Normalize(encoder.mean, encoder.std)
    )
    return assemble(config, labels, encoder, coarse, neck=neck, refiner=refiner)
