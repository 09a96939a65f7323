"""The calls of one stage: their tensors, a check of the results, and bounds on their time."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pna.inference.devices import is_out_of_memory
from pna.lab.bench.candidates import Candidate, Operator
from pna.lab.measure.timing import Call
from pna.ops import neighborhood_attention
from pna.ops.windows import window_size

Pass = Literal["forward", "forward+backward"]
TASKS: tuple[Pass, ...] = ("forward", "forward+backward")
Dtype = Literal["float32", "float16", "bfloat16", "float64"]

# Allowed relative difference from the reference, ||a - b|| / ||b||.
_ALLOWED = {"float64": 1e-6, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}

# Matrix products of the operator: scores and gathering; backward, each has one per factor.
_PRODUCTS = {"forward": 2, "forward+backward": 6}

# Maps that are read or written: query, key, value and result; backward, the first three again, the
# gradient of the result, and three gradients.
_TRAFFIC = {"forward": 4, "forward+backward": 11}


class Channels(NamedTuple):
    """Heads, width of queries and keys in each, and width of values in each."""

    heads: int
    width: int = 32
    value_width: int = 32

    def __str__(self) -> str:
        return "x".join(map(str, self))


class Case(NamedTuple):
    """The tensors of one call, as in `pna.ops`; `grad` is the gradient of the result."""

    query: Tensor
    key: Tensor
    value: Tensor
    bias: Tensor
    grad: Tensor
    window: int

    @property
    def scale(self) -> float:
        """The operator's default."""
        return float(self.query.shape[-1] ** -0.5)


class Floor(NamedTuple):
    """A bound on the time of one call.

    Attributes:
        name: Name in the tables.
        probe: A call whose time measures the machine's rate.
        share: Time of the bound over the time of the probe.
    """

    name: str
    probe: Call
    share: float


def make_case(
    queries: int,
    keys: int,
    channels: Channels,
    *,
    window: int,
    batch: int,
    device: str,
    dtype: Dtype,
) -> Case:
    """Make random tensors for `queries` x `queries` cells on `keys` x `keys` cells."""
    torch.manual_seed(0)
    heads, width, value_width = channels
    table = 2 * window - 1
    query, key, value, grad, bias = (
        torch.randn(shape, device=device, dtype=getattr(torch, dtype))
        for shape in (
            (batch, heads, queries, queries, width),
            (batch, heads, keys, keys, width),
            (batch, heads, keys, keys, value_width),
            (batch, heads, queries, queries, value_width),
            (heads, table, table),
        )
    )
    for x in (query, key, value, bias):
        x.requires_grad_()
    return Case(query, key, value, bias, grad, window)


def make_call(operator: Operator, case: Case, task: Pass) -> Call:
    """Make the call to time. For "forward" its tensors need no gradient, as in inference mode."""
    if task == "forward":
        return lambda: _forward(operator, case)
    inputs = case[:4]
    query, key, value, bias = inputs
    return lambda: torch.autograd.grad(
        operator(query, key, value, bias, case.window, case.scale), inputs, case.grad
    )


def reference(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, window: int, scale: float
) -> Tensor:
    """Compute neighborhood attention by the reference backend."""
    return neighborhood_attention(
        query, key, value, bias, window=window, scale=scale, backend="reference"
    )


def why_unfit(
    candidate: Candidate, case: Case, task: Pass, truth: Operator = reference
) -> str | None:
    """Try a candidate once: one that fails, or computes another result, is not timed.

    Args:
        candidate: The candidate.
        case: Its call.
        task: "forward" or "forward+backward".
        truth: Computes the right result of each head.

    Raises:
        Exception: A backend of ours fails for another reason than memory.
    """
    if candidate.operator is None:
        return candidate.why_not
    try:
        make_call(candidate.operator, case, task)()
        result = _forward(candidate.operator, case)[:1]
    except Exception as error:  # of any kind: others are not ours
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            return "out of memory"
        if candidate.is_ours:
            raise
        first, *_ = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {first}"
    # In full precision, for the first map and head by head: the reference copies every window.
    maps = (
        x.detach()[:1] if x.dtype == torch.float64 else x.detach()[:1].float() for x in case[:3]
    )
    heads = zip(*(x.chunk(x.shape[1], 1) for x in maps), strict=True)
    true = torch.cat(
        [
            truth(query, key, value, bias[None], case.window, case.scale)
            for (query, key, value), bias in zip(heads, case.bias.detach(), strict=True)
        ],
        1,
    )
    difference = float((result - true).norm() / true.norm())
    allowed = _ALLOWED[str(case.query.dtype).removeprefix("torch.")]
    if difference <= allowed:
        return None
    return f"its result differs from the reference by {difference:.1e}, allowed is {allowed:.0e}"


def _forward(operator: Operator, case: Case) -> Tensor:
    query, key, value, bias = (x.detach() for x in case[:4])
    return operator(query, key, value, bias, case.window, case.scale)


def floors(query: Tensor, window: int, task: Pass) -> list[Floor]:
    """Return bounds on the time: useful work at the machine's rates, which probes measure.

    Args:
        query: (B, heads, H, W, d); keys and values are of the same shape, type and device.
        window: Cells per side.
        task: "forward" or "forward+backward".
    """
    B, heads, H, W, d = query.shape
    # Large enough for the peak rate of the machine.
    side = 8192 if query.device.type == "cuda" else 1024
    a = torch.randn(side, side, device=query.device, dtype=query.dtype)
    out = torch.empty_like(a)
    cells = window_size(H, window) * window_size(W, window)
    work = _PRODUCTS[task] * 2 * B * heads * H * W * cells * d
    matmul = Floor("matmul floor", lambda: torch.matmul(a, a, out=out), work / (2 * side**3))
    if query.device.type != "cuda":  # on a CPU small maps stay in the caches
        return [matmul]
    source = torch.empty(2**28, dtype=torch.int8, device=query.device)  # larger than any cache
    target = torch.empty_like(source)
    traffic = _TRAFFIC[task] * query.numel() * query.element_size()
    share = traffic / (2 * source.numel())
    return [matmul, Floor("memory floor", lambda: target.copy_(source), share)]
