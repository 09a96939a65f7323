from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pna.data import StepBatchSampler


@st.composite
def runs(draw):
    world_size = draw(st.integers(1, 4))
    return {
        "num_samples": draw(st.integers(1, 30)),
        "batch_size": world_size * draw(st.integers(1, 8)),
        "seed": draw(st.integers(0, 2**40)),
        "num_steps": draw(st.integers(0, 12)),
    }, world_size


def stream(options, **more):
    return list(StepBatchSampler(**{**options, **more}))


@given(runs())
def test_ranks_together_are_one_process(run):
    options, world_size = run
    shares = [stream(options, rank=rank, world_size=world_size) for rank in range(world_size)]
    joined = [[key for part in step for key in part] for step in zip(*shares, strict=True)]
    assert joined == stream(options)


@given(runs(), st.data())
def test_resuming_continues_the_stream(run, data):
    options, _ = run
    done = data.draw(st.integers(0, options["num_steps"]))
    assert stream(options, start_step=done) == stream(options)[done:]


@given(runs())
def test_every_epoch_shows_every_sample_once(run):
    options, _ = run
    keys = [key for step in stream(options) for key in step]
    assert len(keys) == options["batch_size"] * options["num_steps"]
    num_whole_epochs = len(keys) // options["num_samples"]
    counts = Counter(keys)
    assert set(counts.values()) <= {1}
    for epoch in range(num_whole_epochs):
        assert {(epoch, index) for index in range(options["num_samples"])} <= counts.keys()
    assert max((epoch for epoch, _ in keys), default=0) <= num_whole_epochs


@given(runs(), st.integers(1, 4))
def test_micro_batches_join_to_the_step(run, parts):
    options, _ = run
    options["batch_size"] *= parts
    micro = stream(
        options, batch_size=options["batch_size"] // parts, num_steps=options["num_steps"] * parts
    )
    joined = [list(chain(*micro[i : i + parts])) for i in range(0, len(micro), parts)]
    assert joined == stream(options)


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(StepBatchSampler(20, 4, seed=seed, num_steps=1).order(epoch))
        for seed in range(5)
        for epoch in range(5)
    }
    assert len(orders) == 25


def test_the_order_is_pinned():
    """A change of the order would silently break every resumed run: it must be on purpose."""
    assert StepBatchSampler(8, 4, seed=3, num_steps=1).order(2) == [7, 2, 6, 4, 3, 0, 1, 5]


def test_length_and_repeated_iteration():
    sampler = StepBatchSampler(5, 2, seed=0, start_step=3, num_steps=7)
    assert len(sampler) == 4
    assert list(sampler) == list(sampler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "no data to sample"),
        ({"batch_size": 0}, "positive multiple of world_size"),
        ({"batch_size": 3, "world_size": 2}, "batch_size=3, world_size=2"),
        ({"rank": 2, "world_size": 2}, "rank=2 of world_size=2"),
        ({"rank": -1}, "rank=-1"),
        ({"start_step": -1}, "start_step=-1, num_steps=1"),
        ({"start_step": 2}, "start_step=2, num_steps=1"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        StepBatchSampler(
            **{"num_samples": 4, "batch_size": 4, "seed": 0, "num_steps": 1, **options}
        )
