import pytest
import torch

from pna.data import (
    Augmented,
    CamVid,
    DataError,
    StepBatchSampler,
    train_loader,
    train_transform,
)
from pna.data.augmented import SUBSTITUTES
from pna.data.synthetic import write_camvid

NUM_IMAGES = 12
BAD = (2, 7)


@pytest.fixture
def dataset(tmp_path):
    """Twelve images, one of them cut off, and one mask with a label of no class."""
    dataset = CamVid(write_camvid(tmp_path, num_train=NUM_IMAGES, size=(24, 32)), "train")
    image = dataset.pairs[BAD[0]].image
    image.write_bytes(image.read_bytes()[:300])
    mask = dataset.pairs[BAD[1]].mask
    mask.write_bytes(image.read_bytes())
    return dataset


@pytest.fixture
def skipping(dataset):
    return Augmented(dataset, train_transform((16, 24)), seed=7, skip_bad=True)


def test_a_bad_file_ends_it_by_default(dataset):
    augmented = Augmented(dataset, train_transform((16, 24)), seed=7)
    for index in BAD:
        with pytest.raises(DataError, match=dataset.pairs[index].name):
            augmented[0, index]


def test_another_sample_stands_in_and_says_for_what(dataset, skipping):
    for index in range(NUM_IMAGES):
        sample = skipping[0, index]
        if index in BAD:
            assert dataset.pairs[index].name in sample.unreadable[0]
            assert sample.name not in {dataset.pairs[bad].name for bad in BAD}
        else:
            assert (sample.name, sample.unreadable) == (dataset.pairs[index].name, [])


def test_the_others_are_as_without_skipping(dataset, skipping):
    plain = Augmented(dataset, skipping.transform, seed=7)
    for index in set(range(NUM_IMAGES)) - {*BAD}:
        assert torch.equal(skipping[3, index].image, plain[3, index].image)


def test_what_stands_in_is_a_function_of_seed_epoch_and_index(dataset, skipping):
    again = Augmented(dataset, skipping.transform, seed=7, skip_bad=True)
    for epoch in range(4):
        assert torch.equal(skipping[epoch, 2].image, again[epoch, 2].image)
        assert skipping[epoch, 2].name == again[epoch, 2].name
    assert len({skipping[epoch, 2].name for epoch in range(8)}) > 2
    other = Augmented(dataset, skipping.transform, seed=8, skip_bad=True)
    assert [other[e, 2].name for e in range(8)] != [skipping[e, 2].name for e in range(8)]


def test_workers_change_nothing(skipping):
    sampler = StepBatchSampler(NUM_IMAGES, 4, seed=1, num_steps=6)
    alone = list(train_loader(skipping, sampler, num_workers=0))
    shared = list(train_loader(skipping, sampler, num_workers=2))
    assert [batch.name for batch in alone] == [batch.name for batch in shared]
    assert [batch.unreadable for batch in alone] == [batch.unreadable for batch in shared]
    for one, two in zip(alone, shared, strict=True):
        assert torch.equal(one.image, two.image)
    found = {message for batch in alone for message in batch.unreadable}
    assert len(found) == len(BAD)  # two epochs, and each is listed whenever it comes


def test_a_data_set_of_bad_files_is_an_error(dataset, skipping):
    for pair in dataset.pairs:
        pair.mask.unlink()
    message = (
        rf"{1 + SUBSTITUTES} samples in a row can't be read.*pna data check.*The first: .*000004"
    )
    with pytest.raises(DataError, match=message):
        skipping[0, 4]
