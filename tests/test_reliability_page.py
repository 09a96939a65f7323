"""The table of `docs/reliability.md` names tests: they are there."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"


def named() -> list[str]:
    """What the last column names, as FILE or FILE::TEST; a test alone is in the file before it."""
    found: list[str] = []
    for row in PAGE.read_text(encoding="utf-8").splitlines():
        file = ""
        for name in re.findall(r"`([^`]+)`", row.rsplit("|", 2)[-2]) if row[:1] == "|" else []:
            file = name.split("::")[0] if ".py" in name else file
            found.append(name if ".py" in name else f"{file}::{name}")
    return found


def test_the_table_is_read() -> None:
    assert len(named()) > 30


@pytest.mark.parametrize("name", named())
def test_it_exists(name: str) -> None:
    place, _, test = name.partition("::")
    file = TESTS.parent / place if "/" in place else TESTS / "train" / place
    assert f"def {test or 'test_'}" in file.read_text(encoding="utf-8")
