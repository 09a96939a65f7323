"""The public operator: checks, choice of backend, and why a backend cannot serve a call."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pna.errors import PnaError
from pna.ops import blocked, numba, reference, triton

Backend = Literal["auto", "reference", "blocked", "numba", "triton"]

_Implementation = Callable[[Tensor, Tensor, Tensor, Tensor | None, int, float], Tensor]
_BACKENDS: dict[str, _Implementation] = {
    "triton": triton.neighborhood_attention,
    "numba": numba.neighborhood_attention,
    "blocked": blocked.neighborhood_attention,
    "reference": reference.neighborhood_attention,
}
BACKENDS = tuple(_BACKENDS)
"""All backends."""
# The Triton kernels have run in Triton's interpreter only. They join once a CUDA row stands under
# `benchmarks/results`.
AUTO = ("numba", "blocked", "reference")
"""Backends in the order in which "auto" tries them."""

_BLOCKED_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    *,
    window: int,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Let every cell gather values from the cells of its window whose keys match its query.

    The window of the cell (i, j) lies inside the map: along an axis of n cells it has
    `w = min(window, n)` cells and starts at `clamp(i - window // 2, 0, n - w)`, so at the border it
    shifts and nothing is padded. Scores are `scale * <query, key>` plus the bias of the relative
    position, softmax runs over the window (paper, equations 3 and 4).

    Args:
        query: (B, heads, H, W, d), floating point, any strides.
        key: (B, heads, H, W, d).
        value: (B, heads, H, W, dv); `dv` may differ from `d`.
        bias: (heads, 2 * window - 1, 2 * window - 1), or None. The key (y, x) of the query (i, j)
            reads `bias[head, y - i + window - 1, x - j + window - 1]`.
        window: Cells per side, odd; may exceed the map.
        scale: Factor on the products; `d ** -0.5` by default.
        backend: "numba" (fused, the fastest on a CPU), "blocked" (portable, bounded memory,
            exports), "reference" (plain gather, any dtype, twice differentiable, much memory),
            "triton" (fused, for CUDA; it has not run on a GPU yet), or "auto": numba on a CPU,
            blocked elsewhere.

    Returns:
        (B, heads, H, W, dv) in the dtype of `value`; softmax runs in float32 or better.

    Raises:
        PnaError: Shapes, dtypes, devices or the window do not fit together, or the backend
            cannot serve the call.

    Example:
        >>> import torch
        >>> from pna.ops import neighborhood_attention
        >>> query, key, value = torch.rand(3, 1, 2, 16, 24, 8)  # 2 heads, 16 x 24 cells
        >>> bias = torch.zeros(2, 9, 9)  # 2 * window - 1 offsets along each axis
        >>> neighborhood_attention(query, key, value, bias, window=5).shape
        torch.Size([1, 2, 16, 24, 8])
    """
    _check(query, key, value, bias, window)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if backend == "auto":
        backend = _choose(query, window)
    elif reason := why_not(backend, query, window=window):
        raise PnaError(f"backend {backend!r} cannot serve this call: {reason}")
    return _BACKENDS[backend](query, key, value, bias, window, scale)


def why_not(backend: str, query: Tensor, *, window: int) -> str | None:
    """The reason why a backend cannot serve a call; None when it can.

    Args:
        backend: One of `pna.ops.BACKENDS`.
        query: (B, heads, H, W, d) as it would be passed to `neighborhood_attention`.
        window: Cells per side.

    Raises:
        PnaError: The backend is unknown.

    Example:
        >>> import torch
        >>> why_not("triton", torch.rand(1, 1, 4, 4, 8), window=3)
        'it runs on CUDA, the query is on cpu; TRITON_INTERPRET=1 simulates it'
    """
    if backend not in _BACKENDS:
        raise PnaError(f"unknown backend {backend!r}; known are {', '.join(BACKENDS)}, auto")
    if backend == "triton":
        return triton.why_not(query)
    if backend == "numba":
        return numba.why_not(query)
    if backend == "blocked" and query.dtype not in _BLOCKED_DTYPES:
        return f"it computes float16, bfloat16, float32 and float64, not {query.dtype}"
    return None


def _choose(query: Tensor, window: int) -> Backend:
    for name in AUTO:
        if why_not(name, query, window=window) is None:
            return name  # type: ignore[return-value]
    raise AssertionError("the reference serves every call")


def _check(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, window: int) -> None:
    if query.ndim != 5 or key.shape != query.shape or value.shape[:-1] != query.shape[:-1]:
        raise PnaError(
            "expected query and key (B, heads, H, W, d) and value (B, heads, H, W, dv), got "
            f"{tuple(query.shape)=}, {tuple(key.shape)=}, {tuple(value.shape)=}"
        )
    if query.numel() == 0 or value.shape[-1] == 0:
        raise PnaError(f"expected no empty dimension, got {tuple(query.shape)=}")
    if window < 1 or window % 2 == 0:
        raise PnaError(f"expected an odd window >= 1, got {window=}")
    # At the border a window shifts, so offsets reach window - 1 to either side.
    side = 2 * window - 1
    if bias is not None and bias.shape != (query.shape[1], side, side):
        raise PnaError(
            f"expected bias (heads, 2 * window - 1, 2 * window - 1) = "
            f"{(query.shape[1], side, side)} for {window=}, got {tuple(bias.shape)=}"
        )
    tensors = [x for x in (query, key, value, bias) if x is not None]
    if not all(x.is_floating_point() for x in tensors):
        raise PnaError(f"expected floating point, got {[x.dtype for x in tensors]}")
    if len({x.device for x in tensors}) > 1:
        raise PnaError(f"expected one device, got {[str(x.device) for x in tensors]}")
