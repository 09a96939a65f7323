"""Rivals are trained like everything else: two steps, exported and evaluated."""

import json
from pathlib import Path

import pytest
import torch

from pna.model.checkpoints import load
from pna.train.assemble import train
from pna.train.log import read_log
from pna.train.recipe import Recipe

OWN_LOSSES = {
    "lite-decoder": set(),
    "deeplabv3plus": set(),
    "fapn": set(),
    "fpn-pointrend": {"points"},
    "fcn-segfix": {"boundary", "direction"},
    "eblnet": {"edges", "bodies"},
    "fcn-crf": set(),
}
STAGES = {"lite-decoder": ["P1", "P2", "P3", "P4"], "eblnet": ["P1", "P2", "P3"]}  # those trained
NUM_STAGES = {"lite-decoder": 4, "eblnet": 3, "fpn-pointrend": 1, "fcn-segfix": 1, "fcn-crf": 1}


def rival_recipe(root: Path, preset: str, **overrides: object) -> Recipe:
    model = {"coarse_channels": 8, "output_stride": 32, "aux": False}
    settings = {"preset": preset, "encoder": "resnet18", "pretrained": False, "overrides": model}
    return Recipe.model_validate(
        {
            "model": settings,
            "data": {"name": "voc2012", "root": str(root), "crop": [64, 64], "num_workers": 0},
            "loss": {"stage": 1.0},
            "schedule": {"steps": 2},
            "run": {"batch_size": 2, "log_every": 1, "tensorboard": False},
        }
        | overrides
    )


@pytest.mark.parametrize("preset", OWN_LOSSES)
def test_a_rival_trains_is_exported_and_evaluated(
    preset: str, voc_root: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    run = tmp_path / "run"
    assert train(rival_recipe(voc_root, preset), run) == "finished"
    steps = [row for row in read_log(run / "log.jsonl") if row["kind"] == "train"]
    assert [row["step"] for row in steps] == [1, 2]
    for row in steps:
        parts = {"P0", *STAGES.get(preset, []), *OWN_LOSSES[preset]}
        assert parts <= row.keys()
        assert row["loss"] == pytest.approx(sum(row[name] for name in parts), rel=1e-4)
    model = load(run / "model")
    assert model.num_stages == NUM_STAGES.get(preset, 0)
    scores = json.loads((run / "evaluation" / "scores.json").read_text())
    assert len(scores["stages"]) == 1 + model.num_stages


def test_points_are_the_same_in_every_run(voc_root: Path, tmp_path: Path) -> None:
    """The trainer seeds each step: two runs draw the same points and end with the same weights."""
    torch.set_num_threads(1)
    for name in ("one", "other"):
        train(rival_recipe(voc_root, "fpn-pointrend"), tmp_path / name)
    a, b = (torch.load(tmp_path / name / "last.pt")["model"] for name in ("one", "other"))
    assert all(torch.equal(value, b[name]) for name, value in a.items())
