"""Files that are there whole or not at all."""

import os
from pathlib import Path

import pytest

from disk_full import too_large_from
from pna.files import replacing_files, write_atomically, write_text_atomically


def names(folder):
    return sorted(path.name for path in folder.iterdir())


class TestWriteAtomically:
    def test_a_reader_meets_the_old_file_until_the_new_one_is_whole(self, tmp_path):
        path = tmp_path / "scores.txt"
        path.write_text("old")

        def write(beside):
            beside.write_text("ne")
            assert path.read_text() == "old"
            assert beside.parent == tmp_path
            assert beside.suffix == ".txt"  # writers choose the format by it
            assert beside.name.startswith(".")  # no listing of images or runs takes it up
            beside.write_text("new")

        write_atomically(path, write)
        assert path.read_text() == "new"
        assert names(tmp_path) == ["scores.txt"]

    def test_an_error_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "scores.txt"
        path.write_text("old")

        def fail(beside):
            beside.write_text("half")
            raise KeyError("stopped")

        with pytest.raises(KeyError, match="stopped"):
            write_atomically(path, fail)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["scores.txt"]

    def test_a_full_disk_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "scores.txt"
        path.write_text("old")
        with too_large_from(1000), pytest.raises(OSError, match="File too large"):
            write_atomically(path, lambda beside: beside.write_bytes(bytes(5000)) and None)
        assert path.read_text() == "old"
        assert names(tmp_path) == ["scores.txt"]

    def test_a_missing_folder_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            write_text_atomically(tmp_path / "nowhere" / "a.txt", "text")

    def test_text_is_utf_8(self, tmp_path):
        write_text_atomically(tmp_path / "a.txt", "Straße")
        assert (tmp_path / "a.txt").read_bytes() == "Straße".encode()

    def test_the_umask_decides_who_may_read(self, tmp_path):
        before = os.umask(0o027)
        try:
            write_text_atomically(tmp_path / "a.txt", "text")
        finally:
            os.umask(before)
        assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


class TestReplacingFiles:
    def test_files_move_together_and_others_stay(self, tmp_path):
        folder = tmp_path / "model"
        folder.mkdir()
        (folder / "a").write_text("old")
        (folder / "README").write_text("mine")
        with replacing_files(folder) as beside:
            assert isinstance(beside, Path)
            assert list(beside.iterdir()) == []
            (beside / "a").write_text("new")
            (beside / "b").write_text("new")
            assert (folder / "a").read_text() == "old"
        assert {path.name: path.read_text() for path in folder.iterdir()} == {
            "a": "new",
            "b": "new",
            "README": "mine",
        }

    def test_an_error_changes_nothing(self, tmp_path):
        (tmp_path / "a").write_text("old")

        def write():
            with replacing_files(tmp_path) as beside:
                (beside / "a").write_text("new")
                raise KeyError("stopped")

        with pytest.raises(KeyError, match="stopped"):
            write()
        assert (tmp_path / "a").read_text() == "old"
        assert names(tmp_path) == ["a"]

    def test_the_folder_is_made(self, tmp_path):
        with replacing_files(tmp_path / "new" / "model") as beside:
            (beside / "a").write_text("new")
        assert names(tmp_path / "new" / "model") == ["a"]
