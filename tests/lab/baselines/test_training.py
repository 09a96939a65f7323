"""Baselines are trained, saved and evaluated like everything else."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from pna.data.synthetic import write_voc
from pna.lab.baselines import PRESETS
from pna.model.loading import load
from pna.train import Recipe, parse_recipe, train
from pna.train.log import read_log

LOSSES = {
    "lite-decoder": {"P1", "P2", "P3", "P4"},
    "fpn-pointrend": {"points"},
    "fcn-segfix": {"boundary", "direction"},
    "eblnet": {"P1", "P2", "P3", "edges", "bodies"},
    "fcn-crf": set(),
}
NUM_STAGES = {"lite-decoder": 4, "eblnet": 3, "fpn-pointrend": 1, "fcn-segfix": 1, "fcn-crf": 1}


@pytest.fixture(scope="module")
def voc_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc"), num_train=4, num_val=1, size=(48, 64))


@pytest.fixture(autouse=True)
def _new_accelerator() -> Iterator[None]:
    """Accelerate keeps one state per process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def _recipe(root: Path, preset: str) -> Recipe:
    return parse_recipe(
        {
            "model": {
                "preset": preset,
                "encoder": "resnet18",
                "encoder_weights": None,
                "options": {"coarse_channels": 8, "output_stride": 32, "aux": False},
            },
            "data": {"name": "voc2012", "root": str(root), "crop": [64, 64], "num_workers": 0},
            "loss": {"stage": 1.0},
            "schedule": {"steps": 2},
            "run": {"batch_size": 2, "log_every": 1, "tensorboard": False},
        },
        presets=PRESETS,
    )


@pytest.mark.parametrize("preset", LOSSES)
def test_a_baseline_is_trained_saved_and_evaluated(
    preset: str, voc_root: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(_recipe(voc_root, preset), run, presets=PRESETS) == "finished"
    steps = [row for row in read_log(run / "log.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in steps] == [1, 2]
    for row in steps:
        parts = {"P0", *LOSSES[preset]}
        assert parts <= row.keys()
        assert row["loss"] == pytest.approx(sum(row[name] for name in parts), rel=1e-4)
    model = load(run / "model", presets=PRESETS)
    assert model.num_stages == NUM_STAGES[preset]
    scores = json.loads((run / "evaluation" / "scores.json").read_text())
    assert len(scores["stages"]) == 1 + model.num_stages


def test_points_are_the_same_in_every_run(voc_root: Path, tmp_path: Path) -> None:
    """The trainer seeds each step: two runs draw the same points and get the same weights."""
    for name in ("one", "other"):
        train(_recipe(voc_root, "fpn-pointrend"), tmp_path / name, presets=PRESETS)
    a, b = (torch.load(tmp_path / name / "last.pt")["model"] for name in ("one", "other"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
