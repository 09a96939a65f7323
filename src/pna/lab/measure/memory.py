"""Peak memory of a workload, measured in a process of its own.

On a CPU it is the peak of the process's resident memory, less the resident memory before the model
was built (libraries and their compiled kernels); on CUDA the peak of PyTorch's allocations in a
call. Both include weights, gradients and the optimizer's state.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import timm  # noqa: F401  # its memory is not the model's: load it before the first reading
import torch
from torch import nn

from pna.inference.devices import is_out_of_memory
from pna.lab.measure.timing import Call, use_threads
from pna.ops import neighborhood_attention

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Peak:
    """Peak memory of a workload.

    Attributes:
        megabytes: 10^6 bytes; None if the work failed, or the system has no such number.
        why_not: Why the work failed.
    """

    megabytes: float | None = None
    why_not: str | None = None


class Work(Protocol):
    """What another process can do: pickled, and prepared there."""

    @property
    def device(self) -> str:
        """The device that it runs on: "cpu", "cuda" or "cuda:N"."""

    def prepare(self) -> Call:
        """Build what it needs, and return the call that does the work."""


def peak_memory(work: Work) -> Peak:
    """Do the work in a new process, with as many threads as this one, and measure its memory.

    Raises:
        PnaError: There is no such model or encoder.
    """
    # Spawned: a forked process starts with the memory of this one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_measure, work, torch.get_num_threads()).result()
        except BrokenProcessPool:  # Linux kills the process that takes the last memory
            return Peak(why_not="the system ended the process, most likely because memory ran out")


def _measure(work: Work, threads: int) -> Peak:
    with use_threads(threads):
        try:
            on_cuda = torch.device(work.device).type == "cuda"
            return Peak(_cuda_peak(work) if on_cuda else _resident_peak(work))
        except RuntimeError as error:
            if is_out_of_memory(error):
                return Peak(why_not="out of memory")
            raise


def _cuda_peak(work: Work) -> float:
    call = work.prepare()
    call()  # compiling and choosing algorithms take memory for a while, which does not count
    torch.cuda.reset_peak_memory_stats(work.device)
    call()
    torch.cuda.synchronize(work.device)
    return torch.cuda.max_memory_allocated(work.device) / 1e6


def _resident_peak(work: Work) -> float | None:
    if not _STATUS.exists():  # not Linux
        work.prepare()()
        return None
    _load_libraries()
    before = _status("VmRSS")
    call = work.prepare()
    call()
    call()  # in training the optimizer's state exists from the end of the first step
    # Not ru_maxrss, which a process inherits from its parent.
    return (_status("VmHWM") - before) / 1e6


def _load_libraries() -> None:
    """Take a small training step: PyTorch and numba load parts of themselves at the first one.

    That is once in a process and the same for every model and image, 130 MB for numba's kernels.
    """
    layer = nn.Conv2d(1, 1, 1)
    optimizer = torch.optim.AdamW(layer.parameters())
    query = layer(torch.ones(1, 1, 2, 2))[None]
    neighborhood_attention(query, query, query, None, window=1).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _status(key: str) -> float:
    for line in _STATUS.read_text().splitlines():  # such as "VmHWM:   123456 kB"
        if line.startswith(f"{key}:"):
            return 1024 * float(line.split()[1])
    raise OSError(f"{_STATUS} has no {key}")
