import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from disk_full import too_large_from
from pna.train.state import check_resumable, read_checkpoint, save_checkpoint
from tiny_training import tiny_recipe, tiny_train


def test_round_trip(tmp_path: Path) -> None:
    payload = {"step": 3, "model": {"weight": torch.randn(2, 3)}, "best": (3, 0.5), "scaler": None}
    save_checkpoint(payload, tmp_path / "last.pt")
    back = read_checkpoint(tmp_path / "last.pt")
    assert torch.equal(back["model"]["weight"], payload["model"]["weight"])  # type: ignore[index]
    assert (back["step"], back["best"], back["scaler"]) == (3, (3, 0.5), None)
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint({"step": 1}, path)
    message = r"last\.pt: could not be written .* make room .* --resume"
    with too_large_from(10_000), pytest.raises(OSError, match=message):
        save_checkpoint({"step": 2, "model": torch.rand(10_000)}, path)
    assert read_checkpoint(path)["step"] == 1
    assert [f.name for f in tmp_path.iterdir()] == ["last.pt"]


def test_a_missing_or_older_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    with pytest.raises(FileNotFoundError, match=r"last\.pt: expected a checkpoint, found no such"):
        read_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"last\.pt: expected a checkpoint .*it holds a list"):
        read_checkpoint(path)
    torch.save({"version": 0}, path)
    with pytest.raises(ValueError, match=r"last\.pt: expected checkpoint version \d, got 0"):
        read_checkpoint(path)


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
    assert message.startswith("runs/a/last.pt: ")
    assert "optimizer.lr was 0.0001, is 0.0002" in message
    assert "run.ema was None, is 0.9" in message
    assert "there were 2 classes, are 3" in message


def test_renamed_classes_are_named() -> None:
    recipe: Any = SAVED["recipe"]
    with pytest.raises(ValueError, match="classes were sky, road, are road, sky"):
        check_resumable(Path("last.pt"), SAVED, recipe, ["road", "sky"])


@pytest.fixture
def unfinished(whole: Path, tmp_path: Path) -> Path:
    """A run before its export, to be changed."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "log.jsonl").unlink()
    return run


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_cut_off_checkpoint_is_refused(voc_root: Path, unfinished: Path, share: float) -> None:
    content = (unfinished / "last.pt").read_bytes()
    (unfinished / "last.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"last\.pt: expected a checkpoint .* Put a copy of it"):
        tiny_train(tiny_recipe(voc_root), unfinished)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda saved: saved.pop("optimizer"), "'optimizer'"),
        (lambda saved: saved["model"].popitem(), "Error"),
        (lambda saved: saved.update(model=None), "items|state_dict"),
        (lambda saved: saved.update(recipe=3), "int"),
    ],
)
def test_a_checkpoint_with_other_contents_is_refused(
    voc_root: Path, unfinished: Path, change: Any, reason: str
) -> None:
    saved = read_checkpoint(unfinished / "last.pt")
    change(saved)
    save_checkpoint(saved, unfinished / "last.pt")
    with pytest.raises(ValueError, match=rf"last\.pt: expected a checkpoint .*\(.*({reason})"):
        tiny_train(tiny_recipe(voc_root), unfinished)


def test_a_checkpoint_of_other_classes_is_refused(voc_root: Path, unfinished: Path) -> None:
    saved = read_checkpoint(unfinished / "last.pt")
    save_checkpoint({**saved, "classes": saved["classes"][:-1]}, unfinished / "last.pt")
    with pytest.raises(ValueError, match="there were 20 classes, are 21"):
        tiny_train(tiny_recipe(voc_root), unfinished)


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path) -> None:
    path, made = tmp_path / "last.pt", tmp_path / "run-by-pickle"
    torch.save({"version": 2, "step": Evil(made)}, path)
    with pytest.raises(ValueError, match=r"damaged or foreign file .*; nothing in it was run"):
        read_checkpoint(path)
    assert not made.exists()
    torch.load(path, weights_only=False)  # it is a real one
    assert made.exists()
