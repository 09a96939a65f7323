"""What may happen to a run, injected: what is lost, and what the message says."""

import errno
import io
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from rich.console import Console

from file_sizes import too_large_from
from pna.cli import main
from pna.train import load_recipe
from pna.train.checkpoint import read_checkpoint, save_atomically
from pna.train.log import RunLog, read_log

TINY = Path(__file__).with_name("tiny.py")


def quiet() -> Console:
    return Console(file=io.StringIO())


def run_apart(recipe: Any, folder: Path, kind: str) -> "subprocess.CompletedProcess[str]":
    """Run a recipe in a process of its own, into `folder / "run"`."""
    settings = folder / "recipe.json"
    settings.write_text(recipe.model_dump_json())
    return subprocess.run(
        [sys.executable, TINY, settings, folder / "run", kind],
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def whole(tiny: ModuleType, voc_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to which nothing happened."""
    run: Path = tmp_path_factory.mktemp("whole") / "run"
    assert tiny.tiny_trainer(tiny.tiny_recipe(voc_root), run, console=quiet()).run() == "finished"
    return run


def assert_as_whole(run: Path, whole: Path) -> None:
    """Same weights to the bit, same losses and scores in the log."""
    a, b = read_checkpoint(run / "last.pt"), read_checkpoint(whole / "last.pt")
    assert a["step"] == b["step"]
    assert all(torch.equal(value, b["model"][name]) for name, value in a["model"].items())
    logs = [
        [(row["kind"], row["step"], row.get("loss"), row.get("miou")) for row in read_log(log)]
        for log in (run / "log.jsonl", whole / "log.jsonl")
    ]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("killed", 4),
        pytest.param("killed-while-saving", 3, marks=pytest.mark.slow),
        pytest.param("killed-while-evaluating", 4, marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_is_as_never_stopped(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, whole: Path, kind: str, step: int
) -> None:
    recipe, run = tiny.tiny_recipe(voc_root), tmp_path / "run"
    died = run_apart(recipe, tmp_path, kind)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert read_checkpoint(run / "last.pt")["step"] == step
    assert tiny.tiny_trainer(recipe, run, console=quiet()).run() == "finished"
    assert_as_whole(run, whole)


@pytest.mark.slow
def test_a_dead_worker_ends_the_run_with_a_message(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    recipe = tiny.tiny_recipe(voc_root, data__num_workers=1, run__checkpoint_every=1)
    died = run_apart(recipe, tmp_path, "worker-dies")
    assert died.returncode == 1
    assert "a process that prepares pictures has died" in died.stderr
    assert "lower data.num_workers" in died.stderr
    recipe = tiny.tiny_recipe(voc_root, data__num_workers=0)
    assert tiny.tiny_trainer(recipe, run, console=quiet()).run() == "finished"
    assert_as_whole(run, whole)


@pytest.fixture
def full() -> Path:
    """A device that is always full."""
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip(f"this system has no {device}")
    return device


def test_a_full_disk_leaves_the_old_checkpoint(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, whole: Path, full: Path
) -> None:
    """The real error of the system, at the second checkpoint; with room again the run goes on."""

    class DiskFills(tiny.Trainer):  # type: ignore[misc, name-defined]
        def save(self) -> None:
            if self.step == 4:
                (self.folder / "last.pt.writing").symlink_to(full)
            super().save()

    recipe, run = tiny.tiny_recipe(voc_root), tmp_path / "run"
    message = r"last\.pt: could not be written \(No space left on device\).* make room .* --resume"
    with pytest.raises(OSError, match=message) as caught:
        tiny.tiny_trainer(recipe, run, kind=DiskFills, console=quiet()).run()
    assert caught.value.errno == errno.ENOSPC
    assert read_checkpoint(run / "last.pt")["step"] == 3
    assert not list(run.glob("*.writing"))
    assert tiny.tiny_trainer(recipe, run, console=quiet()).run() == "finished"
    assert_as_whole(run, whole)


@pytest.mark.parametrize("place", ["model", "evaluation"])
def test_a_full_disk_at_the_export_leaves_nothing_half_written(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, place: str
) -> None:
    """The system refuses to write; with room again a resume does what is missing."""

    class DiskFills(tiny.Trainer):  # type: ignore[misc, name-defined]
        def _finish(self) -> None:
            with too_large_from(100_000 if place == "model" else 20_000):
                super()._finish()

    recipe = tiny.tiny_recipe(
        voc_root,
        model__preset="lite" if place == "model" else "tiny",
        data__limit=2,
        schedule__steps=1,
        run__ema=None,
        run__eval_every=None,
    )
    run = tmp_path / "run"
    message = rf"{place}: could not be written \(.*\).* make room .* --resume"
    with pytest.raises(OSError, match=message):
        tiny.tiny_trainer(recipe, run, kind=DiskFills, console=quiet()).run()
    # Each file is renamed when it is whole; the chart is the first that is too large.
    whole = {"model": [], "evaluation": ["scores.json", "scores.md"]}[place]
    assert sorted(file.name for file in (run / place).iterdir()) == whole
    assert [row["kind"] for row in read_log(run / "log.jsonl")] == ["train"]
    assert tiny.tiny_trainer(recipe, run, console=quiet()).run() == "finished"
    assert len(list((run / place).iterdir())) > len(whole)
    assert [row["kind"] for row in read_log(run / "log.jsonl")] == ["train", "final"]


def test_a_full_disk_at_the_log_is_named(tmp_path: Path, full: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to(full)
    log = RunLog(tmp_path, start=0, steps=1, tensorboard=False, console=quiet())
    with pytest.raises(OSError, match=r"log\.jsonl: could not be written \(No space left"), log:
        log.write("train", 1, {"loss": 1.0})


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999])
def test_a_cut_off_checkpoint_is_refused(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, whole: Path, share: float
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    content = (run / "last.pt").read_bytes()
    (run / "last.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"last\.pt: expected a checkpoint .* Put a copy of it"):
        tiny.tiny_trainer(tiny.tiny_recipe(voc_root), run)


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_a_malicious_checkpoint_runs_nothing(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, whole: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    torch.save({"version": 1, "step": Evil(tmp_path / "run-by-pickle")}, run / "last.pt")
    with pytest.raises(ValueError, match=r"damaged or foreign file .*; nothing in it was run"):
        tiny.tiny_trainer(tiny.tiny_recipe(voc_root), run)
    assert not (tmp_path / "run-by-pickle").exists()
    torch.load(run / "last.pt", weights_only=False)  # it is a real one
    assert (tmp_path / "run-by-pickle").exists()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda saved: saved.pop("optimizer"), "'optimizer'"),
        (lambda saved: saved["model"].popitem(), "Error"),
        (lambda saved: saved.update(model=None), "items"),
        (lambda saved: saved.update(recipe=3), "int"),
    ],
)
def test_a_checkpoint_with_other_contents_is_refused(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, whole: Path, change: Any, reason: str
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    saved = read_checkpoint(run / "last.pt")
    change(saved)
    save_atomically(saved, run / "last.pt")
    with pytest.raises(ValueError, match=rf"last\.pt: expected a checkpoint .*\(.*{reason}"):
        tiny.tiny_trainer(tiny.tiny_recipe(voc_root), run)


def test_a_checkpoint_of_other_classes_is_refused(
    tiny: ModuleType, voc_root: Path, tmp_path: Path, whole: Path
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    saved = read_checkpoint(run / "last.pt")
    save_atomically({**saved, "classes": saved["classes"][:-1]}, run / "last.pt")
    with pytest.raises(ValueError, match="there were 20 classes, are 21"):
        tiny.tiny_trainer(tiny.tiny_recipe(voc_root), run)


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.mkdir [evil]", "!tag x", "[" * 5000, "&a [*a, *a"]
)
def test_a_recipe_with_tags_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text(f"model: {value}\n")
    with pytest.raises(ValueError, match=r"own\.yaml: expected YAML, got"):
        load_recipe("own.yaml")
    with pytest.raises(ValueError, match=r"--set model.preset=.*: expected a YAML value"):
        load_recipe("voc-lite", [f"model.preset={value}"])
    assert [file.name for file in tmp_path.iterdir()] == ["own.yaml"]


def test_the_command_says_what_is_wrong_and_shows_no_traceback(
    tmp_path: Path, whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (run / "recipe.yaml").write_bytes(b"\xff\xfe")
    assert main(["train", "--resume", "-o", str(run)]) == 2
    assert "recipe.yaml: expected text in UTF-8" in capsys.readouterr().err
