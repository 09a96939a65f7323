"""Inputs of a cluster's run: paths, lists, Parquet files, shards."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pna.cluster import items
from pna.cluster.items import find_inputs, result_name
from pna.errors import MissingFileError, PnaError


def test_files_folders_patterns_and_lists(tmp_path):
    for name in ("a.png", "b.jpg", "c.parquet", "d.tar", "notes.md", ".hidden.png", "in/e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_inputs([tmp_path])
    assert [p.name for p in found.images] == ["a.png", "b.jpg"]
    assert [p.name for p in found.parquet] == ["c.parquet"]
    assert [p.name for p in found.shards] == ["d.tar"]
    assert found.total is None
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a.png\n\n{tmp_path}/missing.png\n")
    # Each once, in the order given; a listed file need not be there.
    found = find_inputs([tmp_path / "list.txt", f"{tmp_path}/**/*.png"])
    assert [p.name for p in found.images] == ["a.png", "missing.png", "e.png"]
    assert found.total == 3


@pytest.mark.parametrize("text", ["nothing", "nothing/*.png", "."])
def test_nothing(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match="no images at"):
        find_inputs([text])
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(PnaError, match=r"list\.txt is empty"):
        find_inputs(["list.txt"])


def test_results_of_equal_stems_keep_apart():
    names = [result_name(f"/{folder}/street.jpg") for folder in "abc"]
    assert len(set(names)) == 3
    assert all(name.split("/")[1].startswith("street-") for name in names)
    assert result_name("/shards/s.tar#photos/0001")[3:].startswith("0001-")
    assert len(result_name("/" + 300 * "x" + ".png")) < 120


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"name": ["a", "b", "a"], "bytes": [b"", b"", b""]}, "several rows have the name 'a'"),
        ({"name": ["a", None], "bytes": [b"", b""]}, "1 rows have nothing in the column name"),
        ({"image_path": [1, 2]}, "expected text in the column image_path, got int64"),
        ({"image_path": ["a.jpg", None]}, "1 rows have nothing in the column image_path"),
        ({"name": ["a"]}, "expected the columns name and bytes, or image_path, got name"),
    ],
)
def test_rows_that_tell_no_image(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(PnaError, match=rf"a\.parquet: {message}"):
        items._check_columns(tmp_path / "a.parquet")


def shard(path, names, keep=None):
    with tarfile.open(path, "w") as file:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 700
            file.addfile(member, io.BytesIO(bytes(700)))
    path.write_bytes(path.read_bytes()[:keep])
    return pa.table({"source": [str(path)]})


def read(batch):
    return [row for table in items._of_shards(batch) for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("keep", "whole"),
    [(None, 3), (100, 0), (512 + 300, 0), (1536 + 100, 1), (1536 + 512 + 200, 1)],
    ids=["whole", "first header", "first image", "second header", "second image"],
)
def test_a_shard_that_is_cut_off_is_named(tmp_path, keep, whole):
    path = tmp_path / "s.tar"
    rows = read(shard(path, ["a.png", "b.jpg", "c.png"], keep))
    assert [row["source"] for row in rows[:whole]] == [
        f"{path}#{n}" for n in ("a.png", "b.jpg", "c.png")
    ][:whole]
    rest = [(row["source"], row["content"]) for row in rows[whole:]]
    assert rest == ([] if keep is None else [(str(path), None)])
