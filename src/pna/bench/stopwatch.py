"""Time spent inside chosen modules of a network, by hooks around their forward pass."""

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

Place = tuple[str, str]
"""Where a module belongs: (place in the model, part of it)."""


class Stopwatch:
    """Adds up milliseconds by place while it is on (a context manager).

    On CUDA it leaves events in the stream, so the GPU isn't stopped at every module.

    Args:
        modules: What to watch; several modules may share a place.
        device: Where they compute.
    """

    def __init__(self, modules: Iterable[tuple[Place, nn.Module]], device: str) -> None:
        self._modules = list(modules)
        self._on_cuda = torch.device(device).type == "cuda"
        self._device = device
        self._spans: list[tuple[Place, Any, Any]] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for place, module in self._modules:
            before, after = self._hooks(place)
            self._handles.append(module.register_forward_pre_hook(before))
            self._handles.append(module.register_forward_hook(after))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def read(self) -> dict[Place, float]:
        """Milliseconds since the last reading, by place."""
        if self._on_cuda:
            torch.cuda.synchronize(self._device)
        total: dict[Place, float] = {}
        for place, start, end in self._spans:
            took = start.elapsed_time(end) if self._on_cuda else 1e3 * (end - start)
            total[place] = total.get(place, 0.0) + took
        self._spans.clear()
        return total

    def _hooks(self, place: Place) -> tuple[Callable[..., None], Callable[..., None]]:
        starts = []

        def before(module: nn.Module, inputs: Any) -> None:
            starts.append(self._now())

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            self._spans.append((place, starts.pop(), self._now()))

        return before, after

    def _now(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
