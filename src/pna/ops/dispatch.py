"""The public operator: checks, choice of backend, and why a backend cannot serve a call."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

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
"""Backends in the order in which `auto` tries them."""

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
        backend: "triton" (fused, for CUDA), "numba" (the fastest on a CPU), "blocked" (portable,
            bounded memory, exports), "reference" (plain gather, any dtype, twice differentiable,
            hungry), or "auto".

    Returns:
        (B, heads, H, W, dv) in the dtype of `value`; softmax runs in float32 or better.

    Raises:
        ValueError: Shapes, dtypes, devices or the window do not fit together, or the backend
            cannot serve the call.
    """
    _check(query, key, value, bias, window)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if backend == "auto":
        backend = _choose(query, window)
    elif reason := why_not(backend, query, window=window):
        raise ValueError(f"backend {backend!r} cannot serve this call: {reason}")
    return _BACKENDS[backend](query, key, value, bias, window, scale)


def why_not(backend: str, query: Tensor, *, window: int) -> str | None:
    """Say why a backend cannot serve a call, or None when it can.

    Args:
        backend: One of `pna.ops.BACKENDS`.
        query: (B, heads, H, W, d) as it would be passed to `neighborhood_attention`.
        window: Cells per side.

    Raises:
        ValueError: The backend is unknown.
    """
    if backend not in _BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; known are {', '.join(BACKENDS)}, auto")
    if backend == "triton":
        return triton.why_not(query)
    if backend == "numba":
        return numba.why_not(query)
    if backend == "blocked" and query.dtype not in _BLOCKED_DTYPES:
        return f"it computes float16, bfloat16, float32 and float64, not {query.dtype}"
    return None


def _choose(query: Tensor, window: int) -> Backend:
    for name in BACKENDS:
        if why_not(name, query, window=window) is None:
            return name  # type: ignore[return-value]
    raise AssertionError("the reference serves every call")


def _check(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, window: int) -> None:
    if query.ndim != 5 or key.shape != query.shape or value.shape[:-1] != query.shape[:-1]:
        raise ValueError(
            "expected query and key (B, heads, H, W, d) and value (B, heads, H, W, dv), got "
            f"{tuple(query.shape)=}, {tuple(key.shape)=}, {tuple(value.shape)=}"
        )
    if query.numel() == 0 or value.shape[-1] == 0:
        raise ValueError(f"expected no empty dimension, got {tuple(query.shape)=}")
    if window < 1 or window % 2 == 0:
        raise ValueError(f"expected an odd window >= 1, got {window=}")
    side = 2 * window - 1
    if bias is not None and bias.shape != (query.shape[1], side, side):
        raise ValueError(
            f"expected bias (heads, 2 * window - 1, 2 * window - 1) = "
            f"{(query.shape[1], side, side)} for {window=}, got {tuple(bias.shape)=}"
        )
    tensors = [x for x in (query, key, value, bias) if x is not None]
    if not all(x.is_floating_point() for x in tensors):
        raise ValueError(f"expected floating point, got {[x.dtype for x in tensors]}")
    if len({x.device for x in tensors}) > 1:
        raise ValueError(f"expected one device, got {[str(x.device) for x in tensors]}")
