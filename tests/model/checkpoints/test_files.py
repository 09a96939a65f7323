"""Files of checkpoints: what is read, and that no code in them runs."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import pna
from pna.errors import MissingFileError, PnaError

read_checkpoint = pna.checkpoints.read_checkpoint
TENSORS = {"backbone.weight": torch.ones(2)}


def test_a_container_with_plain_values(tmp_path):
    torch.save({"state_dict": TENSORS, "meta": {"CLASSES": ("a", "b")}}, tmp_path / "a.pth")
    content = read_checkpoint(tmp_path / "a.pth")
    assert content["meta"]["CLASSES"] == ("a", "b")
    assert torch.equal(content["state_dict"]["backbone.weight"], torch.ones(2))


def test_safetensors(tmp_path):
    save_file(TENSORS, tmp_path / "a.safetensors")
    assert list(read_checkpoint(tmp_path / "a.safetensors")) == ["backbone.weight"]


def test_a_pickled_network_is_refused_with_a_remedy(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "network.pth")
    with pytest.raises(PnaError, match="network.pth holds objects of Python such as torch") as end:
        read_checkpoint(tmp_path / "network.pth")
    assert "weights_only=False" in str(end.value)
    assert "torch.save(c.state_dict(), 'weights.pth')" in str(end.value)


class Runs:
    def __reduce__(self):
        return (open, ("/tmp/pna-was-run", "w"))


def test_no_code_runs(tmp_path):
    (tmp_path / "model.pkl").write_bytes(pickle.dumps({"model": Runs()}))
    with pytest.raises(PnaError, match="holds objects of Python|is damaged"):
        read_checkpoint(tmp_path / "model.pkl")


def test_missing_damaged_and_folders(tmp_path):
    with pytest.raises(MissingFileError, match="^no checkpoint at "):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(PnaError, match="^expected a file, got the folder"):
        read_checkpoint(tmp_path)
    torch.save(TENSORS, tmp_path / "whole.pth")
    for name in ("half.pth", "half.safetensors"):
        (tmp_path / name).write_bytes((tmp_path / "whole.pth").read_bytes()[:200])
        with pytest.raises(PnaError, match="half.* is damaged|half.*holds objects"):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8\xff\xe0" + bytes(100),
        b"this is text",
        b"error: no such",
        b"rm",
        b"quota exceeded",
        b"",
    ],
)
def test_photos_and_texts_are_no_checkpoints(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(PnaError, match=r"a\.pth is no checkpoint: expected a file of torch.save"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_cut_off_anywhere(tmp_path, is_zip):
    torch.save(TENSORS, tmp_path / "whole.pth", _use_new_zipfile_serialization=is_zip)
    whole = (tmp_path / "whole.pth").read_bytes()
    for length in range(0, len(whole), 23):
        (tmp_path / "part.pth").write_bytes(whole[:length])
        with pytest.raises(PnaError, match=r"part\.pth (is|holds)"):
            read_checkpoint(tmp_path / "part.pth")


def test_the_remedy_for_arrays_works(tmp_path, monkeypatch):
    content = {"model": {"backbone.weight": np.ones(2, np.float32)}}
    (tmp_path / "d2.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(PnaError, match=r"d2\.pkl holds objects of Python") as end:
        read_checkpoint(tmp_path / "d2.pkl")
    assert "Re-running" not in str(end.value)
    remedy = str(end.value).partition("made it: ")[2].partition(" - for")[0]
    monkeypatch.chdir(tmp_path)
    exec(remedy, {})
    assert torch.equal(read_checkpoint(tmp_path / "weights.pth")["backbone.weight"], torch.ones(2))
