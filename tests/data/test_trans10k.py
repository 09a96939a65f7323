import shutil

import numpy as np
import pytest
from PIL import Image

from pna.data import DataError, Trans10k
from pna.data.synthetic import write_trans10k


@pytest.fixture
def root(tmp_path):
    return write_trans10k(tmp_path, size=(8, 10))


def names(root, split):
    return [pair.name for pair in Trans10k(root, split).pairs]


def test_easy_and_hard_make_up_a_split(root):
    for split in ("val", "test"):
        easy, hard = names(root, f"{split}-easy"), names(root, f"{split}-hard")
        assert (len(easy), len(hard)) == (2, 1)
        assert names(root, split) == easy + hard
    assert Trans10k(root, "val").pairs[0].image == root / "validation/easy/images/5.jpg"
    assert Trans10k(root, "val").pairs[0].mask == root / "validation/easy/masks/5_mask.png"


def test_training_images_may_be_told_apart_too(root):
    before = names(root, "train")
    (root / "train").rename(root / "old")
    shutil.copytree(root / "old", root / "train" / "easy")
    shutil.copytree(root / "old", root / "train" / "hard")
    assert names(root, "train") == before * 2


def test_merged_folders_are_read_as_well(root):
    shutil.copytree(root / "test" / "easy", root / "merged")
    shutil.rmtree(root / "test")
    (root / "merged").rename(root / "test")
    assert len(names(root, "test")) == 2


def test_a_missing_half_is_named(root):
    shutil.rmtree(root / "test" / "hard")
    with pytest.raises(DataError, match=r"no folder .*test.hard.images"):
        Trans10k(root, "test")
    assert len(names(root, "test-easy")) == 2


def test_a_missing_split_says_what_was_expected(root):
    shutil.rmtree(root / "validation")
    with pytest.raises(
        DataError, match=r"no split 'val': expected .*validation to hold images and"
    ):
        Trans10k(root, "val")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_one_full_channel_is_a_thing_three_are_stuff(root, mode):
    dataset = Trans10k(root, "train")
    colors = [(0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]
    mask = Image.fromarray(np.array([colors], dtype=np.uint8)).convert(mode)
    mask.save(dataset.pairs[0].mask)
    assert dataset.read_mask(dataset.pairs[0]).tolist() == [[0, 1, 1, 1, 2]]


@pytest.mark.parametrize("color", [(255, 255, 0), (254, 0, 0)])
def test_another_color_names_the_mask(root, color):
    dataset = Trans10k(root, "train")
    Image.new("RGB", (10, 8), color).save(dataset.pairs[0].mask)
    message = rf"1_mask\.png has sums of red, green and blue \[{sum(color)}\]: expected 0, 255, 765"
    with pytest.raises(DataError, match=message):
        dataset[0]


def test_the_background_is_trained_but_not_in_the_mean(root):
    dataset = Trans10k(root, "train")
    assert dataset.labels.scored == (1, 2)
    assert (dataset[0].labels == 0).any()
