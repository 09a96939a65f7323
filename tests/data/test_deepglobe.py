import numpy as np
import pytest
from PIL import Image

from pna.data import DataError, DeepGlobe
from pna.data.deepglobe import LISTS
from pna.data.pairs import read_list
from pna.data.synthetic import write_deepglobe
from pna.labels import DEEPGLOBE


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_deepglobe(tmp_path_factory.mktemp("deepglobe"), size=(8, 8))


@pytest.fixture
def mask(root):
    """A data set, and a function that replaces its first mask."""
    dataset = DeepGlobe(root, "test")
    before = dataset.pairs[0].mask.read_bytes()

    def write(colors):
        Image.fromarray(np.array([colors], dtype=np.uint8)).save(dataset.pairs[0].mask)
        return dataset

    yield write
    dataset.pairs[0].mask.write_bytes(before)


def test_the_published_lists_divide_the_803_labeled_images():
    lists = {split: read_list(LISTS / f"deepglobe_{split}.txt") for split in DeepGlobe.splits}
    assert {split: len(stems) for split, stems in lists.items()} == DeepGlobe.counts
    assert len({stem for stems in lists.values() for stem in stems}) == 803
    # Some of each of the published lists.
    assert {"621206", "605764", "266", "119"} <= {*lists["train"]}
    assert {"455374", "935193", "2774", "96841"} <= {*lists["val"]}
    assert {"857201", "412210", "606", "639004"} <= {*lists["test"]}


def test_images_are_found_from_any_of_their_folders(root, tmp_path):
    (tmp_path / "train").symlink_to(root / "land-train")
    for place in (root, root / "land-train", tmp_path):
        assert DeepGlobe(place, "val").pairs[0].name == "2774"


def test_no_images_name_the_places(tmp_path):
    with pytest.raises(DataError, match=r"looked for \*_sat\.jpg in .*land-train.*train; unpack"):
        DeepGlobe(tmp_path)


def test_validation_is_not_test(root):
    names = {
        split: {pair.name for pair in DeepGlobe(root, split).pairs} for split in ("val", "test")
    }
    assert not names["val"] & names["test"]


def test_channels_are_divided_at_128(mask):
    dataset = mask([(127, 128, 255), (0, 0, 0), (127, 127, 127), (128, 128, 128), (3, 250, 9)])
    labels = dataset.read_mask(dataset.pairs[0])[0].tolist()
    classes = dict(enumerate(DEEPGLOBE.classes)) | {255: "unknown"}
    assert [classes[label] for label in labels] == [
        *("urban", "unknown", "unknown", "barren", "forest")
    ]


def test_the_colors_of_the_classes_are_those_of_the_masks(mask):
    dataset = mask(DEEPGLOBE.colors)
    assert dataset.read_mask(dataset.pairs[0])[0].tolist() == list(range(6))


def test_red_is_no_class(mask):
    dataset = mask([(255, 0, 0), (0, 0, 255)])
    message = (
        r"606_mask\.png has colors \(4 red \+ 2 green \+ 1 blue\) \[4\]: expected 0\.\.3, 5\.\.7"
    )
    with pytest.raises(DataError, match=message):
        dataset.read_mask(dataset.pairs[0])


def test_made_masks_are_as_dirty_as_the_real_ones(root):
    with Image.open(DeepGlobe(root, "test").pairs[0].mask) as stored:
        assert len(np.unique(np.array(stored))) > 50
