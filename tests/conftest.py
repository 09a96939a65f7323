"""Fixtures for every box."""

import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images: `$PNA_SHARED/data`, or `shared/data` beside the checkout."""
    beside = Path(__file__).parents[2] / "shared"
    data = Path(os.environ.get("PNA_SHARED", beside)) / "data"
    if not data.is_dir():
        pytest.skip(f"no real images: {data} is no folder; set PNA_SHARED to the one above it")
    return data


@pytest.fixture(scope="session")
def browser():
    """Chromium, without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    with playwright.sync_playwright() as running:
        # Without its sandbox, which needs rights that containers do not give.
        found = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()
