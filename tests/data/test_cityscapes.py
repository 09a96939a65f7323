import numpy as np
import pytest
from PIL import Image

from pna.data import Cityscapes, DataError
from pna.data.synthetic import write_cityscapes
from pna.labels import CITYSCAPES

# The owners' table: label id to the name of the class, for the ids that are scored.
NAMES = {
    7: "road",
    8: "sidewalk",
    11: "building",
    17: "pole",
    19: "traffic light",
    21: "vegetation",
}
NAMES |= {
    23: "sky",
    24: "person",
    26: "car",
    28: "bus",
    31: "train",
    32: "motorcycle",
    33: "bicycle",
}


@pytest.fixture
def root(tmp_path):
    return write_cityscapes(tmp_path, size=(16, 40))


def test_pairs_are_found_in_every_city(root):
    pairs = Cityscapes(root, "train").pairs
    assert [pair.name for pair in pairs] == [
        "aachen_000000_000019",
        "aachen_000002_000019",
        "zurich_000001_000019",
        "zurich_000003_000019",
    ]
    assert pairs[2].image == (
        root / "leftImg8bit/train/zurich/zurich_000001_000019_leftImg8bit.png"
    )
    assert pairs[2].mask == root / "gtFine/train/zurich/zurich_000001_000019_gtFine_labelIds.png"


def test_label_ids_become_train_ids(root):
    dataset = Cityscapes(root, "val")
    ids = np.arange(40, dtype=np.uint8) % 34
    Image.fromarray(np.tile(ids, (16, 1))).save(dataset.pairs[0].mask)
    labels = dataset[0].labels[0].tolist()
    for label_id, label in zip(ids.tolist(), labels, strict=True):
        if label_id in NAMES:
            assert CITYSCAPES.classes[label] == NAMES[label_id]
    assert sorted({*labels} - {255}) == list(range(19))
    assert [
        label_id for label_id, label in zip(ids[:34], labels, strict=False) if label == 255
    ] == [
        *range(7),
        *(9, 10, 14, 15, 16, 18, 29, 30),
    ]


def test_an_unknown_label_id_names_the_mask(root):
    dataset = Cityscapes(root, "val")
    Image.new("L", (40, 16), 34).save(dataset.pairs[0].mask)
    message = r"aachen_000000_000019_gtFine_labelIds\.png has label ids \[34\]: expected 0\.\.33"
    with pytest.raises(DataError, match=message):
        dataset[0]


def test_other_files_beside_the_masks_do_not_matter(root):
    folder = root / "gtFine/train/aachen"
    for kind in ("color.png", "instanceIds.png", "polygons.json"):
        (folder / f"aachen_000000_000019_gtFine_{kind}").touch()
    (root / "gtFine/train/license.txt").touch()
    assert len(Cityscapes(root, "train")) == 4


@pytest.mark.parametrize("place", ["leftImg8bit", "gtFine"])
def test_a_city_without_partner_is_named(root, place):
    (root / place / "train" / "ulm").mkdir()
    with pytest.raises(DataError, match="no folder .*ulm"):
        Cityscapes(root, "train")


def test_a_split_without_cities_is_an_error(root):
    for place in ("leftImg8bit", "gtFine"):
        (root / place / "test").rename(root / place / "old")
        (root / place / "test").mkdir()
    with pytest.raises(DataError, match=r"no folder of a city in .*leftImg8bit.test"):
        Cityscapes(root, "test")


def test_nothing_is_scored_in_the_test_set(root):
    assert (Cityscapes(root, "test")[0].labels == 255).all()
