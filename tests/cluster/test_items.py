"""Inputs of a cluster's run: paths, lists, Parquet files, shards."""

import pytest

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
