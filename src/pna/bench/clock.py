"""Timing in turns: A B C, A B C, ..., so that a machine's drift hits all of them alike."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import torch

Call = Callable[[], object]
_Key = TypeVar("_Key")

SHORTEST_MS = 20.0
"""A call that is quicker is repeated within its turn until the turn takes about this long."""


def interleave(calls: Mapping[_Key, Call], *, rounds: int, device: str) -> dict[_Key, list[float]]:
    """Time calls in turns.

    Each is called twice before: the first call compiles and fills caches, the second says how
    often it has to be repeated to be measurable.

    Args:
        calls: What to time, by name.
        rounds: Turns of each.
        device: Where they compute.

    Returns:
        Milliseconds of one call in each round, by name.
    """
    repeats = {name: _repeats(call, device) for name, call in calls.items()}
    times: dict[_Key, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(milliseconds(call, device, repeats[name]))
    return times


def milliseconds(call: Call, device: str, repeats: int = 1) -> float:
    """Mean milliseconds of a call that is made `repeats` times in a row."""
    if torch.device(device).type == "cuda":
        return _cuda_milliseconds(call, device, repeats)
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1e3 * (time.perf_counter() - start) / repeats


def _cuda_milliseconds(call: Call, device: str, repeats: int) -> float:
    """Between two events on the stream: waits of the GPU for Python count, as they do in use."""
    stream = torch.cuda.current_stream(device)
    start, end = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    torch.cuda.synchronize(device)
    start.record(stream)
    for _ in range(repeats):
        call()
    end.record(stream)
    end.synchronize()
    return float(start.elapsed_time(end)) / repeats


def _repeats(call: Call, device: str) -> int:
    call()
    return min(1000, math.ceil(SHORTEST_MS / max(milliseconds(call, device), 1e-3)))


def check_device(name: str) -> str:
    """Return the name of a device that is there and can be timed.

    Raises:
        ValueError: It is neither "cpu" nor a CUDA device, or this machine has no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ValueError(f"expected the device cpu, cuda or cuda:N, got {name!r}")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"got device {name!r}, but PyTorch sees {count} CUDA devices here")
    return name


@contextmanager
def use_threads(number: int | None) -> Iterator[None]:
    """Let PyTorch compute on so many threads for a while; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(before if number is None else number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory didn't suffice, on any device."""
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
