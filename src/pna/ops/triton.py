"""Neighborhood attention fused into Triton kernels: for CUDA, forward and backward.

A program owns a tile of 8x8 queries and multiplies them with the box of keys around their windows,
a block of keys at a time, with a running softmax: no attention map is ever stored. Output and one
log-sum-exp per query are kept for the backward pass, which computes the weights again:

1. per tile of queries: gradient of the queries, and `delta = <output, its gradient>`;
2. per tile of keys: gradients of keys and values, from every query whose window holds one of them;
3. gradient of the bias: see `_grad_bias`.

Queries and keys may lie on two grids. A program finds its box by carrying its own first and last
cell to the other grid, and a pair reads up to four entries of the bias table. On equal grids all of
this is compiled away. Boxes hold every key between those of the windows: with dilation, or on a
much finer grid of keys, most of their products are masked.

Each number is written by one program, in a fixed order: nothing is atomic, results are the same in
every run.

This module does not import Triton; the kernels' own module does, at the first call. The operators
are opaque to `torch.compile` (`custom_op`, not `triton_op`): there is nothing to fuse into them,
and the choice of blocks stays plain Python under dynamic sizes.
"""

import importlib.util
import os
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from pna.errors import PnaError

TILE_H = TILE_W = 8
"""64 queries; a window of 9 makes the box 16x16. 16x8 would multiply half again as many pairs."""

BLOCK_N = 32
"""Cells of the box at a time."""

BIAS_PROGRAMS = 1024
"""Programs that sum the bias gradient: some waves on the largest GPU, 8 MiB of partial sums."""

DTYPES = (torch.float16, torch.bfloat16, torch.float32)

_IS_INSTALLED = importlib.util.find_spec("triton") is not None
_IS_INTERPRETED = os.environ.get("TRITON_INTERPRET", "0") == "1"


def why_not(query: Tensor) -> str | None:
    """The reason why the kernels cannot serve a call; None when they can."""
    if not _IS_INSTALLED:
        return "Triton is not installed; on Linux, torch's CUDA wheels bring it"
    if torch.compiler.is_exporting():
        return "an exported graph has to run without Triton"
    if query.dtype not in DTYPES:
        return f"it computes float16, bfloat16 and float32, not {query.dtype}"
    if _IS_INTERPRETED:
        return None
    if query.device.type != "cuda":
        return f"it runs on CUDA, the query is on {query.device}; TRITON_INTERPRET=1 simulates it"
    if _is_too_old(query.device):
        return "Triton needs a GPU of compute capability 8.0 (Ampere) or newer"
    return None


def _is_too_old(device: torch.device) -> bool:
    # Properties, which a compiler takes as constants; no decorator, which would load the compiler.
    return torch.version.hip is None and torch.cuda.get_device_properties(device).major < 8


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: int,
    dilation: int,
    scale: float,
) -> Tensor:
    """`pna.ops.neighborhood_attention` without its checks."""
    if query.dtype != key.dtype:
        dtype = torch.promote_types(query.dtype, key.dtype)
        query, key = query.to(dtype), key.to(dtype)
    if query.dtype not in DTYPES or value.dtype not in DTYPES:
        raise PnaError(f"expected {DTYPES}, got {query.dtype=}, {value.dtype=}; call .float()")
    output: Tensor = triton_attention(query, key, value, bias, window, dilation, scale)[0]
    return output


@torch.library.custom_op("pna::triton_attention", mutates_args=())
def triton_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: int,
    dilation: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Output, and log-sum-exp of every query in units of log(2)."""
    from pna.ops.triton_kernels import forward_kernel

    output, lse = _empty_output(query, value), _per_query(query)
    constants = _constants(query, key, value, window, dilation)
    extent = _key_extent(query.shape[3], key.shape[3], window, dilation)
    grid = (_tiles(query), _cdiv(value.shape[-1], constants["BLOCK_DV"]))
    tensors = (query, key, value, bias, output)
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]
        forward_kernel[grid](
            *tensors, lse, *_strides(tensors), scale, *query.shape[1:4], *key.shape[2:4],
            **constants, EXTENT=extent,
        )  # fmt: skip
    return output, lse


@torch.library.custom_op("pna::triton_attention_backward", mutates_args=())
def triton_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    output: Tensor,
    lse: Tensor,
    window: int,
    dilation: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value and bias (empty without one)."""
    from pna.ops import triton_kernels as kernels

    grad_query, grad_key, grad_value = (torch.empty_like(x) for x in (query, key, value))
    delta = _per_query(query)
    constants = _constants(query, key, value, window, dilation)
    chunks = _cdiv(query.shape[-1], constants["BLOCK_D"])
    value_chunks = _cdiv(value.shape[-1], constants["BLOCK_DV"])
    inputs = (grad, query, key, value, bias)
    sizes = (scale, *query.shape[1:4], *key.shape[2:4])
    along = (query.shape[3], key.shape[3], window, dilation)
    with torch.cuda.device_of(query):  # type: ignore[no-untyped-call]
        kernels.backward_query_kernel[_tiles(query), chunks](
            *inputs, output, lse, delta, grad_query,
            *_strides((*inputs, output, grad_query)), *sizes,
            **constants, EXTENT=_key_extent(*along),
        )  # fmt: skip
        kernels.backward_key_value_kernel[_tiles(key), max(chunks, value_chunks)](
            *inputs, lse, delta, grad_key, grad_value,
            *_strides((*inputs, grad_key, grad_value)), *sizes,
            **constants, EXTENT=_query_extent(*along),
        )  # fmt: skip
        grad_bias = query.new_empty(0)
        if bias is not None:
            grad_bias = _grad_bias(*inputs[:4], bias, lse, delta, scale, constants)
    return grad_query, grad_key, grad_value, grad_bias


