import pickle
import shutil

import pytest
import torch

import pna.data.dataset
from file_sizes import too_large_from
from pna.data import DataError, create_dataset
from pna.data.synthetic import write_camvid


@pytest.fixture
def root(tmp_path):
    return write_camvid(tmp_path / "camvid", size=(12, 16))


def cached(root, tmp_path, gigabytes=1.0):
    dataset = create_dataset("camvid", root, "train")
    dataset.cache_pictures(tmp_path / "cache", gigabytes=gigabytes)
    return dataset


def kept(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.*"))


@pytest.fixture
def decoded(monkeypatch):
    """The files that are decoded from now on."""
    names, read = [], pna.data.dataset.read_picture

    def counting(file):
        names.append(file.stem)
        return read(file)

    monkeypatch.setattr(pna.data.dataset, "read_picture", counting)
    return names


def test_a_picture_is_decoded_once_and_is_the_same(root, tmp_path, decoded):
    plain = create_dataset("camvid", root, "train")
    expected = [plain.read(index) for index in range(4)]
    decoded.clear()
    dataset = cached(root, tmp_path)
    for _ in range(3):
        for index, (picture, labels) in enumerate(expected):
            found = dataset.read(index)
            assert torch.equal(found[0], picture)
            assert torch.equal(found[1], labels)
    assert decoded == [pair.name for pair in plain.pairs]
    assert len(kept(tmp_path)) == 4


def test_other_data_sets_and_processes_share_it(root, tmp_path, decoded):
    first = cached(root, tmp_path)
    first.read(0)
    pickle.loads(pickle.dumps(first)).read(0)
    cached(root, tmp_path).read(0)
    assert len(decoded) == 1


def test_a_file_that_has_changed_is_decoded_again(root, tmp_path):
    dataset = cached(root, tmp_path)
    before = dataset.read(0)[0]
    shutil.copy(dataset.pairs[1].picture, dataset.pairs[0].picture)
    after = dataset.read(0)[0]
    assert not torch.equal(after, before)
    assert torch.equal(after, create_dataset("camvid", root, "train").read(0)[0])


def test_beyond_the_bound_pictures_are_decoded_each_time(root, tmp_path, decoded):
    one = 12 * 16 * 3
    for again in range(2):
        dataset = cached(root, tmp_path, gigabytes=(2.5 * one + 2 * 128) / 1e9)  # with two headers
        for index in range(4):
            dataset.read(index)
        assert len(kept(tmp_path)) == 2
        assert len(decoded) == (4, 6)[again]


@pytest.mark.parametrize("content", [b"", b"no array", None])
def test_a_damaged_entry_is_decoded_again(root, tmp_path, content):
    dataset = cached(root, tmp_path)
    before = dataset.read(0)[0]
    (file,) = kept(tmp_path)
    whole = file.read_bytes()
    file.write_bytes(whole[:-7] if content is None else content)
    assert torch.equal(dataset.read(0)[0], before)
    assert file.read_bytes() == whole


def test_a_full_disk_is_named(tmp_path):
    """The system refuses to write, to either cache; nothing half-written is left."""
    root = write_camvid(tmp_path / "large", size=(200, 300))
    dataset = cached(root, tmp_path)
    message = r"the cache .*cache could not be written \(.*\): make room, or leave the cache out"
    with too_large_from(10_000), pytest.raises(OSError, match=message):
        dataset.read(0)
    assert kept(tmp_path) == []
    dataset.read(0)
    assert len(kept(tmp_path)) == 1


def test_a_missing_file_is_named(root, tmp_path):
    dataset = cached(root, tmp_path)
    dataset.pairs[0].picture.unlink()
    with pytest.raises(DataError, match=rf"cannot read the picture .*{dataset.pairs[0].name}"):
        dataset.read(0)


def test_the_bound_must_allow_something(root):
    dataset = create_dataset("camvid", root, "train")
    with pytest.raises(ValueError, match="more than 0 gigabytes, got 0"):
        dataset.cache_pictures("anywhere", gigabytes=0.0)
