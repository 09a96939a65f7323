import argparse
from pathlib import Path
from typing import Any

import pytest

import pna.train
from pna.cli import train as command

RECIPE = """
model: {preset: lite}
data: {name: voc2012, root: data/voc2012}
schedule: {steps: 10}
"""


class Recorder:
    """Stands in for `pna.train.train`."""

    def __init__(self, outcome: str | Exception) -> None:
        self.outcome = outcome
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, recipe: Any, run: Path, *, resume: bool) -> str:
        self.calls.append((recipe, run, resume))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(RECIPE)
    return path


def invoke(
    monkeypatch: pytest.MonkeyPatch, *arguments: str | Path, outcome: str | Exception = "finished"
) -> tuple[int, Recorder]:
    recorder = Recorder(outcome)
    monkeypatch.setattr(pna.train, "train", recorder)
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([str(a) for a in arguments])), recorder


def test_recipe_and_overrides_reach_the_training(
    monkeypatch: pytest.MonkeyPatch, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    sets = ["--set", "run.seed=3", "--set", "data.crop=[64, 64]"]
    code, recorder = invoke(monkeypatch, recipe, "-o", run, *sets)
    [(used, folder, resume)] = recorder.calls
    assert code == 0
    assert (used.run.seed, used.data.crop, folder, resume) == (3, (64, 64), run, False)


def test_bundled_recipes_go_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, recorder = invoke(monkeypatch, "voc-lite", "-o", tmp_path)
    assert recorder.calls[0][0].model.preset == "lite"


def test_resume_takes_the_runs_own_recipe(
    monkeypatch: pytest.MonkeyPatch, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(recipe.read_text())
    _, recorder = invoke(monkeypatch, "-o", run, "--resume", "--set", "schedule.steps=20")
    used, _, resume = recorder.calls[0]
    assert (used.schedule.steps, resume) == (20, True)


def test_nothing_to_resume(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected a run to resume, found no recipe\.yaml"):
        invoke(monkeypatch, "-o", tmp_path, "--resume")


def test_a_new_run_needs_a_recipe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a recipe, got none"):
        invoke(monkeypatch, "-o", tmp_path)


def test_a_stopped_run_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _ = invoke(monkeypatch, recipe, "-o", tmp_path / "run", outcome="stopped")
    assert code == 0
    assert f"pna train --resume -o {tmp_path / 'run'}" in capsys.readouterr().out


def test_a_diverged_run_fails_with_its_message(
    monkeypatch: pytest.MonkeyPatch,
    recipe: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    diverged = FloatingPointError("step 3: expected finite numbers, got loss nan")
    code, _ = invoke(monkeypatch, recipe, "-o", tmp_path / "run", outcome=diverged)
    assert code == 1
    assert "step 3: expected finite numbers" in capsys.readouterr().err
