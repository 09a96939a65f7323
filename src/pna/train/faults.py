"""What ends a run that is no fault of the recipe: full disks, dead workers, lost processes."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class TrainingError(RuntimeError):
    """The run ended for a reason outside of it; the message says what to do."""


@contextlib.contextmanager
def explain_dead_worker() -> Iterator[None]:
    """Inside, the end of a process that prepares pictures says what to do.

    Raises:
        TrainingError: One has died.
    """
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise TrainingError(
            f"a process that prepares pictures has died ({error}): if the system ran out of "
            "memory, lower data.num_workers, which changes no picture; continue with --resume; "
            "only the steps since the last checkpoint are lost"
        ) from error


@contextlib.contextmanager
def explain_failed_write(path: Path) -> Iterator[None]:
    """Inside, a file that can't be written is named, and what to do is said.

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
            "only the steps since the last checkpoint are lost",
        ) from error
