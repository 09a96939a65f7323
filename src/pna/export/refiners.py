"""The mask refiner and the upsampler as files.

Neither knows classes: a file refines one mask for each image of a batch, and upsamples features of
any width. Masks of K classes are a batch of K, each with its image; their results are then divided
by their sum.
"""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pna.export.description import Description
from pna.export.graph import BATCHES, SIZES, Exportable
from pna.export.write import ExportReport, Target, check_target, write_graph
from pna.refinement.network import MaskRefiner
from pna.refinement.upsampler import FeatureUpsampler

_STRIDE = 16
"""Of the features of the examples; the file leaves their size free."""


class MaskGraph(nn.Module):
    """Images and masks in, refined masks out, padded inside.

    Args:
        network: In evaluation mode.
    """

    def __init__(self, network: MaskRefiner) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, H, W) in [0, 1] and (B, 1, H, W) probabilities to (B, 1, H, W)."""
        (H, W), d = images.shape[-2:], self.network.divisor
        padding = (0, (W + d - 1) // d * d - W, 0, (H + d - 1) // d * d - H)
        images, masks = (F.pad(x, padding, mode="replicate") for x in (images, masks))
        return (self.network.refine(images, masks)[..., :H, :W],)


class UpsamplerGraph(nn.Module):
    """Images and features in, features at the images' size out.

    Args:
        network: In evaluation mode.
    """

    def __init__(self, network: FeatureUpsampler) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        """Map (B, 3, H, W) in [0, 1] and (B, C, h, w) to (B, C, H, W)."""
        for cells, pixels in zip(features.shape[-2:], images.shape[-2:], strict=True):
            torch._check(cells <= pixels)  # finer features would be averaged another way
        return (self.network(images, features, images.shape[-2:]),)


def export_mask_refiner(
    network: MaskRefiner, file: str | Path, *, to: Target = "onnx"
) -> ExportReport:
    """Write a mask refiner into one file.

    Args:
        network: It is copied.
        file: As for `pna.export_model`.
        to: Likewise.

    Raises:
        PnaError: As for `pna.export_model`.
    """
    path = Path(file)
    check_target(path, to)
    graph = mask_graph(network)
    return write_graph(graph, graph.module, path, to=to)


def mask_graph(network: MaskRefiner) -> Exportable:
    """Describe a mask refiner for its export; it is copied."""
    description = Description(
        task="mask refinement",
        inputs={
            "images": "(batch, 3, height, width) float32, RGB in [0, 1], not normalized",
            "masks": "(batch, 1, height, width) float32 in [0, 1], probability of the foreground",
        },
        outputs={"refined": "(batch, 1, height, width) float32 in [0, 1], like masks"},
        precision="float32",
        mean=tuple(network.mean.flatten().tolist()),
        std=tuple(network.std.flatten().tolist()),
        origin="the mask refiner",
    )
    free = {0: "batch", 2: "height", 3: "width"}
    examples = [
        (_noise(B, 3, size), _noise(B, 1, size)) for B, size in zip(BATCHES, SIZES, strict=True)
    ]
    module = MaskGraph(copy.deepcopy(network).cpu().float().eval().requires_grad_(False))
    return Exportable(module, examples, (free, free), description)


def export_upsampler(
    network: FeatureUpsampler, file: str | Path, *, to: Target = "onnx"
) -> ExportReport:
    """Write an upsampler of features into one file; the result has the size of the images.

    Args:
        network: It is copied.
        file: As for `pna.export_model`.
        to: Likewise.

    Raises:
        PnaError: As for `pna.export_model`.
    """
    path = Path(file)
    check_target(path, to)
    graph = upsampling_graph(network)
    return write_graph(graph, graph.module, path, to=to)


def upsampling_graph(network: FeatureUpsampler) -> Exportable:
    """Describe an upsampler for its export; it is copied."""
    description = Description(
        task="upsampling",
        inputs={
            "images": "(batch, 3, height, width) float32, RGB in [0, 1], not normalized",
            "features": "(batch, channels, rows, columns) float32, no finer than the images, which "
            "they span",
        },
        outputs={"upsampled": "(batch, channels, height, width) float32"},
        precision="float32",
        origin="the upsampler",
    )
    free = (
        {0: "batch", 2: "height", 3: "width"},
        {0: "batch", 1: "channels", 2: "rows", 3: "columns"},
    )
    examples = [
        (
            _noise(B, 3, size),
            _noise(B, C, (-(-size[0] // _STRIDE), -(-size[1] // _STRIDE))),
        )
        for B, C, size in zip(BATCHES, (11, 21, 1, 384, 8), SIZES, strict=True)
    ]
    module = UpsamplerGraph(copy.deepcopy(network).cpu().float().eval().requires_grad_(False))
    return Exportable(module, examples, free, description)


def _noise(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(channels)
    return torch.rand(batch, channels, *size, generator=generator)
