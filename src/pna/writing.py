"""Files that are there whole or not at all: written beside their place, then renamed."""

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that a reader meets the old one or the new one, never half of one.

    Args:
        path: Where it goes; its folder exists.
        write: Writes to the path that it is given.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    try:
        write(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """The same for text in UTF-8."""

    def write(beside: Path) -> None:
        beside.write_text(text, encoding="utf-8")

    replace_file(path, write)
