import numpy as np
import pytest

from pna.data import VOC2012, DataError
from pna.data.pairs import read_list
from pna.data.synthetic import write_voc
from pna.data.synthetic.scene import save_mat

LISTS = "VOCdevkit/VOC2012/ImageSets/Segmentation"


@pytest.fixture
def root(tmp_path):
    return write_voc(tmp_path, num_train=4, num_val=3, num_extra=3, size=(8, 12), augmented="mat")


def of_sbd(root):
    lists = root / "benchmark_RELEASE" / "dataset"
    return {*read_list(lists / "train.txt"), *read_list(lists / "val.txt")}


def test_the_augmented_set_is_all_training_images_and_sbd_less_validation(root):
    train, val = (set(read_list(root / LISTS / f"{split}.txt")) for split in ("train", "val"))
    assert of_sbd(root) & val  # else nothing would have to be taken out
    names = [pair.name for pair in VOC2012(root, "trainaug").pairs]
    assert names == sorted((train | of_sbd(root)) - val)
    assert len(names) == 7


def test_masks_are_voc_s_own_where_it_has_any(root):
    train = read_list(root / LISTS / "train.txt")
    assert of_sbd(root) & {*train}  # else there would be nothing to choose
    for pair in VOC2012(root, "trainaug").pairs:
        home = "SegmentationClass" if pair.name in train else "cls"
        assert pair.mask.parent.name == home
    assert {pair.mask.suffix for pair in VOC2012(root, "trainaug").pairs} == {".mat", ".png"}


def test_both_kinds_of_masks_are_read(root, tmp_path_factory):
    """The same scenes, converted beforehand."""
    converted = write_voc(
        tmp_path_factory.mktemp("png"), num_train=4, num_val=3, num_extra=3, size=(8, 12)
    )
    original, expected = VOC2012(root, "trainaug"), VOC2012(converted, "trainaug")
    for index, pair in enumerate(original.pairs):
        assert pair.name == expected.pairs[index].name
        np.testing.assert_array_equal(original[index].labels, expected[index].labels)


@pytest.mark.parametrize("place", ["VOCdevkit", "VOCdevkit/VOC2012"])
def test_sbd_may_lie_in_or_beside_voc(root, place):
    (root / "benchmark_RELEASE").rename(root / place / "benchmark_RELEASE")
    assert len(VOC2012(root, "trainaug")) == 7


def test_converted_masks_come_first(root):
    masks = root / "VOCdevkit/VOC2012/SegmentationClassAug"
    masks.mkdir()
    with pytest.raises(DataError, match=r"cannot read the split list .*trainaug\.txt"):
        VOC2012(root, "trainaug")


def test_neither_kind_names_both(root):
    (root / "benchmark_RELEASE").rename(root / "SBD")
    message = r"no labels for 'trainaug': neither .*SegmentationClassAug .* nor benchmark_RELEASE"
    with pytest.raises(DataError, match=message):
        VOC2012(root, "trainaug")


def test_a_missing_mat_is_named(root):
    name = sorted(of_sbd(root))[-1]
    (root / "benchmark_RELEASE/dataset/cls" / f"{name}.mat").unlink()
    with pytest.raises(DataError, match=f"no mask for '{name}'"):
        VOC2012(root, "trainaug")


def test_a_label_of_no_class_names_the_mat(root):
    dataset = VOC2012(root, "trainaug")
    save_mat(dataset.pairs[-1].mask, {"GTcls": {"Segmentation": np.full((8, 12), 21, np.uint8)}})
    with pytest.raises(DataError, match=r"2007_000009\.mat has labels \[21\]: allowed are 0\.\.20"):
        dataset[len(dataset) - 1]


def test_without_scipy_the_extra_is_named(root, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"SBD is published in .*pip install 'pna\[mat\]'"):
        VOC2012(root, "trainaug")
    assert len(VOC2012(root, "train")) == 4  # needs none
