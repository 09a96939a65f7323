"""Fixtures for every box."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images: `$PNA_SHARED/data`, or `shared/data` beside the checkout."""
    beside = Path(__file__).parents[2] / "shared"
    data = Path(os.environ.get("PNA_SHARED", beside)) / "data"
    if not data.is_dir():
        pytest.skip(f"no real images: {data} is no folder; set PNA_SHARED to the one above it")
    return data