def _grad_bias(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    lse: Tensor,
    delta: Tensor,
    scale: float,
    constants: dict[str, Any],
) -> Tensor:
    """Sum the gradients of scores over batch and queries, per head and offset.

    All scores of a head fall into (2 * window - 1)^2 numbers, so atomic additions would queue up.
    Instead a program takes one block of the box of keys around a tile and adds the gradients of
    many tiles, of all batch entries, in registers: the (query, key) pairs have the same offsets in
    every tile. It costs the products a second time, but none of it is scattered. What is left is
    one box per split of the tiles, `BIAS_PROGRAMS` blocks whatever the map, to sum along offsets.

    Offsets repeat from tile to tile where a tile of queries is as wide as a whole number of keys:
    on equal grids, at half or a quarter of the size, at any multiple. For other ratios, which maps
    of a network's strides do not have but for odd sizes, every tile keeps a box of its own, and as
    many as fill the `BIAS_PROGRAMS` blocks are collected at a time: the same products, but more
    traffic, and two launches for every so many tiles.
    """
    from pna.ops.triton_kernels import backward_bias_kernel, collect_bias_kernel

    window, dilation, (batch, heads) = constants["WINDOW"], constants["DILATION"], query.shape[:2]
    (H, W), (h, w) = query.shape[2:4], key.shape[2:4]
    low_h, box_h, is_alike_h = _bias_box(H, h, window, dilation, TILE_H)
    low_w, box_w, is_alike_w = _bias_box(W, w, window, dilation, TILE_W)
    geometry = {"LOW_H": low_h, "LOW_W": low_w, "BOX_H": box_h, "BOX_W": box_w}
    blocks = _cdiv(box_h * box_w, constants["BLOCK_N"])
    tiles = _tiles(query) // (batch * heads)
    splits = min(tiles, _cdiv(BIAS_PROGRAMS, blocks * heads))
    width = blocks * constants["BLOCK_N"]
    tensors = (grad, query, key, value, bias)
    is_alike = is_alike_h and is_alike_w
    step = tiles if is_alike else splits
    parts = []
    for first in range(0, tiles, step):
        end = min(first + step, tiles)
        partial = lse.new_empty((min(splits, end - first), heads, TILE_H * TILE_W, width))
        backward_bias_kernel[blocks, heads, len(partial)](
            *tensors, lse, delta, partial, *_strides(tensors),
            scale, first, end, batch, H, W, h, w, **constants, **geometry,
        )  # fmt: skip
        if is_alike:
            partial = partial.sum(0, keepdim=True)
        part = lse.new_empty(bias.shape)
        collect_bias_kernel[2 * window - 1, heads](
            partial, part, first, len(partial), H, W, h, w, width,
            window, dilation, constants["BITS"], _power_of_2(2 * window - 1), TILE_H, TILE_W,
            **geometry,
        )  # fmt: skip
        parts.append(part)
    return reduce(torch.add, parts).to(bias.dtype)


