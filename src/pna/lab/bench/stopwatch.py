"""Time inside chosen modules of a network, by hooks around their forward pass."""

import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

Key = tuple[str, str]
"""Component of the model, and part of it, that the time of a module is added to."""


class Stopwatch:
    """Add up milliseconds by key, as a context manager.

    On CUDA it records events in the stream, so modules do not wait for the GPU.

    Args:
        modules: Modules by key; several may share one.
        device: The device that they run on.
    """

    def __init__(self, modules: Iterable[tuple[Key, nn.Module]], device: str) -> None:
        self._modules = list(modules)
        self._on_cuda = torch.device(device).type == "cuda"
        self._device = device
        self._spans: list[tuple[Key, Any, Any]] = []
        self._handles: list[Any] = []

    def __enter__(self) -> Self:
        for key, module in self._modules:
            before, after = self._hooks(key)
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

    def read(self) -> dict[Key, float]:
        """Return milliseconds since the last reading, by key."""
        if self._on_cuda:
            torch.cuda.synchronize(self._device)
        total: dict[Key, float] = {}
        for key, start, end in self._spans:
            took = start.elapsed_time(end) if self._on_cuda else 1e3 * (end - start)
            total[key] = total.get(key, 0.0) + took
        self._spans.clear()
        return total

    def _hooks(self, key: Key) -> tuple[Callable[..., None], Callable[..., None]]:
        starts = []  # a stack, for modules that call themselves

        def before(module: nn.Module, inputs: Any) -> None:
            starts.append(self._now())

        def after(module: nn.Module, inputs: Any, output: Any) -> None:
            self._spans.append((key, starts.pop(), self._now()))

        return before, after

    def _now(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
