"""The file against the network, size by size: an exported graph that differs is no result."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pna.errors import PnaError
from pna.export.description import Precision

Run = Callable[[tuple[Tensor, ...]], Sequence[Tensor]]
"""Runs an exported file on inputs, in the order of its outputs."""

TOLERANCE: dict[Precision, float] = {"float32": 1e-3, "float16": 5e-2}
"""Largest difference of an output, as a share of its largest value; int8 is scored instead."""

ONE_SIZE = (
    "export it for images of one size: export_model(..., size=(H, W)), on the command line "
    "--size H,W"
)


@dataclass(frozen=True)
class Parity:
    """A file against the network on one input.

    Attributes:
        shape: Shape of the first input, (B, C, H, W).
        difference: Largest difference of an output, as a share of that output's largest value.
        agreement: Share of pixels whose arg max over the channels of the first output is the same.
    """

    shape: tuple[int, ...]
    difference: float
    agreement: float

    def __str__(self) -> str:
        """For example "1x3x33x47: difference 1.2e-06, labels equal 100.00 %"."""
        shape = "x".join(map(str, self.shape))
        labels = f"labels equal {100 * self.agreement:.2f} %"
        return f"{shape}: difference {self.difference:.1e}, {labels}"


@torch.no_grad()
def compare(
    module: nn.Module, run: Run, inputs: tuple[Tensor, ...], outputs: Sequence[str]
) -> Parity:
    """Run the network and the file on the same input.

    Args:
        module: The network, in float32.
        run: Runs the file.
        inputs: Of both.
        outputs: Names of the outputs.

    Raises:
        PnaError: The network does not run on the input, or an output has another shape.
    """
    try:
        expected = module(*inputs)
    except RuntimeError as error:
        raise PnaError(
            f"the network itself does not run on {tuple(inputs[0].shape)} "
            f"({str(error).strip().partition(chr(10))[0]}): {ONE_SIZE}"
        ) from error
    found = run(inputs)
    differences = []
    for name, a, b in zip(outputs, expected, found, strict=True):
        if a.shape != b.shape:
            raise PnaError(
                f"expected {name} of {tuple(a.shape)} from the exported graph, as from the "
                f"network, got {tuple(b.shape)} for an input of {tuple(inputs[0].shape)}"
            )
        scale = a.abs().max().clamp(min=torch.finfo(a.dtype).tiny)
        differences.append(float((a - b).abs().max() / scale))  # NaN if either has one
    same = (expected[0].argmax(1) == found[0].argmax(1)).float().mean()
    # `max` would pass over a NaN.
    worst = float(torch.tensor(differences).max())
    return Parity(tuple(inputs[0].shape), worst, float(same))


def check(parity: Sequence[Parity], precision: Precision, file: str) -> None:
    """Refuse a file that does not compute what the network does.

    Raises:
        PnaError: A difference exceeds the tolerance, or is no number.
    """
    limit = TOLERANCE[precision]
    wrong = [str(one) for one in parity if not one.difference <= limit]  # true for NaN, too
    if wrong:
        raise PnaError(
            f"{file} is not written: expected outputs that differ from PyTorch's by at most "
            f"{limit:g} of the largest value in {precision}, got {'; '.join(wrong)}. Where other "
            f"sizes are right, {ONE_SIZE}"
        )
