"""Calls in turns, threads, and the statistics of rounds."""

import pytest
import torch

from pna.lab.measure.timing import (
    SHORTEST_MS,
    add_rounds,
    exponent,
    interleave,
    quartiles,
    ratios,
    use_threads,
)


def test_calls_take_turns(monkeypatch):
    clock, calls = [0.0], []

    def call(name, seconds):
        calls.append(name)
        clock[0] += seconds

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    times = interleave(
        {"a": lambda: call("a", 0.03), "b": lambda: call("b", 0.05)}, rounds=3, device="cpu"
    )
    assert "".join(calls) == "aabb" + 3 * "ab"
    assert times == {"a": pytest.approx([30.0] * 3), "b": pytest.approx([50.0] * 3)}


def test_quick_calls_are_repeated(monkeypatch):
    clock, calls = [0.0], []

    def call():
        calls.append(0)
        clock[0] += SHORTEST_MS / 1e3 / 8

    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    times = interleave({"quick": call}, rounds=2, device="cpu")
    assert len(calls) == 2 + 2 * 8
    assert times["quick"] == pytest.approx([SHORTEST_MS / 8] * 2)


def test_threads_are_restored():
    before = torch.get_num_threads()
    with use_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with use_threads(None):
        assert torch.get_num_threads() == before


def test_quartiles_are_interpolated():
    assert quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == (2.0, 3.0, 4.0)
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_ratios_are_of_the_same_round():
    base = [10.0, 50.0, 12.0]  # the machine was busy in the second round
    assert ratios([20.0, 100.0, 24.0], base) == [2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match=r"^zip"):
        ratios([1.0, 2.0], [1.0])


def test_sums_are_of_the_same_round():
    assert add_rounds([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]) == [111.0, 222.0]


@pytest.mark.parametrize("power", [0.5, 1.0, 1.05, 2.0])
def test_exponent_of_exact_growth(power):
    pixels = [256**2, 512**2, 1024**2, 4096**2]
    assert exponent(pixels, [3e-4 * x**power for x in pixels]) == pytest.approx(power)


def test_exponent_of_a_constant_part_is_smaller():
    pixels = [256**2, 512**2, 1024**2]
    assert exponent(pixels, [1e5 + x for x in pixels]) < 0.95


@pytest.mark.parametrize("amounts", [[], [4], [4, 4]])
def test_nothing_to_fit(amounts):
    with pytest.raises(ValueError, match=r"^expected two different amounts or more"):
        exponent(amounts, [1.0] * len(amounts))
