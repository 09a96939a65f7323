"""Times the operator's backends on the paper's four stages: `python benchmarks/attention.py`.

Square maps of a 512x512 picture, window 9, head width 32, float32; medians of one run, with the
quartiles as the spread; `ratio` is to the reference in the same run.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import write
from torch import Tensor

from pna.ops import BACKENDS, Backend, neighborhood_attention, why_not

STAGES = ((16, 24), (32, 12), (64, 6), (128, 3))
WINDOW = 9


def quartiles(call: Callable[[], Any], runs: int = 9) -> list[float]:
    """Milliseconds of a call: first quartile, median, third quartile."""
    call()
    took = []
    for _ in range(runs):
        start = time.perf_counter()
        call()
        took.append(1e3 * (time.perf_counter() - start))
    return [round(x, 2) for x in statistics.quantiles(took, n=4)]


def measure(size: int, heads: int, backend: Backend) -> dict[str, Any]:
    """Time forward, and forward with backward, of one backend on one stage."""
    query, key, value = (torch.randn(1, heads, size, size, 32, requires_grad=True) for _ in "qkv")
    bias = torch.randn(heads, 2 * WINDOW - 1, 2 * WINDOW - 1, requires_grad=True)
    grad = torch.randn_like(query)

    def forward() -> Tensor:
        return neighborhood_attention(query, key, value, bias, window=WINDOW, backend=backend)

    with torch.no_grad():
        forward_ms = quartiles(forward)
    return {
        "map": size,
        "heads": heads,
        "backend": backend,
        "forward_ms": forward_ms,
        "forward_backward_ms": quartiles(lambda: torch.autograd.backward(forward(), grad)),
    }


def main() -> None:
    """Measure every backend on every stage and write the rows."""
    rows: list[dict[str, Any]] = []
    backends = [b for b in BACKENDS if why_not(b, torch.zeros((1,) * 5), window=WINDOW) is None]
    for size, heads in STAGES:
        times: dict[str, dict[str, Any]] = {b: measure(size, heads, b) for b in backends}  # type: ignore[arg-type]
        oracle = times["reference"]
        for row in times.values():
            for key in ("forward_ms", "forward_backward_ms"):
                row[f"{key}_ratio"] = round(row[key][1] / oracle[key][1], 3)
            rows.append(row)
            print(row, flush=True)
    print(write("attention", "python benchmarks/attention.py", rows))


if __name__ == "__main__":
    main()
