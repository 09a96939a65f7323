"""Run compiled work in the threads that PyTorch's own operators run in.

PyTorch's OpenMP threads spin for milliseconds after each operator; threads of our own would fight
them for the cores (measured: twice the time after a matrix product). So the work is given to
OpenMP's entry point `GOMP_parallel`, which GNU's and LLVM's libraries both have. Where PyTorch's
library has none, a pool of Python threads serves.
"""

import ctypes
import functools
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

_LIBRARIES = ("libgomp*", "libomp*", "libiomp5*")
_BODY = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


def run_in_threads(work: Callable[[int], None], workers: int) -> None:
    """Call `work(0)` to `work(workers - 1)` at the same time; it should release the GIL.

    Raises:
        Exception: The first that `work` raised.
    """
    if workers == 0:
        return
    if workers == 1:
        work(0)
    elif parallel := _openmp():
        _run_in_openmp(parallel, work, workers)
    else:
        for _ in _pool().map(work, range(workers)):
            pass


def _run_in_openmp(
    parallel: Callable[..., None], work: Callable[[int], None], workers: int
) -> None:
    numbers, errors = itertools.count(), []

    def body(_: object) -> None:
        # OpenMP may grant fewer threads than requested: each takes numbers until none is left.
        try:
            while (number := next(numbers)) < workers:
                work(number)
        except BaseException as error:  # it cannot pass through foreign frames
            errors.append(error)

    parallel(_BODY(body), None, workers, 0)
    if errors:
        raise errors[0]


@functools.cache
def _openmp() -> Callable[..., None] | None:
    folder = Path(torch.__file__).parent / "lib"
    for path in itertools.chain.from_iterable(folder.glob(name) for name in _LIBRARIES):
        parallel = getattr(ctypes.CDLL(str(path)), "GOMP_parallel", None)
        if parallel is not None:
            parallel.argtypes = (_BODY, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
            parallel.restype = None
            return parallel  # type: ignore[no-any-return]
    return None


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count())


os.register_at_fork(after_in_child=_pool.cache_clear)  # its threads stay in the parent
