"""Errors that end a run for external reasons: full disks, dead workers, lost processes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from torch.distributed import DistError

from pna.errors import PnaError

# Gloo and NCCL report a lost process by errors that have no type of their own.
_LOST_PROCESS = ("gloo", "nccl", "connection closed by peer", "connection reset", "timed out")
_NOTHING_ELSE = "only the steps since the last checkpoint are lost"


class TrainingError(PnaError):
    """The run ended for a reason outside of it; the message holds the remedy."""


@contextlib.contextmanager
def explain_dead_worker() -> Iterator[None]:
    """Turn the death of a process that prepares images into an error with a remedy.

    Raises:
        TrainingError: One has died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):  # torch has no type for it
            raise
        raise TrainingError(
            f"a process that prepares images has died ({error}): if the system ran out of "
            "memory, lower data.num_workers, which changes no image; continue with --resume; "
            f"{_NOTHING_ELSE}"
        ) from error


@contextlib.contextmanager
def explain_lost_process(rank: int, num_processes: int) -> Iterator[None]:
    """Turn an error that follows from another process's end into one with a remedy.

    Args:
        rank: This process's number.
        num_processes: How many there are; with one, nothing is explained.

    Raises:
        TrainingError: Another process has died, or was stuck for longer than `run.timeout`.
    """
    try:
        yield
    except RuntimeError as error:
        text = str(error).lower()
        is_lost = isinstance(error, DistError) or any(sign in text for sign in _LOST_PROCESS)
        if num_processes == 1 or not is_lost:
            raise
        raise TrainingError(
            f"process {rank} of {num_processes}: lost another process, which has died or was stuck "
            f"for longer than run.timeout ({error}): read the first error that any process or node "
            f"shows, correct its cause, and continue with --resume; {_NOTHING_ELSE}"
        ) from error


@contextlib.contextmanager
def explain_failed_write(path: Path) -> Iterator[None]:
    """Turn an error of writing into one that names the file and a remedy.

    Raises:
        OSError: The disk is full, or the file can't be written for another reason.
    """
    try:
        yield
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path}: could not be written ({error.strerror or error}); the checkpoints in its "
            "folder are whole: make room (or correct the cause), and continue with --resume; "
            f"{_NOTHING_ELSE}",
        ) from error
