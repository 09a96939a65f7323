import numpy as np
import pytest

from pna.data import CocoStuff10k, DataError
from pna.data.synthetic import write_cocostuff10k
from pna.data.synthetic.scene import save_mat
from pna.labels import COCO_STUFF

# From the owners' list of labels.
NAMES = {1: "person", 11: "fire hydrant", 13: "stop sign", 25: "giraffe", 27: "backpack"}
NAMES |= {90: "toothbrush", 92: "banner", 124: "grass", 157: "sky-other", 182: "wood"}


@pytest.fixture
def dataset(tmp_path):
    return CocoStuff10k(write_cocostuff10k(tmp_path, size=(4, 5)), "test")


@pytest.mark.parametrize("dtype", [np.uint8, np.float64])  # MATLAB's own numbers are double
def test_owners_labels_become_classes(dataset, dtype):
    labels = np.array([[*NAMES, *[0] * 10]], dtype=dtype).reshape(4, 5)
    save_mat(dataset.pairs[0].mask, {"S": labels})
    classes = dataset[0].labels.flatten().tolist()
    assert [COCO_STUFF.classes[index] for index in classes[:10]] == list(NAMES.values())
    assert classes[10:] == [255] * 10


def test_every_class_has_a_label(dataset):
    used = [
        label for label in range(183) if label not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)
    ]
    save_mat(dataset.pairs[0].mask, {"S": np.array([used], dtype=np.uint8)})
    assert dataset.read_mask(dataset.pairs[0])[0].tolist() == [255, *range(171)]


@pytest.mark.parametrize("label", [12, 91, 183])
def test_a_label_that_is_not_used_names_the_mask(dataset, label):
    save_mat(dataset.pairs[0].mask, {"S": np.full((4, 5), label, dtype=np.uint8)})
    message = rf"000005\.mat has labels \[{label}\]: expected 0\.\.11, 13\.\.25, .* 92\.\.182"
    with pytest.raises(DataError, match=message):
        dataset[0]


def test_lists_make_the_split(dataset):
    root = dataset.pairs[0].image.parents[1]
    assert [pair.name[-2:] for pair in dataset.pairs] == ["05", "06"]
    (root / "imageLists" / "test.txt").write_text("COCO_train2014_000000000002\n")
    assert [pair.name[-2:] for pair in CocoStuff10k(root, "test").pairs] == ["02"]


def test_without_scipy_the_extra_is_named(dataset, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        DataError, match=r"COCO-Stuff 10k is published in .*pip install 'pna\[mat\]"
    ):
        CocoStuff10k(dataset.pairs[0].image.parents[1])
