from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from pna.data.synthetic import write_voc
from tiny_training import tiny_recipe, tiny_train


@pytest.fixture(scope="session")
def voc_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pascal VOC with six made training images and two to validate on."""
    return write_voc(tmp_path_factory.mktemp("voc"), num_train=6, num_val=2, size=(72, 96))


@pytest.fixture(scope="session")
def whole(voc_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped. Copy it before you change it."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert tiny_train(tiny_recipe(voc_root), run) == "finished"
    return run


@pytest.fixture(autouse=True)
def _new_accelerator() -> Iterator[None]:
    """Accelerate keeps one state per process, which would fix the precision of the first test."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
