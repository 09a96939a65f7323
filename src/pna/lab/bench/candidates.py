"""Implementations of neighborhood attention: our backends, flex_attention, functions in files."""

import importlib.util
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from pna.errors import MissingFileError, PnaError
from pna.ops import BACKENDS, Backend, neighborhood_attention, why_not
from pna.ops.windows import window_size, window_start

Operator = Callable[[Tensor, Tensor, Tensor, Tensor, int, float], Tensor]
"""Query, key, value, bias, window, scale -> result; as in `pna.ops`."""

EAGER_SCORES = 2**24
"""Most scores of uncompiled flex_attention, which stores those of all pairs of cells: 64 MiB."""


class Candidate(NamedTuple):
    """An implementation of neighborhood attention.

    Attributes:
        name: Name in the tables.
        operator: The function; None if it cannot serve the call.
        why_not: The reason then.
        is_ours: A backend of `pna.ops`: its failures are defects and not results.
    """

    name: str
    operator: Operator | None
    why_not: str | None = None
    is_ours: bool = False


def backends(query: Tensor) -> list[Candidate]:
    """List the backends of `pna.ops`, for queries (B, heads, H, W, d)."""

    def run(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor,
        window: int,
        scale: float,
        *,
        backend: Backend,
    ) -> Tensor:
        return neighborhood_attention(
            query, key, value, bias, window=window, scale=scale, backend=backend
        )

    candidates = []
    for name in BACKENDS:
        reason = why_not(name, query)
        operator = None if reason else partial(run, backend=cast(Backend, name))
        candidates.append(Candidate(name, operator, reason, is_ours=True))
    return candidates


def flex(query: Tensor, window: int, *, compiled: bool) -> list[Candidate]:
    """List PyTorch's flex_attention with the neighborhood as its mask, compiled and not.

    Cells are in row-major order.

    Args:
        query: (B, heads, H, W, d), as in the call.
        window: Cells per side.
        compiled: Whether to compile at all.
    """
    candidates = [
        Candidate("flex compiled", _flex(query, window, is_compiled=True))
        if compiled
        else Candidate("flex compiled", None, "compiling was turned off")
    ]
    B, heads, H, W, _ = query.shape
    scores = B * heads * (H * W) ** 2
    if scores <= EAGER_SCORES:
        candidates.append(Candidate("flex eager", _flex(query, window, is_compiled=False)))
    else:
        reason = f"uncompiled it stores all {scores:.1e} scores; allowed are {EAGER_SCORES:.1e}"
        candidates.append(Candidate("flex eager", None, reason))
    return candidates


def _flex(query: Tensor, window: int, *, is_compiled: bool) -> Operator:
    H, W = query.shape[2:4]
    rows = window_start(torch.arange(H, device=query.device), H, H, window, 1)
    cols = window_start(torch.arange(W, device=query.device), W, W, window, 1)
    height, width = window_size(H, window), window_size(W, window)

    def is_inside(b: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        row, col = k // W - rows[q // W], k % W - cols[q % W]
        return (row >= 0) & (row < height) & (col >= 0) & (col < width)

    # Once per shape: it is no part of the time of a call.
    mask = create_block_mask(is_inside, None, None, H * W, H * W, device=query.device)
    attend: Callable[..., Any] = _eager_flex
    if is_compiled:
        torch.compiler.reset()  # earlier shapes count against the limit of recompilations
        attend = torch.compile(flex_attention, dynamic=False)

    def run(
        query: Tensor, key: Tensor, value: Tensor, bias: Tensor, window: int, scale: float
    ) -> Tensor:
        def add_bias(score: Tensor, b: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            # Scores outside of the window are computed too, then masked: clamp to the table.
            row = (k // W - q // W + window - 1).clamp(0, 2 * window - 2)
            col = (k % W - q % W + window - 1).clamp(0, 2 * window - 2)
            return score + bias[head, row, col]

        flat = (x.flatten(2, 3) for x in (query, key, value))  # (B, heads, H * W, d)
        out = attend(*flat, score_mod=add_bias, block_mask=mask, scale=scale)
        return cast(Tensor, out).view(value.shape)

    return run


def _eager_flex(*args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():  # of being uncompiled, which is the point here
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        return flex_attention(*args, **kwargs)


def load_operator(path: Path) -> Candidate:
    """Load another implementation from a Python file; its name is that of the file.

    Args:
        path: A file with `neighborhood_attention(query, key, value, bias, window, scale)`.

    Raises:
        MissingFileError: There is no such file.
        PnaError: It is not Python, fails when it is loaded, or has no such function.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: expected a Python file with an operator, found no file")
    spec = importlib.util.spec_from_file_location("pna_bench_operator", path)
    if spec is None or spec.loader is None:
        raise PnaError(f"{path}: expected a Python file, that is one ending in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # of any kind: the file is not ours
        raise PnaError(f"{path}: fails when it is loaded ({error!r}); run it alone") from error
    operator = getattr(module, "neighborhood_attention", None)
    if not callable(operator):
        raise PnaError(
            f"{path}: expected a function neighborhood_attention(query, key, value, bias, window, "
            "scale), found none"
        )
    return Candidate(path.stem, cast(Operator, operator))
