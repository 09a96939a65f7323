"""A system that refuses to write, as it does when a disk is full."""

import contextlib
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def too_large_from(num_bytes: int) -> Iterator[None]:
    """Inside, the system lets no file of this process grow beyond `num_bytes`."""
    resource = pytest.importorskip("resource", reason="only POSIX systems limit the size of files")
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
