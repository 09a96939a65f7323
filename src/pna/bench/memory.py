"""Peak memory of a piece of work, in a process of its own: nothing else is in the way.

On a CPU it is the highest resident memory of the process above what it had, libraries loaded,
before the model was built; on CUDA the highest that PyTorch had allocated in a call. Both include
weights, gradients and the optimizer's state.
"""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import timm  # noqa: F401  # loaded before the baseline is taken
import torch
from torch import nn

from pna.bench.clock import is_out_of_memory, use_threads
from pna.bench.workloads import Workload, prepare

_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Peak:
    """What a process of its own found.

    Attributes:
        megabytes: 10^6 bytes; None if the work couldn't be done, or the system doesn't say.
        why_not: Why the work couldn't be done.
    """

    megabytes: float | None = None
    why_not: str | None = None


def peak_memory(work: Workload) -> Peak:
    """Do the work in a new process, on as many threads as this one has, and watch its memory.

    Raises:
        ValueError: There is no such model or encoder.
    """
    # Spawned: a forked process would begin with all the memory of this one.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(_watch, work, torch.get_num_threads()).result()
        except BrokenProcessPool:
            return Peak(why_not="the system ended the process, most likely for want of memory")


def _watch(work: Workload, threads: int) -> Peak:
    with use_threads(threads):
        try:
            on_cuda = torch.device(work.device).type == "cuda"
            return Peak(_cuda_peak(work) if on_cuda else _resident_peak(work))
        except RuntimeError as error:
            if is_out_of_memory(error):
                return Peak(why_not="out of memory")
            raise


def _cuda_peak(work: Workload) -> float:
    call = prepare(work)
    call()  # what compiling or choosing algorithms takes for a while isn't counted
    torch.cuda.reset_peak_memory_stats(work.device)
    call()
    torch.cuda.synchronize(work.device)
    return torch.cuda.max_memory_allocated(work.device) / 1e6


def _resident_peak(work: Workload) -> float | None:
    if not _STATUS.exists():  # only Linux says
        prepare(work)()
        return None
    _load_lazy_parts()
    before = _status("VmRSS")
    call = prepare(work)
    call()
    call()
    # Not ru_maxrss: a process inherits that from the one that started it.
    return (_status("VmHWM") - before) / 1e6


def _load_lazy_parts() -> None:
    """Take a training step of next to nothing: PyTorch loads parts of itself on the way."""
    layer = nn.Conv2d(1, 1, 1)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 1, 1, 1)).sum().backward()
    optimizer.step()


def _status(key: str) -> float:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * float(line.split()[1])
    raise OSError(f"{_STATUS} has no {key}")
