"""Runs are done once each, by any number of processes, and independently of each other."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pna.lab.baselines import PRESETS
from pna.lab.compare import work
from pna.lab.compare.comparison import Comparison, load_comparison
from pna.lab.compare.runs import RECORDS, SCORES, WEIGHTS_OF, check_run, choose_runs, plan_runs
from pna.lab.compare.work import Progress, copy_weights, do_runs, run_lock
from pna.model.presets import create_model
from pna.train import load_recipe, train
from pna.train.log import read_log

QUIET = Console(quiet=True)

# Killed after its second step, before anything is written about it.
KILLED = """
import os, signal, sys
from pna.__main__ import main
from pna.train.step import Stepper

take = Stepper.take
def take_and_die(self, step, parts):
    losses = take(self, step, parts)
    if step == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return losses
Stepper.take = take_and_die
main(sys.argv[1:])
"""


def start(*arguments: str | Path, script: str | None = None) -> "subprocess.Popen[str]":
    program = ["-m", "pna"] if script is None else ["-c", script]
    return subprocess.Popen(
        [sys.executable, *program, "compare", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # As many threads as here: sums, and so scores, depend on their number.
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )


def stages(run: Path) -> dict:
    return json.loads((run / SCORES).read_text())["stages"]


def test_a_run_equals_a_training(comparison, finished, tmp_path):
    recipe = load_recipe(finished / "fcn-2-1" / "recipe.yaml", presets=PRESETS)
    train(recipe, tmp_path / "alone", presets=PRESETS, console=QUIET)
    assert stages(tmp_path / "alone") == stages(finished / "fcn-2-1")


def test_finished_runs_are_not_done_again(comparison, finished, monkeypatch):
    monkeypatch.setattr(work, "train", None)
    monkeypatch.setattr(work, "evaluate", None)
    progress = do_runs(plan_runs(comparison, finished), finished, QUIET)
    assert progress == Progress()


def test_weights_are_those_of_the_same_seed(finished):
    for seed in (0, 1):
        assert stages(finished / f"again-2-{seed}") == stages(finished / f"fcn-2-{seed}")
        assert (finished / f"again-2-{seed}" / WEIGHTS_OF).read_text() == f"fcn-2-{seed}\n"


def test_a_model_waits_for_its_weights(comparison, tmp_path):
    runs = choose_runs(plan_runs(comparison, tmp_path), names=["again"])
    assert do_runs(runs, tmp_path, QUIET).waiting == ["again-2-0", "again-2-1"]


def test_finished_runs_are_so_without_their_weights(comparison, kept):
    assert all(run.is_finished for run in plan_runs(comparison, kept))
    assert do_runs(plan_runs(comparison, kept), kept, QUIET) == Progress()
    assert not list(kept.rglob("*.safetensors"))


def test_a_model_without_its_weights_fails(comparison, kept, tmp_path):
    shutil.copy(kept / RECORDS, tmp_path)
    records = (kept / RECORDS).read_text().splitlines(keepends=True)
    (tmp_path / RECORDS).write_text("".join(x for x in records if '"again-' not in x))
    (run,) = choose_runs(plan_runs(comparison, tmp_path), names=["again"], seeds=[0])
    console = Console(file=io.StringIO(), width=80)
    message = do_runs([run], tmp_path, console).failed[run.name]
    assert "Traceback" not in console.file.getvalue()
    assert "fcn-2-0: expected a run with its weights (model/), found none: remove" in message
    assert not run.folder.exists()


def test_weights_must_be_all_there_are():
    plain, refined = (
        create_model(name, 3, encoder="test_efficientnet", encoder_weights=None)
        for name in ("lite-fcn", "lite")
    )
    for trained, model in ((plain, refined), (refined, plain)):
        with pytest.raises(ValueError, match=r"^expected a network with the parameters of the one"):
            copy_weights(trained, model)


def test_one_failure_does_not_end_the_others(comparison, tmp_path, monkeypatch):
    tried = []

    def fail_pna(recipe, folder, *, resume, presets, console):
        tried.append(folder.name)
        folder.mkdir()
        if folder.name.startswith("pna"):
            raise RuntimeError("out of memory\nat some address")
        return "finished"

    monkeypatch.setattr(work, "train", fail_pna)
    runs = choose_runs(plan_runs(comparison, tmp_path), names=["fcn", "pna"])
    progress = do_runs(runs, tmp_path, QUIET)
    assert tried == ["fcn-2-0", "pna-2-0", "pna-3-0", "fcn-2-1"]
    message = "RuntimeError: out of memory"
    assert progress.failed == {"pna-2-0": message, "pna-3-0": message}


def test_a_stop_stops_all(comparison, tmp_path, monkeypatch):
    tried = []

    def stop(recipe, folder, *, resume, presets, console):
        tried.append(folder.name)
        return "stopped"

    monkeypatch.setattr(work, "train", stop)
    assert do_runs(plan_runs(comparison, tmp_path), tmp_path, QUIET).is_stopped
    assert tried == ["fcn-2-0"]


def test_launchers_are_refused(comparison, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"^pna compare trains each model in one process"):
        do_runs(plan_runs(comparison, tmp_path), tmp_path, QUIET)


@pytest.mark.parametrize("where", ["finished", "kept"])
def test_runs_of_another_comparison_are_refused(tree, where, request):
    folder = request.getfixturevalue(where)
    changes = {"optimizer": {"lr": 1e-3}, "data": {**tree["data"], "root": "moved"}}
    other = Comparison.model_validate(tree | changes)
    for run in plan_runs(other, folder):
        with pytest.raises(ValueError, match=r"expected a run of this .*optimizer\.lr was 0") as e:
            check_run(run)
        assert "data.root" not in str(e.value)  # a path changes nothing


def test_other_weights_are_refused(tree, finished):
    models = [*tree["models"][:2], {"name": "again", "preset": "lite-fcn"}]
    other = Comparison.model_validate(tree | {"models": models})
    (run, _) = choose_runs(plan_runs(other, finished), names=["again"])
    with pytest.raises(ValueError, match=r"its weights were those of fcn-2-0, now they are those"):
        check_run(run)


def test_a_failure_of_the_first_checkpoint_is_no_run(comparison, tmp_path):
    (run,) = choose_runs(plan_runs(comparison, tmp_path), names=["fcn"], seeds=[0])
    run.folder.mkdir()
    (run.folder / ".writing-1.pt").write_text("half of a checkpoint")
    assert not do_runs([run], tmp_path, QUIET).failed
    assert run.is_finished


def test_choices():
    runs = plan_runs(load_comparison("camvid-control"), Path("out"))
    assert [run.name for run in choose_runs(runs, names=["paper-add"], steps=[600])] == [
        "paper-add-600-0"
    ]
    with pytest.raises(ValueError, match=r"^expected some of the seeds 0, 1, 2, got 4"):
        choose_runs(runs, seeds=[4])
    with pytest.raises(ValueError, match=r"^expected some of the steps 600, 1200, got 9"):
        choose_runs(runs, names=["paper-add"], steps=[9])


def test_a_killed_run_that_continues_equals_one_that_was_not_killed(
    file, comparison, finished, tmp_path
):
    folder = tmp_path / "out"
    killed = start(file, "-o", folder, "--only", "fcn", "--seeds", "0", script=KILLED)
    _, errors = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, errors
    (run,) = choose_runs(plan_runs(comparison, folder), names=["fcn"], seeds=[0])
    assert (run.folder / "last.pt").is_file()
    assert not run.is_finished
    assert not do_runs([run], folder, QUIET).elsewhere  # the system released its lock
    assert stages(run.folder) == stages(finished / "fcn-2-0")


def test_a_run_of_another_process_is_left_out(file, comparison, finished, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copytree(finished / "fcn-2-1", folder / "fcn-2-1")
    with run_lock(folder, "fcn-2-0"):
        other = start(file, "-o", folder, "--only", "fcn", "again", "--no-measure")
        output, errors = other.communicate()
    assert other.returncode == 0, errors
    assert "another process does it: fcn-2-0" in output
    assert "the weights that it takes are not trained yet: again-2-0" in output
    assert not (folder / "fcn-2-0").exists()
    assert stages(folder / "again-2-1") == stages(finished / "again-2-1")


@pytest.mark.slow
def test_two_processes_share_the_runs(file, finished, tmp_path):
    folder = tmp_path / "out"
    both = [start(file, "-o", folder, "--no-measure") for _ in range(2)]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    for path in finished.glob("*/evaluation"):
        name = path.parent.name
        if name.startswith("again"):
            continue  # the process that comes to it may find its weights missing
        assert stages(folder / name) == stages(finished / name)
        rows = read_log(folder / name / "log.jsonl")
        assert [row["kind"] for row in rows] == [*["train"] * rows[-1]["step"], "final"]
