import os
import pickle

import numpy as np
import pytest
from PIL import Image

from pna.data import DataError, DeepGlobe, Folder, create_dataset
from pna.data.synthetic import write_camvid, write_deepglobe, write_folder
from pna.labels import LabelSpace, generic

THREE = generic(3)


@pytest.fixture
def cached(tmp_path):
    """A data set with a cache."""
    root = write_camvid(tmp_path / "camvid", size=(12, 16))
    return create_dataset("camvid", root, "train", label_cache=tmp_path / "cache")


def kept(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.png"))


def count_conversions(dataset, monkeypatch):
    """The masks that are converted from now on."""
    converted = []
    read_labels = type(dataset).read_labels

    def counting(self, pair):
        converted.append(pair.name)
        return read_labels(self, pair)

    monkeypatch.setattr(type(dataset), "read_labels", counting)
    return converted


def test_a_mask_is_converted_once(cached, tmp_path, monkeypatch):
    converted = count_conversions(cached, monkeypatch)
    first = [cached.read(index)[1].numpy() for index in range(4)]
    again = [cached.read(index)[1].numpy() for index in range(4)]
    assert converted == [pair.name for pair in cached.pairs]
    assert len(kept(tmp_path)) == 4
    np.testing.assert_array_equal(first, again)
    plain = create_dataset("camvid", tmp_path / "camvid", "train")
    np.testing.assert_array_equal(again, [plain.read(index)[1].numpy() for index in range(4)])


def test_a_mask_that_has_changed_is_converted_again(cached):
    before = cached.read(0)[1]
    stat = cached.pairs[0].mask.stat()
    with Image.open(cached.pairs[0].mask) as mask:
        changed = 10 - np.minimum(np.array(mask), 10)
    Image.fromarray(changed).save(cached.pairs[0].mask)
    os.utime(cached.pairs[0].mask, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # times tell nothing
    after = cached.read(0)[1]
    np.testing.assert_array_equal(after, changed)
    assert not np.array_equal(before, after)


def test_other_classes_or_another_storage_find_nothing_old(tmp_path):
    root = write_folder(tmp_path / "own", THREE, size=(12, 16), masks="color")
    swapped = LabelSpace(
        "swapped", THREE.classes, (THREE.colors[1], THREE.colors[0], THREE.colors[2])
    )
    for labels in (THREE, swapped):
        dataset = Folder(root, labels=labels, masks="color")
        expected = dataset.read(0)[1]
        dataset.cache_labels(tmp_path / "cache")
        np.testing.assert_array_equal(dataset.read(0)[1], expected)
    assert len(kept(tmp_path)) == 2
    dataset = Folder(root, labels=THREE, masks="index")
    dataset.cache_labels(tmp_path / "cache")
    with pytest.raises(DataError, match="has mode RGB"):
        dataset.read(0)


def test_a_damaged_label_map_is_made_anew(cached, tmp_path):
    before = cached.read(0)[1]
    [file] = kept(tmp_path)
    for content in (b"", file.read_bytes()[:40]):
        file.write_bytes(content)
        np.testing.assert_array_equal(cached.read(0)[1], before)
    with Image.open(file) as mask:
        assert mask.size == (16, 12)


def test_equal_masks_share_a_label_map(tmp_path):
    root = write_deepglobe(tmp_path / "dg", splits=["test"], num_scenes=2, size=(8, 8))
    dataset = DeepGlobe(root, "test")
    dataset.cache_labels(tmp_path / "cache")
    for index in range(10):
        dataset.read(index)
    assert len(kept(tmp_path)) == 2


def test_errors_are_those_of_the_mask(cached, tmp_path):
    Image.new("L", (16, 12), 77).save(cached.pairs[0].mask)
    with pytest.raises(DataError, match=rf"{cached.pairs[0].mask.name} has labels \[77\]"):
        cached.read(0)
    cached.pairs[1].mask.unlink()
    with pytest.raises(DataError, match=f"cannot read the mask .*{cached.pairs[1].mask.name}"):
        cached.read(1)
    assert not kept(tmp_path)


def test_a_failed_write_leaves_nothing_behind(cached, tmp_path, monkeypatch):
    def full(self, *args, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(OSError, match="no space left"):
        cached.read(0)
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]


def test_a_cache_travels_to_other_processes(cached, tmp_path):
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cached)).read(2)[1], cached.read(2)[1])
    assert len(kept(tmp_path)) == 1
