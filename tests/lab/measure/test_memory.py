"""Peak memory, measured in another process."""

from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest

from pna.lab.measure import memory
from pna.lab.measure.workloads import Workload, build

LITE = Workload("lite", "inference", (64, 64), 1, "cpu")


@pytest.mark.skipif(not memory._STATUS.exists(), reason="only Linux has a process's peak")
@pytest.mark.slow
def test_a_peak_holds_at_least_the_weights():
    peak = memory.peak_memory(LITE)
    weights = sum(4 * p.numel() for p in build(LITE).parameters()) / 1e6
    assert peak.why_not is None
    # Not a hundred times as much: this process's own memory is not in it.
    assert weights < peak.megabytes < 20 * weights


@pytest.mark.slow
@pytest.mark.skipif(not memory._STATUS.exists(), reason="only Linux has a process's peak")
def test_training_holds_gradients_and_the_optimizer_too():
    training = memory.peak_memory(replace(LITE, task="training", batch=2))
    weights = sum(4 * p.numel() for p in build(LITE).parameters()) / 1e6
    assert training.megabytes > 4 * weights


def test_wrong_names_come_back():
    with pytest.raises(ValueError, match=r"^no model 'soup'"):
        memory.peak_memory(replace(LITE, model="soup"))


def test_a_process_that_is_killed_is_a_result(monkeypatch):
    class Killed:
        def __init__(self, *args, **kwargs): ...
        def __enter__(self):
            return self

        def __exit__(self, *args): ...
        def submit(self, *args):
            return self

        def result(self):
            raise BrokenProcessPool("killed")

    monkeypatch.setattr(memory, "ProcessPoolExecutor", Killed)
    assert memory.peak_memory(LITE).why_not.startswith("the system ended the process")
