"""A setting of the C library: memory is not given back to the system between training steps.

A training step on a CPU allocates and frees gigabytes in tensors of tens of megabytes. glibc maps
each of these anew, and the system clears every page of it again. Kept in the heap, the same pages
serve step after step.
"""

import ctypes
import platform
from functools import cache

# Names and numbers of <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_GROW_BY = 256 * 2**20  # bytes


@cache
def keep_freed_memory() -> bool:
    """Make this process keep freed memory for its lifetime; return whether that is possible.

    It is with glibc (most of Linux); elsewhere, and under another allocator (jemalloc, tcmalloc),
    nothing changes. Peak memory stays about the same, memory between the peaks does not fall.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: _GROW_BY}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
