"""The processes of a run, as the loop needs them: device, sums, waiting, signals."""

import datetime
import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import (  # type: ignore[import-untyped]
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    gather_object,
)
from torch import Tensor

from pna.errors import PnaError
from pna.train.recipe import Recipe

# The others wait for the main process while it writes a checkpoint, a model or a report.
_LONGEST_WAIT = datetime.timedelta(hours=12)


def create_accelerator(recipe: Recipe) -> Accelerator:
    """Create device, precision and process group as `accelerate launch` or `torchrun` set them.

    The environment variable ACCELERATE_USE_CPU=1 leaves out any GPU.

    Args:
        recipe: The settings.

    Raises:
        PnaError: Accelerate doesn't join the processes that were launched.
    """
    weights = (recipe.loss.coarse, recipe.loss.stage, recipe.loss.aux)
    accelerator = Accelerator(
        mixed_precision=recipe.run.precision,
        # Without this accelerate takes each of several processes on CPUs for the only one.
        cpu=not torch.accelerator.is_available(),
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=datetime.timedelta(seconds=recipe.run.timeout)),
            # A head without a loss gets no gradient, and a wrapped network may have parts without
            # one; searching for them takes time, so only there.
            DistributedDataParallelKwargs(
                find_unused_parameters=0 in weights or recipe.model.cascade is not None
            ),
        ],
    )
    check_joined(accelerator.num_processes)
    return accelerator


def check_joined(num_processes: int) -> None:
    """Refuse to go on if each of the processes that were launched would do all the work alone.

    Args:
        num_processes: How many have found each other.

    Raises:
        PnaError: More were launched.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if num_processes != launched:
        raise PnaError(
            f"expected the {launched} processes that were launched to work together, got "
            f"{num_processes}: accelerate joins processes on CUDA, XPU and the like, and on CPUs; "
            "launch one process"
        )


class Processes:
    """This process among those of a run. Every process must call each method alike.

    Args:
        accelerator: Device and process group.

    Attributes:
        rank: This process's number.
        number: How many there are.
        is_main: Whether this one writes files and messages.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.rank: int = accelerator.process_index
        self.number: int = accelerator.num_processes
        self.is_main: bool = accelerator.is_main_process
        # Gloo, whatever the steps use: it notices at once when a process dies.
        self._patient: torch.distributed.ProcessGroup | None = None
        if self.number > 1:
            group = torch.distributed.new_group(backend="gloo", timeout=_LONGEST_WAIT)
            assert isinstance(group, torch.distributed.ProcessGroup)  # it holds every process
            self._patient = group

    def add_up(self, counts: Tensor) -> Tensor:
        """Sum a tensor over the processes, on the accelerator's device."""
        here = counts.to(self._accelerator.device)
        total: Tensor = self._accelerator.reduce(here, reduction="sum")
        return total

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process."""
        return flag if self.number == 1 else bool(self.add_up(torch.tensor(int(flag))) > 0)

    def join(self, messages: list[str]) -> list[str]:
        """Return the messages of all processes, by rank."""
        return messages if self.number == 1 else list(gather_object(messages))

    def wait(self) -> None:
        """Wait for all, for hours if the main process has that much to do."""
        if self._patient is not None:
            torch.distributed.barrier(self._patient)


class StopRequest:
    """While entered, Ctrl-C and SIGTERM raise a flag instead of ending the process.

    A second Ctrl-C ends it at once. Must be entered from the main thread, and before data workers
    start: they inherit it, so the Ctrl-C that stops the trainer doesn't take their batches away.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        signals = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._note) for number in signals}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.is_set and number == signal.SIGINT:
            raise KeyboardInterrupt  # the user does not want to wait for the step
        self.is_set = True
