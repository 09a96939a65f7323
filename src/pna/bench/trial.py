"""One stage's tensors, the call that is timed on them, and whether an entrant is fit for it."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pna.bench.clock import Call, is_out_of_memory
from pna.bench.entrants import Entrant, Operator
from pna.ops import neighborhood_attention

HEAD_WIDTH = 32

Pass = Literal["forward", "forward+backward"]
Dtype = Literal["float32", "float16", "bfloat16", "float64"]

# Relative differences from the reference, ||a - b|| / ||b||, that an entrant may have.
_ALLOWED = {"float64": 1e-6, "float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}


class Case(NamedTuple):
    """The tensors of one stage: (B, heads, H, W, d) each, the bias as in `pna.ops`."""

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


def make_case(size: int, heads: int, *, window: int, batch: int, device: str, dtype: Dtype) -> Case:
    """Random tensors for `size` x `size` cells."""
    torch.manual_seed(0)
    kind = getattr(torch, dtype)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device, dtype=kind)

    shape = (batch, heads, size, size, HEAD_WIDTH)
    query, key, value = (random(*shape).requires_grad_() for _ in range(3))
    bias = random(heads, 2 * window - 1, 2 * window - 1).requires_grad_()
    return Case(query, key, value, bias, random(*shape), window)


def make_call(operator: Operator, case: Case, task: Pass) -> Call:
    """The call to time. Forward alone gets tensors that want no gradient, as in inference mode."""
    if task == "forward":
        return lambda: _forward(operator, case)
    inputs = case[:4]
    query, key, value, bias = inputs
    return lambda: torch.autograd.grad(
        operator(query, key, value, bias, case.window, case.scale), inputs, case.grad
    )


def why_unfit(entrant: Entrant, case: Case, task: Pass) -> str | None:
    """Try an entrant once: who can't do the work or gets another result is not timed.

    Raises:
        Exception: A backend of ours fails, for another reason than memory.
    """
    if entrant.operator is None:
        return entrant.why_not
    try:
        make_call(entrant.operator, case, task)()
        return _check_result(entrant.operator, case)
    except Exception as error:  # others may fail in any way
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            return "out of memory"
        if entrant.is_ours:
            raise
        first, *_ = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {first}"


def _forward(operator: Operator, case: Case) -> Tensor:
    query, key, value, bias = (x.detach() for x in case[:4])
    return operator(query, key, value, bias, case.window, case.scale)


def _check_result(operator: Operator, case: Case) -> str | None:
    found = _forward(operator, case)[:1]
    true = _true_result(case)
    difference = float((found - true).norm() / true.norm())
    allowed = _ALLOWED[str(case.query.dtype).removeprefix("torch.")]
    if difference <= allowed:
        return None
    return f"its result differs from the reference by {difference:.1e}, allowed is {allowed:.0e}"


def _true_result(case: Case) -> Tensor:
    """The reference in full precision, of the first map: of a whole batch it may not fit."""
    query, key, value = (
        x.detach()[:1] if x.dtype == torch.float64 else x.detach()[:1].float() for x in case[:3]
    )
    return neighborhood_attention(
        query, key, value, case.bias.detach(), window=case.window, backend="reference"
    )
