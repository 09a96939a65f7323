from pathlib import Path
from typing import Any

import pytest
import torch

from pna.train.checkpoint import check_resumable, read_checkpoint, save_atomically


def test_round_trip(tmp_path: Path) -> None:
    payload = {"step": 3, "model": {"weight": torch.randn(2, 3)}, "best": (3, 0.5), "scaler": None}
    save_atomically(payload, tmp_path / "last.pt")
    back = read_checkpoint(tmp_path / "last.pt")
    assert torch.equal(back["model"]["weight"], payload["model"]["weight"])  # type: ignore[index]
    assert (back["step"], back["best"], back["scaler"]) == (3, (3, 0.5), None)
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    save_atomically({"step": 1}, path)

    def write_half(payload: Any, file: Any) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", write_half)
    with pytest.raises(OSError, match="No space left"):
        save_atomically({"step": 2}, path)
    assert read_checkpoint(path)["step"] == 1


def test_reading_runs_no_code(tmp_path: Path) -> None:
    torch.save({"version": 1, "evil": Path("x")}, tmp_path / "last.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        read_checkpoint(tmp_path / "last.pt")


def test_missing_and_foreign_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"last\.pt: expected a checkpoint"):
        read_checkpoint(tmp_path / "last.pt")
    torch.save({"version": 0}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="expected checkpoint version 1, got 0"):
        read_checkpoint(tmp_path / "last.pt")


SAVED = {
    "recipe": {"optimizer.lr": 1e-4, "schedule.steps": 10, "run.log_every": 5},
    "classes": ["sky", "road"],
}


def test_a_longer_run_with_other_logs_may_go_on() -> None:
    recipe = {"optimizer.lr": 1e-4, "schedule.steps": 20, "run.log_every": 1}
    check_resumable(Path("last.pt"), SAVED, recipe, ["sky", "road"])


def test_another_recipe_or_class_is_refused_with_all_that_differs() -> None:
    recipe = {"optimizer.lr": 2e-4, "schedule.steps": 10, "run.log_every": 5, "run.ema": 0.9}
    with pytest.raises(ValueError, match="expected the recipe that the run began with") as caught:
        check_resumable(Path("runs/a/last.pt"), SAVED, recipe, ["sky", "road", "car"])
    message = str(caught.value)
    assert "runs/a/last.pt" in message
    assert "optimizer.lr was 0.0001, is 0.0002" in message
    assert "run.ema was None, is 0.9" in message
    assert "there were 2 classes, are 3" in message


def test_renamed_classes_are_named() -> None:
    with pytest.raises(ValueError, match="classes were sky, road, are road, sky"):
        check_resumable(Path("last.pt"), SAVED, SAVED["recipe"], ["road", "sky"])  # type: ignore[arg-type]
