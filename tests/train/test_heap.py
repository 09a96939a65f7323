import platform
import resource
import subprocess
import sys

import pytest

STEP = """
import resource, sys
import torch
from pna.train.heap import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def step():
    return [torch.ones(12_000_000) for _ in range(3)]  # 3 x 48 MB, freed when it returns

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(min(faults() for _ in range(8)))  # the heap may still grow in the first ones
"""


def faults(mode: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", STEP, mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_a_later_step_takes_no_new_pages() -> None:
    pages = 3 * 48_000_000 // resource.getpagesize()
    assert faults("keep") < 0.1 * pages
    assert faults("leave") > 0.3 * pages  # huge pages may make them fewer


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from pna.train.heap import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    keep_freed_memory.cache_clear()
    assert not keep_freed_memory()
    keep_freed_memory.cache_clear()
