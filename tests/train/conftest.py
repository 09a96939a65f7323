import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from accelerate.state import AcceleratorState

from pna.data.synthetic import write_voc

TINY = Path(__file__).with_name("tiny.py")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """The tiny network and runs of `tiny.py`, which is a script too."""
    spec = importlib.util.spec_from_file_location("tiny", TINY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def voc_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pascal VOC with six made training pictures and two to validate on."""
    return write_voc(tmp_path_factory.mktemp("voc"), num_train=6, num_val=2, size=(72, 96))


@pytest.fixture(autouse=True)
def _new_accelerator() -> Iterator[None]:
    """Accelerate keeps one state per process, which would fix the precision of the first test."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
