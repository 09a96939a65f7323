"""Rivals are trained like everything else: by the trainer, with their own losses in the log."""

import math
from pathlib import Path

import pytest
import torch

from pna.train import train
from pna.train.log import read_log
from pna.train.recipe import Recipe

OWN = {"fcn-segfix": ["boundary", "direction"]}


@pytest.mark.parametrize("preset", ["lite-decoder", "deeplabv3plus", "fapn", "fcn-segfix"])
def test_two_steps(preset: str, voc_root: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    model = {"preset": preset, "encoder": "resnet18", "pretrained": False}
    recipe = Recipe.model_validate(
        {
            "model": {**model, "overrides": {"coarse_channels": 16, "aux": False}},
            "data": {"name": "voc2012", "root": str(voc_root), "crop": [64, 64], "num_workers": 0},
            "schedule": {"steps": 2},
            "run": {"batch_size": 2, "log_every": 1, "tensorboard": False},
        }
    )
    assert train(recipe, tmp_path / "run") == "finished"
    rows = [row for row in read_log(tmp_path / "run" / "log.jsonl") if row["kind"] == "train"]
    assert len(rows) == 2
    for name in ["P0", *OWN.get(preset, [])]:
        assert all(math.isfinite(row[name]) and row[name] > 0 for row in rows)
    report = (tmp_path / "run" / "evaluation" / "scores.md").read_text()
    assert "| P0" in report
    assert ("| P4" in report) == (preset == "lite-decoder")
    assert ("| P1" in report) == (preset in ("lite-decoder", "fcn-segfix"))
