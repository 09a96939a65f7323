"""`pna train`: from the words of the command to the call of `pna.train.train`."""

import os

import pytest

import pna.train
from pna.__main__ import main

RECIPE = """
model: {preset: lite}
data: {name: voc2012, root: data/voc2012}
schedule: {steps: 10}
"""


class Recorder:
    """Stands in for `pna.train.train`."""

    def __init__(self):
        self.outcome = "finished"
        self.calls = []

    def __call__(self, recipe, run, *, resume, presets):
        self.calls.append((recipe, run, resume, presets))
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def recorder(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(pna.train, "train", recorder, raising=False)
    return recorder


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(RECIPE)
    return path


def train(*words):
    return main(["train", *map(str, words)])


def test_recipe_and_settings_reach_the_training(recorder, recipe, tmp_path):
    run = tmp_path / "run"
    sets = ["--set", "run.seed=3", "--set", "data.crop=[64, 64]"]
    assert train(recipe, "-o", run, *sets) == 0
    [(used, folder, resume, presets)] = recorder.calls
    assert (used.run.seed, used.data.crop, folder, resume) == (3, (64, 64), run, False)
    assert {"lite", "lite-decoder"} <= presets.keys()


def test_root_is_the_recipes_root(recorder, recipe, tmp_path):
    assert train(recipe, "-o", tmp_path / "run", "--root", "my: data #1") == 0
    assert recorder.calls[0][0].data.root == "my: data #1"


def test_a_saved_model_to_start_from_is_the_recipes(recorder, recipe, tmp_path):
    assert train(recipe, "-o", tmp_path / "run", "--init-from", "voc-lite") == 0
    assert recorder.calls[0][0].model.init_from == "voc-lite"


@pytest.mark.parametrize(
    ("name", "preset"), [("voc-lite", "lite"), ("voc-fcn-r50-pna", "fcn-pna")], ids=["own", "lab"]
)
def test_bundled_recipes_go_by_name(recorder, tmp_path, name, preset):
    assert train(name, "-o", tmp_path) == 0
    assert recorder.calls[0][0].model.preset == preset


def test_resume_takes_the_runs_own_recipe(recorder, recipe, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(recipe.read_text())
    assert train("-o", run, "--resume", "--set", "schedule.steps=20") == 0
    used, _, resume, _ = recorder.calls[0]
    assert (used.schedule.steps, resume) == (20, True)


def test_the_cpu_can_be_chosen(recorder, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "0")  # to be restored
    assert train(recipe, "-o", tmp_path / "run", "--device", "cpu") == 0
    assert os.environ["ACCELERATE_USE_CPU"] == "1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "RUN: expected a run to resume, found no recipe.yaml"),
        ([], "expected a recipe, got none: name one, or continue a run with --resume"),
        (["no-such"], "no-such: expected a recipe file or one of "),
    ],
)
def test_wrong_use(recorder, tmp_path, words, message, capsys):
    assert train(*words, "-o", tmp_path) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"pna train: {message.replace('RUN', str(tmp_path))}")
    assert recorder.calls == []


def test_a_stopped_run_says_how_to_go_on(recorder, recipe, tmp_path, capsys):
    recorder.outcome = "stopped"
    assert train(recipe, "-o", tmp_path / "run") == 0
    expected = f"stopped; continue with: pna train --resume -o {tmp_path / 'run'}\n"
    assert capsys.readouterr().out == expected


def test_a_diverged_run_fails_with_its_message(recorder, recipe, tmp_path, capsys):
    recorder.outcome = FloatingPointError("step 3: expected finite numbers, got loss nan")
    assert train(recipe, "-o", tmp_path / "run") == 1
    assert capsys.readouterr().err.startswith("pna train: step 3: expected finite numbers")
