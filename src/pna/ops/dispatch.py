"""The public operator: checks, choice of backend, and why a backend cannot serve a call."""

from collections.abc import Callable
from typing import Literal, cast

import torch
from torch import Tensor

from pna.errors import PnaError
from pna.ops import blocked, numba, reference, triton

Backend = Literal["auto", "reference", "blocked", "numba", "triton"]

_Implementation = Callable[[Tensor, Tensor, Tensor, Tensor | None, int, int, float], Tensor]
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
    window: int | None,
    dilation: int = 1,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """Let every query gather values from the keys of its window that match it.

    Queries lie on one grid, keys and values on the same or on another grid of the same image: any
    two sizes, finer or coarser. Along an axis of N queries and n keys the query i stands at
    `c = (i + 0.5) * n / N - 0.5` in key cells. Its window has `w = min(window, n)` keys and starts
    at `clamp(floor(c + 0.5) - window // 2, 0, n - w)`, so at the border it shifts and nothing is
    padded. Scores are `scale * <query, key>` plus the bias of the relative position, softmax runs
    over the window (paper, equations 3 and 4, where the grids are equal). No key is copied.

    Args:
        query: (B, heads, H, W, d), floating point, any strides.
        key: (B, heads, h, w, d).
        value: (B, heads, h, w, dv); `dv` may differ from `d`.
        bias: (heads, 2 * window - 1, 2 * window - 1), or None. The key y of the query i reads row
            `(y - c) / dilation + window - 1`, columns alike: linearly between two entries where
            that is no whole number, which on equal grids it always is.
        window: Keys per side, odd; may exceed the map. None is the whole map: the smallest window
            that no map exceeds, max(h, w) or one more.
        dilation: Distance of neighboring keys of a window, 1 or more. A dilated window shifts in
            steps of `dilation` and has `min(window, n // dilation)` keys, one at least.
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

        Keys and values on a coarser grid:

        >>> key, value = torch.rand(1, 2, 8, 12, 8), torch.rand(1, 2, 8, 12, 21)
        >>> neighborhood_attention(query, key, value, bias, window=5).shape
        torch.Size([1, 2, 16, 24, 21])
    """
    _check_maps(query, key, value)
    _check_tensors([x for x in (query, key, value, bias) if x is not None])
    size = _check_window(key, window, dilation)
    if bias is not None:
        _check_bias(bias, query.shape[1], window, size)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    if backend == "auto":
        backend = _choose(query)
    elif reason := why_not(backend, query):
        raise PnaError(f"backend {backend!r} cannot serve this call: {reason}")
    return _BACKENDS[backend](query, key, value, bias, size, dilation, scale)


def why_not(backend: str, query: Tensor) -> str | None:
    """The reason why a backend cannot serve a call; None when it can.

    Args:
        backend: One of `pna.ops.BACKENDS`.
        query: (B, heads, H, W, d) as it would be passed to `neighborhood_attention`.

    Raises:
        PnaError: The backend is unknown.

    Example:
        >>> import torch
        >>> why_not("triton", torch.rand(1, 1, 4, 4, 8))
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


def _choose(query: Tensor) -> Backend:
    for name in AUTO:
        if why_not(name, query) is None:
            return name  # type: ignore[return-value]
    raise AssertionError("the reference serves every call")


def _check_maps(query: Tensor, key: Tensor, value: Tensor) -> None:
    if not query.ndim == key.ndim == value.ndim == 5:
        expected = (
            "query (B, heads, H, W, d), key (B, heads, h, w, d) and value (B, heads, h, w, dv)"
        )
    elif query.shape[:2] != key.shape[:2] or query.shape[-1] != key.shape[-1]:
        expected = "query and key of one batch size, one number of heads and one width d"
    elif key.shape[:-1] != value.shape[:-1]:
        expected = "one value per key, on the same grid: (B, heads, h, w, d or dv)"
    elif 0 in query.shape or 0 in value.shape:
        expected = "no empty dimension"
    else:
        return
    raise PnaError(
        f"expected {expected}, got "
        f"{tuple(query.shape)=}, {tuple(key.shape)=}, {tuple(value.shape)=}"
    )


def _check_window(key: Tensor, window: int | None, dilation: int) -> int:
    """The window in numbers."""
    if not _is_whole(dilation) or dilation < 1:
        raise PnaError(f"expected a dilation, a whole number >= 1, got {dilation=}")
    if window is None:
        return cast(int, torch.sym_max(key.shape[2], key.shape[3]) // 2 * 2 + 1)
    if not _is_whole(window) or window < 1 or window % 2 == 0:
        raise PnaError(
            f"expected an odd window >= 1, or None for the whole map of keys, got {window=}"
        )
    return window


def _is_whole(x: object) -> bool:
    # A tuple, not a union: the compiler of torch 2.9 cannot trace one.
    return isinstance(x, (int, torch.SymInt)) and not isinstance(x, bool)


def _check_bias(bias: Tensor, heads: int, window: int | None, size: int) -> None:
    # At the border a window shifts, so offsets reach window - 1 to either side.
    expected = (heads, 2 * size - 1, 2 * size - 1)
    if tuple(bias.shape) != expected:
        whole_map = "" if window else f"; window=None is {size} here, the first odd n >= max(h, w)"
        raise PnaError(
            "expected bias (heads, 2 * window - 1, 2 * window - 1), that is "
            f"{expected} for {window=}, got {tuple(bias.shape)=}{whole_map}"
        )


def _check_tensors(tensors: list[Tensor]) -> None:
    if not all(x.is_floating_point() for x in tensors):
        raise PnaError(f"expected floating point, got {[x.dtype for x in tensors]}")
    if len({x.device for x in tensors}) > 1:
        raise PnaError(f"expected one device, got {[str(x.device) for x in tensors]}")
