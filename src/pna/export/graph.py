"""A network with its inputs, outputs and free sizes, and its trace.

Padding to the encoder's divisor, normalization and the cut back to the image are in the model's own
`forward`, so they are in the graph: any height and width go in, and logits of that size come out.
"""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from pna.errors import PnaError
from pna.export.description import Description, Precision
from pna.export.parity import ONE_SIZE
from pna.model.segmenter import BaseSegmenter

SIZES = ((545, 801), (5, 7), (47, 33), (64, 64), (512, 384))
"""Heights and widths at which a file is compared: large and odd, smaller than a window, upright, a
square of whole divisors, large and upright. The first is traced. A tracer takes for granted that
what it sees once or unequal (a tile of queries, a coarsest cell, two sides) always is: in the first
all occur several times, in the others not."""
BATCHES = (2, 1, 3, 1, 1)
"""Their numbers of images."""

Free = dict[int, str]
"""Names of the free sizes of a tensor, by axis."""


@dataclass(frozen=True)
class Exportable:
    """Everything that a file is made of.

    Attributes:
        module: Takes tensors, returns a tuple of tensors.
        examples: Inputs at several sizes; the first is traced, at all of them the file is compared.
        free: For each input its free sizes.
        description: Its inputs and outputs name those of the graph, in order.
    """

    module: nn.Module
    examples: Sequence[tuple[Tensor, ...]]
    free: tuple[Free, ...]
    description: Description

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(self.description.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(self.description.outputs)


class SegmentationGraph(nn.Module):
    """Images in, logits at their size out, float32 whatever the network computes in.

    Args:
        model: In evaluation mode.
        stages: Return the logits of P0 to P(n-1) too.
        dtype: Type of the model's weights.
    """

    def __init__(self, model: BaseSegmenter, *, stages: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.model = model
        self.stages = stages
        self.dtype = dtype

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map (B, C, H, W) in [0, 1] to logits (B, K, H, W), and those of the stages before."""
        output = self.model(images.to(self.dtype), stages=self.stages)
        earlier = [output.coarse, *output.stages][:-1] if self.stages else []
        size = images.shape[-2:]
        resized = [self.model.upsample(logits, size) for logits in earlier]
        return tuple(logits.float() for logits in (output.logits, *resized))


def segmentation_graph(
    model: BaseSegmenter,
    *,
    stages: bool = False,
    precision: Precision = "float32",
    size: tuple[int, int] | None = None,
) -> Exportable:
    """Describe a segmentation model for its export.

    Args:
        model: Any segmenter. It is copied to the CPU.
        stages: Also return the logits of the earlier stages.
        precision: "int8" is traced in float32, and quantized afterwards.
        size: Height and width of all images, in batches of one; None leaves all three free.
    """
    dtype = torch.float16 if precision == "float16" else torch.float32
    model = copy.deepcopy(model).cpu().to(dtype).eval().requires_grad_(False)
    channels, K = model.mean.shape[0], model.num_classes
    shape = ("batch", "height", "width") if size is None else (1, *size)
    colors = "RGB" if channels == 3 else f"{channels} channels"
    if model.bands is not None:
        colors = ", ".join(band.name for band in model.bands)
    outputs = {"logits": f"({shape[0]}, {K}, {shape[1]}, {shape[2]}) float32: arg max is the class"}
    if stages:
        outputs |= {
            f"p{m}": f"as logits, {'the coarse prediction' if m == 0 else f'after stage {m}'}"
            for m in range(model.num_stages)
        }
    description = Description(
        task="segmentation",
        inputs={
            "images": f"({shape[0]}, {channels}, {shape[1]}, {shape[2]}) float32, {colors} in "
            "[0, 1], not normalized"
        },
        outputs=outputs,
        precision=precision,
        size=size,
        labels=model.labels,
        mean=tuple(model.mean.flatten().tolist()),
        std=tuple(model.std.flatten().tolist()),
        inference_size=model.inference_size,
        bands=model.bands,
        num_stages=model.num_stages if stages else None,
        origin=model.origin,
    )
    generator = torch.Generator().manual_seed(0)
    shapes = zip(BATCHES, SIZES, strict=True) if size is None else [(1, size)]
    examples = [(torch.rand(B, channels, *each, generator=generator),) for B, each in shapes]
    free: Free = {0: "batch", 2: "height", 3: "width"} if size is None else {}
    return Exportable(
        SegmentationGraph(model, stages=stages, dtype=dtype), examples, (free,), description
    )


def trace(graph: Exportable) -> torch.export.ExportedProgram:
    """Record the operators that a network runs, for all of its free sizes at once.

    Raises:
        PnaError: The network has a part that no graph holds, or that fixes a size.
    """
    # Not `Dim`, which must hold whatever a tracer noted on the way, "more than one cell" for one:
    # which sizes a graph serves is decided by comparison.
    dynamic: Any = torch.export.Dim.DYNAMIC
    shapes = tuple(dict.fromkeys(axes, dynamic) for axes in graph.free)
    try:
        # Gradients would be recorded otherwise, and maps not cut into strips.
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tracer, about its own deprecations
            program = torch.export.export(
                graph.module, graph.examples[0], dynamic_shapes=shapes, strict=False
            )
    except PnaError:
        raise
    # The tracer raises errors of many kinds: those of its own, of sympy, of the network.
    except Exception as error:
        cause = str(error).strip().partition("\n")[0]
        name = graph.description.origin or type(graph.module).__name__
        if any(graph.free):
            raise PnaError(
                f"{name} cannot be exported with free sizes ({type(error).__name__}: {cause}): "
                f"{ONE_SIZE}"
            ) from error
        raise PnaError(
            f"{name} cannot be exported: torch {torch.__version__} records no graph of it "
            f"({type(error).__name__}: {cause})"
        ) from error
    # Of the same notes: a pt2 file would refuse the smallest images.
    for symbol in program.range_constraints:
        program.range_constraints[symbol] = ValueRanges(1, int_oo)
    return program
