"""The processes of a run, as the loop sees them: sums, waiting, and the loss of one."""

import contextlib
import datetime
import os
from collections.abc import Iterator

import torch
import torch.distributed
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import (  # type: ignore[import-untyped]
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    gather_object,
)
from torch import Tensor

from pna.train.faults import TrainingError
from pna.train.recipe import Recipe

# The others wait for the main process while it writes a checkpoint, a model or a report.
_LONGEST_WAIT = datetime.timedelta(hours=12)

# What gloo and NCCL say of a lost process in errors that are of no type of their own.
_SIGNS = ("gloo", "nccl", "connection closed by peer", "connection reset", "timed out")


def create_accelerator(recipe: Recipe, *, cpu: bool = False) -> Accelerator:
    """Device, precision and process group, as `accelerate launch` or `torchrun` set them.

    Args:
        recipe: The settings.
        cpu: Whether to leave out any GPU.

    Raises:
        ValueError: Accelerate doesn't join the processes that were launched.
    """
    weights = (recipe.loss.coarse, recipe.loss.stage, recipe.loss.aux)
    accelerator = Accelerator(
        mixed_precision=recipe.run.precision,
        # Unless told so, accelerate takes each of several processes on CPUs for the only one.
        cpu=cpu or not torch.accelerator.is_available(),
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=datetime.timedelta(seconds=recipe.run.timeout)),
            # A head without a loss gets no gradient, nor may a part of a network that isn't ours;
            # looking for such heads takes time.
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
        ValueError: More were launched.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if num_processes != launched:
        raise ValueError(
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
        is_main: Whether this one writes and speaks.
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
        """The sum of a tensor over the processes, on the accelerator's device."""
        here = counts.to(self._accelerator.device)
        total: Tensor = self._accelerator.reduce(here, reduction="sum")
        return total

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        return flag if self.number == 1 else bool(self.add_up(torch.tensor(int(flag))) > 0)

    def join(self, messages: list[str]) -> list[str]:
        """The messages of all processes, by rank."""
        return messages if self.number == 1 else list(gather_object(messages))

    def wait(self) -> None:
        """Wait for all, for hours if the main process has that much to do."""
        if self._patient is not None:
            torch.distributed.barrier(self._patient)


@contextlib.contextmanager
def explain_lost_process(rank: int, number: int) -> Iterator[None]:
    """Inside, an error that comes of another process's end says so.

    Args:
        rank: This process's number.
        number: How many there are; of one, nothing is explained.

    Raises:
        TrainingError: Another process has died, or didn't come within `run.timeout`.
    """
    try:
        yield
    except RuntimeError as error:
        if number == 1 or isinstance(error, TrainingError) or not _is_of_the_network(error):
            raise
        raise TrainingError(
            f"process {rank} of {number}: lost another process, which has died or was stuck for "
            f"longer than run.timeout ({error}): look at the first error that any process or "
            "node shows, correct its cause, and continue with --resume; "
            "only the steps since the last checkpoint are lost"
        ) from error


def _is_of_the_network(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(sign in text for sign in _SIGNS)
