"""Neighborhood attention on the CPU: maps, bands and threads around `pna.ops.numba_kernels`.

The work is cut into bands of rows of one head. In the backward pass two neighboring bands add to
the same keys, so they run in two turns.

numba compiles the kernels at the first call, which takes some seconds, and keeps them on disk.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from pna.ops.numba_plan import LANES, Reading, cut_rows, plan_columns, plan_rows
from pna.ops.registration import register
from pna.ops.threads import run_in_threads

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
"""Types that it accepts; it computes in float32."""

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


def cut_bands(query: Tensor, rows: np.ndarray) -> np.ndarray:
    """Cut maps (B, heads, H, W, d) into bands.

    Args:
        query: The maps of the queries.
        rows: (n, 3) of `pna.ops.numba_plan.cut_rows`.

    Returns:
        (B * heads * n, 5) int64: batch, head, and what `rows` has.
    """
    B, heads = query.shape[:2]
    bands = np.empty((B, heads, len(rows), 5), np.int64)
    bands[..., 0] = np.arange(B)[:, None, None]
    bands[..., 1] = np.arange(heads)[:, None]
    bands[..., 2:] = rows
    return bands.reshape(-1, 5)


def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: int,
    dilation: int,
    scale: float,
) -> Tensor:
    from pna.ops.numba_kernels import forward

    (H, W), (h, w) = query.shape[2:4], key.shape[2:4]
    rows = plan_rows(H, h, window, dilation)
    columns, reading = plan_columns(W, w, window, dilation)
    # Zeroed: the kernel adds to its output.
    output = _empty_like(value.float(), (*query.shape[:-1], value.shape[-1])).zero_()
    table = _spread_table(query, bias, window, reading)
    arrays = [*(_array(x) for x in (query, key, value)), table]
    bands = cut_bands(query, cut_rows(H, h, window, dilation, False))

    def attend(part: np.ndarray, worker: int) -> None:
        forward(*arrays, np.float32(scale), _array(output), rows, columns, part)

    _share(attend, bands)
    return output.to(value.dtype)


def _backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: int,
    dilation: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from pna.ops.numba_kernels import backward

    (H, W), (h, w) = query.shape[2:4], key.shape[2:4]
    rows = plan_rows(H, h, window, dilation)
    columns, reading = plan_columns(W, w, window, dilation)
    grads = [_empty_like(x.float(), x.shape).zero_() for x in (query, key, value)]
    table = _spread_table(query, bias, window, reading)
    # One table a thread: threads never add to the same number.
    grad_table = torch.zeros(torch.get_num_threads(), *table.shape)
    arrays = [*(_array(x) for x in (grad, query, key, value)), table]
    bands = cut_bands(query, cut_rows(H, h, window, dilation, True))

    def differentiate(part: np.ndarray, worker: int) -> None:
        outputs = [_array(x) for x in (*grads, grad_table[worker])]
        backward(*arrays, np.float32(scale), *outputs, rows, columns, part)

    # Bands of one turn share no key: they run at the same time.
    for turn in (0, 1):
        _share(differentiate, bands[bands[:, 4] == turn])
    grad_bias = torch.empty(0) if bias is None else _collect_table(grad_table, window, reading)
    dtypes = (query.dtype, key.dtype, value.dtype, query.dtype if bias is None else bias.dtype)
    a, b, c, d = (x.to(dtype) for x, dtype in zip((*grads, grad_bias), dtypes, strict=True))
    return a, b, c, d


def _spread_table(query: Tensor, bias: Tensor | None, window: int, reading: Reading) -> np.ndarray:
    """The bias table as the kernels read it, (heads, slots, 2 * window + 1, offsets, 8)."""
    lower, upper, share = reading
    heads, side = query.shape[1], 2 * window - 1
    if bias is None:
        return np.zeros((heads, len(lower), side + 2, lower.shape[1], LANES), np.float32)
    table = _array(bias)
    table = np.concatenate((table[:, :1], table, table[:, -1:]), 1)
    mixed = np.take(table, lower, 2)
    if share.any():
        # An entry that is read with share 0 may be infinite.
        with np.errstate(invalid="ignore"):
            both = (1 - share) * mixed + share * np.take(table, upper, 2)
        mixed = np.where(share == 0, mixed, both)
    return np.repeat(np.moveaxis(mixed, 2, 1), LANES // mixed.shape[-1], -1)


def _collect_table(grad: Tensor, window: int, reading: Reading) -> Tensor:
    """The gradient of the bias from those of its `_spread_table`, one for every worker."""
    lower, upper, share = (torch.from_numpy(x) for x in reading)
    grad = grad.sum((0, -1)).unsqueeze(-1) if lower.shape[-1] == 1 else grad.sum(0)
    grad = grad.movedim(2, 1)  # (heads, 2 * window + 1, slots, offsets, 8 or 1)
    table = grad.new_zeros(*grad.shape[:2], 2 * window - 1)
    table.index_add_(2, lower.flatten(), ((1 - share) * grad).flatten(2))
    table.index_add_(2, upper.flatten(), (share * grad).flatten(2))
    # The rows before and after the table repeat its first and last.
    table[:, 1] += table[:, 0]
    table[:, -2] += table[:, -1]
    return table[:, 1:-1].contiguous()


def _empty_like(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A map (B, heads, H, W, d) whose heads lie beside each other in memory: no copy to merge."""
    B, heads, H, W, d = shape
    return x.new_empty(B, H, W, heads, d).permute(0, 3, 1, 2, 4)


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
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    window: int,
    dilation: int,
    scale: float,
) -> Tensor:
    """`pna.ops.neighborhood_attention` without its checks."""
    output: Tensor = attention(query, key, value, bias, window, dilation, scale)
    return output
