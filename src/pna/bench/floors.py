"""How quick the operator could be at best: its useful work at the rates this machine reaches.

The rates are measured in turns with the entrants, so they suffer what the entrants suffer.
"""

from typing import NamedTuple

import torch

from pna.bench.clock import Call
from pna.bench.trial import Pass
from pna.ops.windows import window_size

_PRODUCTS = {"forward": 2, "forward+backward": 6}
"""Matrix products: scores and gathering; backward each has two more, one for each factor."""

_TRAFFIC = {"forward": 4, "forward+backward": 11}
"""Maps read or written: query, key, value, result; backward those three again, the result's
gradient, and three gradients."""


class Floor(NamedTuple):
    """A bound on the time of one call.

    Attributes:
        name: As shown.
        probe: The call whose time says the rate.
        share: Time of the bound over the time of one probe.
    """

    name: str
    probe: Call
    share: float


def floors(query: torch.Tensor, window: int, task: Pass) -> list[Floor]:
    """The bounds for queries, keys and values like `query` (B, heads, H, W, d).

    Args:
        query: Gives shape, type and device.
        window: Cells per side.
        task: "forward" or "forward+backward".
    """
    found = [_matmul_floor(query, window, task)]
    if query.device.type == "cuda":  # on a CPU small maps never leave the caches
        found.append(_memory_floor(query, task))
    return found


def _matmul_floor(query: torch.Tensor, window: int, task: Pass) -> Floor:
    B, heads, H, W, d = query.shape
    side = 8192 if query.device.type == "cuda" else 1024
    a = torch.randn(side, side, device=query.device, dtype=query.dtype)
    out = torch.empty_like(a)
    cells = window_size(H, window) * window_size(W, window)
    work = _PRODUCTS[task] * 2 * B * heads * H * W * cells * d
    return Floor("matmul floor", lambda: torch.matmul(a, a, out=out), work / (2 * side**3))


def _memory_floor(query: torch.Tensor, task: Pass) -> Floor:
    source = torch.empty(2**28, dtype=torch.int8, device=query.device)  # larger than any cache
    target = torch.empty_like(source)
    traffic = _TRAFFIC[task] * query.numel() * query.element_size()
    return Floor("memory floor", lambda: target.copy_(source), traffic / (2 * source.numel()))
