"""Doing the runs: once each, whoever does them, whatever happens to one of them."""

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

from pna.compare import work
from pna.compare.comparison import Comparison
from pna.compare.files import load_comparison
from pna.compare.locks import LOCKS, try_lock
from pna.compare.runs import SCORES, check_runs, choose, plan
from pna.compare.work import Outcome, do_runs, take_weights
from pna.model.presets import create_model
from pna.train import load_recipe, train
from pna.train.log import read_log

QUIET = Console(quiet=True)

# Dies without warning after its second step, before anything is written about it.
KILLED = """
import os, signal, sys
from pna.cli import main
from pna.train.loop import Trainer

take = Trainer._take_step
def take_and_die(self, parts):
    take(self, parts)
    if self.step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
Trainer._take_step = take_and_die
main(sys.argv[1:])
"""


def start(*arguments: str | Path, script: str | None = None) -> "subprocess.Popen[str]":
    program = ["-m", "pna.cli"] if script is None else ["-c", script]
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


def test_a_run_is_what_training_alone_gives(comparison, finished, tmp_path):
    recipe = load_recipe(finished / "fcn-2-1" / "recipe.yaml")
    train(recipe, tmp_path / "alone", console=QUIET)
    assert stages(tmp_path / "alone") == stages(finished / "fcn-2-1")


def test_what_is_finished_is_left_alone(comparison, finished, monkeypatch):
    monkeypatch.setattr(work, "train", None)
    monkeypatch.setattr(work, "evaluate", None)
    outcome = do_runs(plan(comparison, finished), finished, QUIET)
    assert outcome == Outcome()


def test_behind_takes_the_weights_of_its_seed(finished):
    for seed in (0, 1):
        assert stages(finished / f"again-2-{seed}") == stages(finished / f"fcn-2-{seed}")
        assert (finished / f"again-2-{seed}" / "behind.txt").read_text() == f"fcn-2-{seed}\n"


def test_behind_waits_for_its_weights(comparison, tmp_path):
    runs = choose(plan(comparison, tmp_path), names=["again"])
    assert do_runs(runs, tmp_path, QUIET).waiting == ["again-2-0", "again-2-1"]


def test_finished_runs_are_so_without_their_weights(comparison, kept):
    assert all(run.is_finished for run in plan(comparison, kept))
    assert do_runs(plan(comparison, kept), kept, QUIET) == Outcome()
    assert not list(kept.rglob("*.safetensors"))


def test_behind_needs_the_weights(comparison, kept, tmp_path):
    shutil.copytree(kept / "fcn-2-0", tmp_path / "fcn-2-0")
    (run,) = choose(plan(comparison, tmp_path), names=["again"], seeds=[0])
    message = do_runs([run], tmp_path, QUIET).failed[run.name]
    assert "fcn-2-0: expected a run with its weights (model/), found a kept one without" in message
    assert "remove the folder to have it trained anew" in message
    assert not run.folder.exists()


def test_behind_must_not_add_weights():
    plain, refined = (
        create_model(name, encoder="test_efficientnet", num_classes=3, pretrained=False)
        for name in ("lite-fcn", "lite")
    )
    with pytest.raises(ValueError, match=r"adds nothing to be trained .*differs in \d+ tensors"):
        take_weights(refined, plain)
    with pytest.raises(ValueError, match="leave out `behind`"):
        take_weights(plain, refined)


def test_one_failure_leaves_the_others_their_chance(comparison, tmp_path, monkeypatch):
    tried = []

    def fail_pna(recipe, folder, *, resume, console):
        tried.append(folder.name)
        if folder.name.startswith("pna"):
            raise RuntimeError("out of memory\nat some address")
        return "finished"

    monkeypatch.setattr(work, "train", fail_pna)
    runs = choose(plan(comparison, tmp_path), names=["fcn", "pna"])
    outcome = do_runs(runs, tmp_path, QUIET)
    assert tried == ["fcn-2-0", "pna-2-0", "pna-3-0", "fcn-2-1"]
    message = "RuntimeError: out of memory"
    assert outcome.failed == {"pna-2-0": message, "pna-3-0": message}


