import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from accelerate.state import AcceleratorState
from rich.console import Console

from pna.compare.comparison import Comparison
from pna.compare.runs import plan
from pna.compare.work import do_runs
from pna.data.synthetic import write_camvid

PNA = {"widths": [32, 32, 32, 32], "window": 3, "self_aggregation": False}


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A comparison of seconds: FCN on two seeds, PNA at two budgets, FCN on FCN's weights."""
    root = write_camvid(tmp_path_factory.mktemp("camvid"), num_train=4, num_val=2)
    return {
        "title": "Shapes",
        "encoder": "test_efficientnet",
        "pretrained": False,
        "overrides": {"coarse_channels": 32, "aux": False},
        "seeds": [0, 1],
        "budgets": [2],
        "data": {"name": "camvid", "root": str(root), "crop": [64, 64], "num_workers": 0},
        "schedule": {"steps": 600},
        "run": {"batch_size": 2, "tensorboard": False, "log_every": 1, "checkpoint_every": 1},
        "measure": {"size": [64, 96], "rounds": 2},
        "models": [
            {"name": "fcn", "label": "FCN", "preset": "lite-fcn", "groups": ["A"]},
            {
                "name": "pna",
                "preset": "lite",
                "overrides": PNA,
                "groups": ["A", "B"],
                "seeds": [0],
                "budgets": [2, 3],
            },
            {"name": "again", "preset": "lite-fcn", "behind": "fcn", "groups": ["B"]},
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
    outcome = do_runs(plan(comparison, folder), folder, Console(quiet=True))
    assert not outcome.failed
    return folder


@pytest.fixture(scope="session")
def kept(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same folder without what isn't needed to know what was found: no weights."""
    folder = tmp_path_factory.mktemp("kept")
    for name in ("recipe.yaml", "log.jsonl", "behind.txt", "evaluation/scores.json"):
        for path in finished.glob(f"*/{name}"):
            copy = folder / path.relative_to(finished)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    return folder


@pytest.fixture(autouse=True)
def _new_accelerator() -> Iterator[None]:
    """Accelerate keeps one state per process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
