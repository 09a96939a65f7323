"""Neighborhood attention on the CPU: maps, bands and threads around `pna.ops.numba_kernels`.

The work is cut into bands of rows of one head. In the backward pass two neighboring bands add to
the same keys, so even bands run first and odd ones after them.

numba compiles the kernels at the first call, which takes some seconds, and keeps them on disk.
"""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from pna.ops.registration import register
from pna.ops.threads import run_in_threads

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""Types that it accepts; it computes in float32."""
ROWS = 16
"""Rows of a band: fewer pack every key more often, more leave threads without work."""

_IS_INSTALLED = find_spec("numba") is not None


def why_not(query: Tensor) -> str | None:
    """The reason why the kernels cannot serve a call; None when they can."""
    if not _IS_INSTALLED:
        return "numba is not installed (pip install numba)"
    if query.device.type != "cpu":
        return f"it computes on the CPU, not on {query.device}"
    if query.dtype not in DTYPES:
        return f"it takes float16, bfloat16 and float32, not {query.dtype}"
    if torch.compiler.is_exporting():
        return "an exported graph cannot hold it"
    return None


def cut_bands(query: Tensor, rows: int) -> np.ndarray:
    """Cut maps (B, heads, H, W, d) into bands: (n, 4) int64 of batch, head, first row, end row."""
    B, heads, H = query.shape[:3]
    first = np.arange(0, H, rows)
    bands = np.empty((B, heads, len(first), 4), np.int64)
    bands[..., 0] = np.arange(B)[:, None, None]
    bands[..., 1] = np.arange(heads)[:, None]
    bands[..., 2] = first
    bands[..., 3] = np.minimum(first + rows, H)
    return bands.reshape(-1, 4)


def band_rows(window: int) -> int:
    """Rows of a band such that windows of bands two apart never meet, shifted or not."""
    return max(ROWS, window + window // 2)


def _forward(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, window: int, scale: float
) -> Tensor:
    from pna.ops.numba_kernels import forward

    # Zeroed: the kernel adds to its output.
    output = _empty_like(value.float()).zero_()
    arrays = [_array(x) for x in (query, key, value, _table(query, bias, window))]
    bands = cut_bands(query, ROWS)

    def attend(part: np.ndarray, worker: int) -> None:
        forward(*arrays, window, np.float32(scale), _array(output), part)

    _share(attend, bands)
    return output.to(value.dtype)


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from pna.ops.numba_kernels import backward
    from pna.ops.simd import LANES

    grads = [_empty_like(x.float()).zero_() for x in (query, key, value)]
    table = _table(query, bias, window)
    # One table a thread and vector lane: threads never add to the same number.
    grad_table = torch.zeros(torch.get_num_threads(), *table.shape, LANES)
    arrays = [_array(x) for x in (grad, query, key, value, table)]
    rows = band_rows(window)
    bands = cut_bands(query, rows)

    def differentiate(part: np.ndarray, worker: int) -> None:
        outputs = [_array(x) for x in (*grads, grad_table[worker])]
        backward(*arrays, window, np.float32(scale), *outputs, part)

    # Bands that are two apart share no key, so the even ones run at the same time; then the odd.
    is_odd = bands[:, 2] // rows % 2 == 1
    _share(differentiate, bands[~is_odd])
    _share(differentiate, bands[is_odd])
    grad_bias = torch.empty(0) if bias is None else grad_table.sum((0, -1))
    dtypes = (query.dtype, key.dtype, value.dtype, query.dtype if bias is None else bias.dtype)
    a, b, c, d = (x.to(dtype) for x, dtype in zip((*grads, grad_bias), dtypes, strict=True))
    return a, b, c, d


def _empty_like(x: Tensor) -> Tensor:
    """A map (B, heads, H, W, d) whose heads lie beside each other in memory: no copy to merge."""
    B, heads, H, W, d = x.shape
    return x.new_empty(B, H, W, heads, d).permute(0, 3, 1, 2, 4)


def _table(query: Tensor, bias: Tensor | None, window: int) -> Tensor:
    side = 2 * window - 1
    return torch.zeros(query.shape[1], side, side) if bias is None else bias.float().contiguous()


def _array(x: Tensor) -> np.ndarray:
    """As float32 whose last axis is contiguous; a copy only where it is not."""
    x = x.detach().float()
    return (x if x.stride(-1) == 1 else x.contiguous()).numpy()


def _share(work: Callable[[np.ndarray, int], None], bands: np.ndarray) -> None:
    """Deal the bands to the threads that PyTorch may use; always the same to the same worker."""
    workers = min(torch.get_num_threads(), len(bands))
    run_in_threads(lambda worker: work(bands[worker::workers], worker), workers)


attention, attention_backward = register("numba_attention", _forward, _backward, _empty_like)


def neighborhood_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, window: int, scale: float
) -> Tensor:
    """`pna.ops.neighborhood_attention` without its checks."""
    output: Tensor = attention(query, key, value, bias, window, scale)
    return output