def test_a_stop_stops_all(comparison, tmp_path, monkeypatch):
    tried = []

    def stop(recipe, folder, *, resume, console):
        tried.append(folder.name)
        return "stopped"

    monkeypatch.setattr(work, "train", stop)
    assert do_runs(plan(comparison, tmp_path), tmp_path, QUIET).is_stopped
    assert tried == ["fcn-2-0"]


def test_launchers_are_refused(comparison, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start the command itself once per GPU"):
        do_runs(plan(comparison, tmp_path), tmp_path, QUIET)


def test_runs_of_another_comparison_are_refused(tree, finished):
    changes = {"optimizer": {"lr": 1e-3}, "data": {**tree["data"], "root": "moved"}}
    other = Comparison.model_validate(tree | changes)
    with pytest.raises(
        ValueError, match=r"fcn-2-0: expected .*optimizer\.lr was 0\.0001, is 0\.0"
    ) as e:
        check_runs(plan(other, finished))
    assert "data.root" not in str(e.value)  # where the data lies changes nothing


def test_behind_another_model_is_refused(tree, finished):
    models = [*tree["models"][:2], {"name": "again", "preset": "lite-fcn"}]
    other = Comparison.model_validate(tree | {"models": models})
    with pytest.raises(ValueError, match="weights were from fcn-2-0, are from a training"):
        check_runs(plan(other, finished))


def test_a_failure_of_the_first_checkpoint_is_no_run(comparison, tmp_path):
    (run,) = choose(plan(comparison, tmp_path), names=["fcn"], seeds=[0])
    run.folder.mkdir()
    (run.folder / "last.pt.writing").write_text("half of a checkpoint")
    assert not do_runs([run], tmp_path, QUIET).failed
    assert run.is_finished


def test_choices():
    runs = plan(load_comparison("camvid-variants"), Path("out"))
    assert [run.name for run in choose(runs, names=["paper-add"], budgets=[600])] == [
        "paper-add-600-0"
    ]
    with pytest.raises(ValueError, match="expected some of the seeds 0, 1, got 4"):
        choose(runs, seeds=[4])
    with pytest.raises(ValueError, match="expected some of the budgets 600, 1200, got 9"):
        choose(runs, names=["paper-add"], budgets=[9])


def test_killed_and_started_again_is_as_never_killed(file, comparison, finished, tmp_path):
    folder = tmp_path / "out"
    killed = start(file, "-o", folder, "--only", "fcn", "--seeds", "0", script=KILLED)
    _, errors = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, errors
    (run,) = choose(plan(comparison, folder), names=["fcn"], seeds=[0])
    assert (run.folder / "last.pt").is_file()
    assert not run.is_finished
    assert not do_runs([run], folder, QUIET).elsewhere  # its lock went with the process
    assert stages(run.folder) == stages(finished / "fcn-2-0")


def test_what_another_process_has_is_left_to_it(file, comparison, finished, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    shutil.copytree(finished / "fcn-2-1", folder / "fcn-2-1")
    with try_lock(folder / LOCKS / "fcn-2-0") as is_ours:
        assert is_ours
        other = start(file, "-o", folder, "--only", "fcn", "again", "--no-measure")
        output, errors = other.communicate()
    assert other.returncode == 0, errors
    assert "under way in another process: fcn-2-0" in output
    assert "waits for the model it stands behind: again-2-0" in output
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
            continue  # whoever comes last to it may find its weights missing
        assert stages(folder / name) == stages(finished / name)
        rows = read_log(folder / name / "log.jsonl")
        assert [row["kind"] for row in rows] == [*["train"] * rows[-1]["step"], "final"]
