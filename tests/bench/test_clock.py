"""Turns, devices and threads."""

import time

import pytest
import torch

from pna.bench.clock import check_device, interleave, is_out_of_memory, use_threads


def test_calls_take_turns():
    made = []

    def call(name):
        made.append(name)
        time.sleep(0.025)  # so long that once a turn is enough

    times = interleave({"a": lambda: call("a"), "b": lambda: call("b")}, rounds=3, device="cpu")
    assert "".join(made) == "aabb" + 3 * "ab"
    assert [len(found) for found in times.values()] == [3, 3]
    assert all(ms >= 25 for found in times.values() for ms in found)


def test_quick_calls_are_repeated():
    made = []
    times = interleave({"quick": lambda: made.append(time.sleep(0.002))}, rounds=2, device="cpu")
    assert len(made) > 2 + 2  # two before, then more than one in each turn
    assert all(ms >= 2 for ms in times["quick"])


@pytest.mark.parametrize("name", ["gpu", "meta", "mps", ""])
def test_unknown_device(name):
    with pytest.raises(ValueError, match="expected the device cpu, cuda or cuda:N, got"):
        check_device(name)


def test_absent_device():
    with pytest.raises(ValueError, match="PyTorch sees .* CUDA devices here"):
        check_device("cuda:99")


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with use_threads(None):
        assert torch.get_num_threads() == before


def test_what_means_out_of_memory():
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60)
    assert is_out_of_memory(found.value)
    assert is_out_of_memory(torch.OutOfMemoryError("full"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
