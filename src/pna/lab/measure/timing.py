"""Time of calls, measured in turns: A B C, A B C, ...

A machine that slows down for a while then slows all of them, and the ratio of two times of one
round stays what it is. `torch.utils.benchmark.Timer` measures one call after the other, and warms
up again before every measurement, which doubles the time of calls that take half a minute.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from pna.errors import PnaError

Call = Callable[[], object]
_Key = TypeVar("_Key")

SHORTEST_MS = 20.0
"""Quicker calls are repeated within a round until it takes about this long."""
_LONG_MS = 60_000.0


class Quartiles(NamedTuple):
    """First quartile, median and third quartile."""

    low: float
    median: float
    high: float


def interleave(calls: Mapping[_Key, Call], *, rounds: int, device: str) -> dict[_Key, list[float]]:
    """Time calls in turns.

    Each is made twice before: the first call compiles and fills caches, and the time of the second
    gives the number of repetitions in a round. A call that takes more than a minute is made once.

    Args:
        calls: The calls, by name.
        rounds: Measurements of each.
        device: The device that they run on.

    Returns:
        Milliseconds of one call in each round, by name.

    Example:
        >>> times = interleave({"sum": lambda: sum(range(1000))}, rounds=3, device="cpu")
        >>> len(times["sum"])
        3
    """
    repeats = {}
    for name, call in calls.items():
        took = _milliseconds(call, device, 1)
        if took < _LONG_MS:
            took = _milliseconds(call, device, 1)
        repeats[name] = min(1000, math.ceil(SHORTEST_MS / max(took, 1e-3)))
    # Round by round, so that a slow minute of the machine slows all calls alike.
    times: dict[_Key, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(_milliseconds(call, device, repeats[name]))
    return times


def _milliseconds(call: Call, device: str, repeats: int) -> float:
    """Measure the mean time of a call that is made `repeats` times in a row."""
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    if is_cuda:  # calls return before the GPU is done
        torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - start) / repeats


@contextmanager
def use_threads(number: int | None) -> Iterator[None]:
    """Use this many CPU threads of PyTorch inside; None changes nothing."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if number is None else number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def quartiles(values: Sequence[float]) -> Quartiles:
    """Compute quartiles of one value or more, interpolated between them."""
    return Quartiles(*(float(x) for x in np.quantile(values, (0.25, 0.5, 0.75))))


def ratios(times: Sequence[float], base: Sequence[float]) -> list[float]:
    """Divide each round's time by the base's in the same round."""
    return [time / other for time, other in zip(times, base, strict=True)]


def add_rounds(parts: Sequence[Sequence[float]]) -> list[float]:
    """Add the times of several parts round by round."""
    return [sum(times) for times in zip(*parts, strict=True)]


def exponent(amounts: Sequence[float], costs: Sequence[float]) -> float:
    """Fit the b of `cost = a * amount ** b`, by least squares on logarithms; 1 is linear.

    Args:
        amounts: Two different ones or more, above 0.
        costs: One for each, above 0.

    Raises:
        PnaError: There are no two different amounts.

    Example:
        >>> round(exponent([1, 2, 4], [10, 40, 160]), 6)
        2.0
    """
    if len(set(amounts)) < 2:
        raise PnaError(f"expected two different amounts or more to fit a growth, got {amounts}")
    slope, _ = np.polyfit(np.log(amounts), np.log(costs), 1)
    return float(slope)
