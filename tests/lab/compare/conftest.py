import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.state import AcceleratorState
from rich.console import Console

from pna.data.synthetic import write_camvid
from pna.lab.compare.comparison import Comparison
from pna.lab.compare.runs import RECORDS, plan_runs
from pna.lab.compare.scores import collect_scores
from pna.lab.compare.work import do_runs

PNA = {"widths": [32, 32, 32, 32], "window": 3, "self_aggregation": False}


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A comparison of seconds: FCN with two seeds, PNA of two lengths, FCN with FCN's weights."""
    root = write_camvid(tmp_path_factory.mktemp("camvid"), num_train=4, num_val=2)
    return {
        "title": "Shapes",
        "encoder": "test_efficientnet",
        "encoder_weights": None,
        "options": {"coarse_channels": 32, "aux": False},
        "seeds": [0, 1],
        "steps": [2],
        "data": {"name": "camvid", "root": str(root), "crop": [64, 64], "num_workers": 0},
        "schedule": {"steps": 600},
        "run": {"batch_size": 2, "tensorboard": False, "log_every": 1, "checkpoint_every": 1},
        "measure": {"size": [64, 96], "rounds": 2},
        "models": [
            {"name": "fcn", "label": "FCN", "preset": "lite-fcn", "tables": ["A"]},
            {
                "name": "pna",
                "preset": "lite",
                "pna": PNA,
                "tables": ["A", "B"],
                "seeds": [0],
                "steps": [2, 3],
            },
            {"name": "again", "preset": "lite-fcn", "weights_of": "fcn", "tables": ["B"]},
        ],
    }


@pytest.fixture(scope="session")
def comparison(tree: dict[str, Any]) -> Comparison:
    return Comparison.model_validate(tree)


@pytest.fixture
def file(tree: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "shapes.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="session")
def finished(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the comparison, all runs done; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    progress = do_runs(plan_runs(comparison, folder), folder, Console(quiet=True))
    assert not progress.failed
    return folder


@pytest.fixture(scope="session")
def kept(comparison: Comparison, finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the log of all runs, `runs.jsonl`, and nothing else."""
    folder = tmp_path_factory.mktemp("kept")
    scores = collect_scores(comparison, plan_runs(comparison, finished))
    records = [run.record() for of in scores for run in of.runs.values()]
    (folder / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(autouse=True)
def _new_accelerator() -> Iterator[None]:
    """Accelerate keeps one state per process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
