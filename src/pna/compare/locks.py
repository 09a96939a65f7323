"""Advisory locks, by which processes on one folder share its runs out.

A POSIX record lock belongs to a process: the system frees it when the process ends, however it
ends, and processes that it started to prepare pictures don't inherit it. On a shared disk it holds
between machines too, if the disk's server keeps locks (NFS does). Windows has none: one process
per folder there.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl


LOCKS = ".locks"
"""Folder of the locks' files, in that of a comparison."""


@contextlib.contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Inside, this process alone has the lock, if what is yielded is True.

    Args:
        path: The lock's file, made if it isn't there; it stays. A process must not take a lock
            that it has, which would succeed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        yield _take(file)  # closing the file gives it back


def _take(file: IO[str]) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either
        return False
    return True