def _bias_box(
    queries: int, keys: int, window: int, dilation: int, tile: int
) -> tuple[int, int, bool]:
    """The keys that a tile of queries along an axis may meet, wherever it lies.

    Returns:
        First key, counted from the key at the tile's lower edge; number of keys; whether all tiles
        lie alike, so that a (query, key) pair has the same offset in each of them.
    """
    is_alike = queries <= tile or tile * keys % queries == 0
    first, last = ((2 * i + 1) * keys // (2 * queries) for i in (0, tile - 1))
    reach = dilation * (window // 2)
    # Windows that shift at the edge begin at the first key, or end at the last.
    low = min(0, first - reach, tile * keys // queries - dilation * window)
    high = max(last + reach + (not is_alike), dilation * window - 1)
    if queries != keys:
        high = min(high, keys - 1)
    return low, high - low + 1, is_alike


def _key_extent(queries: int, keys: int, window: int, dilation: int) -> int:
    """Columns of the box of keys around the windows of a tile of queries."""
    span = max(_cdiv((TILE_W - 1) * keys, queries) + 1, dilation) + dilation * (window - 1)
    # Equal grids keep columns past the edge: fewer constants to compile for.
    return span if queries == keys else min(span, keys)


def _query_extent(queries: int, keys: int, window: int, dilation: int) -> int:
    """Columns of the box of queries whose windows meet a tile of keys, away from the edges."""
    span = _cdiv((TILE_W + dilation * (window - 1)) * queries, keys)
    return span if queries == keys else min(span, queries)


def _constants(
    query: Tensor, key: Tensor, value: Tensor, window: int, dilation: int
) -> dict[str, Any]:
    """The constants that the kernels are specialized for, block sizes among them.

    A fixed choice instead of an autotuner's: the same bits in every process, and no minutes of
    compilation at the first call. By the compiler's counts for compute capability 9.0: half
    precision up to a width of 128 (across grids: 64) spills no register, wider heads and float32 a
    few. Loads are not pipelined, that would send the gathered bias through shared memory as well.
    """
    D, DV = query.shape[-1], value.shape[-1]
    is_half = query.element_size() == value.element_size() == 2
    widest = 128 if is_half else 64
    axes = zip(query.shape[2:4], key.shape[2:4], strict=True)
    # More than any product of a position on one grid and the size of the other: past the edge of
    # the last tile, and of the widest window.
    most = max(2 * (N + TILE_H) * (n + dilation * window) for N, n in axes)
    bits = 0 if query.shape == key.shape else 32 if most < 2**31 else 64
    block_d, block_dv = (min(widest, max(16, _power_of_2(n))) for n in (D, DV))
    return {
        "WINDOW": window,
        "DILATION": dilation,
        "BITS": bits,
        "D": D,
        "DV": DV,
        "BLOCK_D": block_d,
        "BLOCK_DV": block_dv,
        "BLOCK_N": BLOCK_N,
        "TILE_H": TILE_H,
        "TILE_W": TILE_W,
        "PRECISION": "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee",
        "num_warps": 4 if is_half and max(block_d, block_dv) <= 64 else 8,
        "num_stages": 1,
    }


def _tiles(query: Tensor) -> int:
    B, heads, H, W, _ = query.shape
    return B * heads * _cdiv(H, TILE_H) * _cdiv(W, TILE_W)


def _empty_output(query: Tensor, value: Tensor) -> Tensor:
    """(B, heads, H, W, dv), dense, its dimensions in memory in the order of the values'."""
    order = sorted(range(5), key=value.stride, reverse=True)
    shape = (*query.shape[:-1], value.shape[-1])
    return torch.empty_permuted(shape, order, dtype=value.dtype, device=value.device)


def _per_query(query: Tensor) -> Tensor:
    return torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)


def _strides(tensors: tuple[Tensor | None, ...]) -> list[tuple[int, ...]]:
    return [(0, 0, 0) if x is None else x.stride() for x in tensors]


def _cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _power_of_2(n: int) -> int:
    """The smallest power of two that is at least `n`."""
    return 1 << (n - 1).bit_length()


@triton_attention.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: int,
    dilation: int,
    scale: float,
) -> tuple[Tensor, Tensor]:
    return _empty_output(query, value), _per_query(query)


@triton_attention_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    output: Tensor,
    lse: Tensor,
    window: int,
    dilation: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grad_query, grad_key, grad_value = (torch.empty_like(x) for x in (query, key, value))
    grad_bias = query.new_empty(0) if bias is None else bias.new_empty(bias.shape)
    return grad_query, grad_key, grad_value, grad_bias


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, bias, ctx.window, ctx.dilation, ctx.scale = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(query, key, value, bias, *output)


def _backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *inputs, bias, output, lse = ctx.saved_tensors
    *grads, grad_bias = triton_attention_backward(
        grad, *inputs, bias, output, lse, ctx.window, ctx.dilation, ctx.scale
    )
    return (*grads, None if bias is None else grad_bias, None, None, None)


triton_attention.register_autograd(_backward, setup_context=_setup_context)
