"""Work in PyTorch's own threads, or in a pool where its OpenMP cannot be reached."""

import threading

import pytest

from pna.ops import threads


@pytest.fixture(params=["openmp", "pool"])
def way(request, monkeypatch):
    if request.param == "pool":
        monkeypatch.setattr(threads, "_openmp", lambda: None)
    elif threads._openmp() is None:
        pytest.skip("PyTorch's OpenMP library has no GOMP_parallel here")
    return request.param


@pytest.mark.parametrize("workers", [0, 1, 2, 7])
def test_every_number_once(way, workers):
    seen = []
    threads.run_in_threads(seen.append, workers)
    assert sorted(seen) == list(range(workers))


def test_at_the_same_time(way):
    both = threading.Barrier(2, timeout=30)
    threads.run_in_threads(lambda _: both.wait(), 2)


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_comes_out(way, workers):
    def work(number):
        if number == workers - 1:
            raise ValueError(f"worker {number} failed")

    with pytest.raises(ValueError, match=f"worker {workers - 1} failed"):
        threads.run_in_threads(work, workers)
