import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pna.data import (
    Augmented,
    Batch,
    CamVid,
    StepBatchSampler,
    train_loader,
    train_transform,
)
from pna.data.randomness import mixed_seed, seeded
from pna.data.synthetic import write_camvid


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = write_camvid(tmp_path_factory.mktemp("camvid"), num_train=5, size=(40, 56))
    return CamVid(root, "train")


@pytest.fixture
def augmented(dataset):
    return Augmented(dataset, train_transform((32, 48)), seed=7)


def states():
    legacy = np.random.get_state()  # noqa: NPY002  # the global state that must not move
    return torch.get_rng_state().tolist(), legacy[1].tolist(), random.getstate()


def same(a, b):
    return a.name == b.name and torch.equal(a.image, b.image) and torch.equal(a.labels, b.labels)


def test_a_sample_is_the_same_whenever_it_is_asked(augmented):
    keys = [(epoch, index) for epoch in range(2) for index in range(5)]
    first = {key: augmented[key] for key in keys}
    torch.manual_seed(123)
    for key in reversed(keys):
        assert same(augmented[key], first[key])


def test_epochs_samples_and_seeds_differ(dataset, augmented):
    other = Augmented(dataset, augmented.transform, seed=8)
    images = [augmented[0, 0], augmented[1, 0], augmented[0, 1], other[0, 0]]
    for i, one in enumerate(images):
        assert not any(torch.equal(one.image, two.image) for two in images[:i])


def test_samples_are_plain_tensors(augmented):
    sample = augmented[0, 3]
    assert type(sample.image) is torch.Tensor
    assert type(sample.labels) is torch.Tensor
    assert sample.image.dtype == torch.float32
    assert sample.labels.dtype == torch.int64
    assert sample.name == "0001TP_000003"
    assert len(augmented) == 5


def test_global_randomness_is_left_alone(augmented):
    before = states()
    sampler = StepBatchSampler(5, 2, seed=1, num_steps=3)
    for _ in train_loader(augmented, sampler, num_workers=0):
        pass
    assert states() == before


def test_randomness_is_restored_after_an_error():
    before = states()
    with pytest.raises(ZeroDivisionError), seeded(3):
        _ = torch.rand(2) / (1 // 0)
    assert states() == before


def test_workers_change_nothing(augmented):
    sampler = StepBatchSampler(5, 2, seed=1, num_steps=4)
    alone = list(train_loader(augmented, sampler, num_workers=0))
    before = states()
    shared = list(train_loader(augmented, sampler, num_workers=2))
    assert states() == before
    assert len(alone) == 4
    for one, two in zip(alone, shared, strict=True):
        assert same(one, two)


def test_batches_hold_what_the_sampler_says(augmented):
    sampler = StepBatchSampler(5, 3, seed=1, num_steps=2)
    for keys, batch in zip(sampler, train_loader(augmented, sampler, num_workers=0), strict=True):
        assert isinstance(batch, Batch)
        assert batch.image.shape == (3, 3, 32, 48)
        assert batch.labels.shape == (3, 32, 48)
        assert batch.name == [augmented[key].name for key in keys]
        assert torch.equal(batch.image[1], augmented[keys[1]].image)


def test_a_sampler_for_more_samples_is_an_error(augmented):
    sampler = StepBatchSampler(6, 2, seed=1, num_steps=1)
    with pytest.raises(ValueError, match="draws from 6 samples, the data set has 5"):
        train_loader(augmented, sampler, num_workers=0)


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=3))
def test_seeds_are_told_apart(numbers):
    assert mixed_seed("sample", *numbers) == mixed_seed("sample", *numbers)
    assert mixed_seed("sample", *numbers) != mixed_seed("order", *numbers)
    assert mixed_seed("sample", *numbers) != mixed_seed("sample", *numbers, 0)
    assert 0 <= mixed_seed("order", *numbers) < 2**64


def test_neighboring_keys_have_different_seeds():
    keys = list(itertools.product(range(5), range(9), range(99)))
    assert len({mixed_seed("sample", *key) for key in keys}) == len(keys)
