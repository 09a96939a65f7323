"""Accidents of a run, injected: what is lost, and the message."""

import contextlib
import errno
import io
import signal
from pathlib import Path
from typing import Self

import pytest
import torch
from rich.console import Console

from disk_full import too_large_from
from pna.model.presets import Preset
from pna.train import TrainingError, train
from pna.train.errors import explain_lost_process
from pna.train.log import RunLog, read_log
from pna.train.state import read_checkpoint
from tiny_training import TinySegmenter, in_step, run_apart, tiny_recipe, tiny_train


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accident", "step"),
    [("killed", 4), ("killed-while-saving", 3), ("killed-while-evaluating", 4)],
)
def test_killed_and_resumed_is_as_never_stopped(
    voc_root: Path, tmp_path: Path, whole: Path, accident: str, step: int
) -> None:
    recipe, run = tiny_recipe(voc_root), tmp_path / "run"
    died = run_apart(recipe, tmp_path, accident)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert read_checkpoint(run / "last.pt")["step"] == step
    assert tiny_train(recipe, run) == "finished"
    assert_as_whole(run, whole)
    assert not list(run.glob(".*"))  # half a checkpoint is cleared away


@pytest.mark.slow
def test_a_dead_worker_ends_the_run_with_a_message(
    voc_root: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    recipe = tiny_recipe(voc_root, data__num_workers=1, run__checkpoint_every=1)
    died = run_apart(recipe, tmp_path, "worker-dies")
    assert died.returncode == 1
    assert "ended: a process that prepares images has died" in died.stderr
    assert "lower data.num_workers" in died.stderr
    assert tiny_train(tiny_recipe(voc_root), run) == "finished"
    assert_as_whole(run, whole)


def test_a_full_disk_leaves_the_old_checkpoint(voc_root: Path, tmp_path: Path, whole: Path) -> None:
    """The system refuses the second checkpoint; with room again the run goes on."""
    recipe, run = tiny_recipe(voc_root), tmp_path / "run"
    message = r"last\.pt: could not be written \(.*\).* make room .* --resume"
    with contextlib.ExitStack() as full:
        fill = in_step(4, lambda model: full.enter_context(too_large_from(10_000)))
        with pytest.raises(OSError, match=message) as caught:
            tiny_train(recipe, run, event=fill)
    assert caught.value.errno == errno.EFBIG
    assert read_checkpoint(run / "last.pt")["step"] == 3
    assert not list(run.glob(".*"))
    assert tiny_train(recipe, run) == "finished"
    assert_as_whole(run, whole)


class FullAtExport(TinySegmenter):
    """The disk is full when the model is exported; at its trial there was room."""

    def save_pretrained(self, folder: Path) -> None:  # type: ignore[override]
        is_export = Path(folder).name == "model"
        with too_large_from(1_000) if is_export else contextlib.nullcontext():
            super().save_pretrained(folder)


class FullAtEvaluation(TinySegmenter):
    """The disk is full once the model has been evaluated, for as long as `full` is entered."""

    full = contextlib.ExitStack()

    def eval(self) -> Self:
        self.full.enter_context(too_large_from(20_000))
        return super().eval()


@pytest.mark.parametrize(
    ("place", "kind"), [("model", FullAtExport), ("evaluation", FullAtEvaluation)]
)
def test_a_full_disk_at_the_end_leaves_nothing_half_written(
    voc_root: Path, tmp_path: Path, place: str, kind: type[TinySegmenter]
) -> None:
    """The system refuses to write; with room again a resume does the rest."""
    recipe = tiny_recipe(voc_root, schedule__steps=1, run__eval_every=None, run__ema=None)
    run, presets = tmp_path / "run", {"tiny": Preset(kind, "none")}
    message = rf"{place}: could not be written \(.*\).* make room .* --resume"
    with FullAtEvaluation.full, pytest.raises(OSError, match=message):
        train(recipe, run, presets=presets, console=Console(file=io.StringIO()))
    # Each file is renamed when it is whole; the chart is the first that is too large.
    whole = {"model": [], "evaluation": ["scores.json", "scores.md"]}[place]
    assert sorted(file.name for file in (run / place).iterdir()) == whole
    assert [row["kind"] for row in read_log(run / "log.jsonl")] == ["train"]
    assert tiny_train(recipe, run) == "finished"
    assert len(list((run / place).iterdir())) > len(whole)
    assert [row["kind"] for row in read_log(run / "log.jsonl")] == ["train", "final"]


def test_a_full_disk_at_the_log_is_named(tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    log = RunLog(tmp_path, start=0, steps=1, tensorboard=False, console=console)
    message = r"log\.jsonl: could not be written \(File too large"
    with too_large_from(10), pytest.raises(OSError, match=message), log:
        log.write("train", 1, {"loss": 1.0})


def test_only_errors_of_the_network_are_explained() -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:1] Connection closed by peer [127.0.0.1]")
    lost_another = pytest.raises(TrainingError, match="^process 1 of 2: lost another")
    with lost_another, explain_lost_process(1, 2):
        raise lost
    for number, error in ((2, RuntimeError("expected scalar type Float")), (1, lost)):
        with pytest.raises(RuntimeError) as caught, explain_lost_process(0, number):
            raise error
        assert caught.value is error
