"""Atomic writes: a file is written beside its target, then renamed.

A reader, or a run that is killed, never meets half a file.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that a reader meets the old one or the new one, never half of one.

    Args:
        path: The target; its folder exists.
        write: Writes to the path that it is given, which has the same suffix.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "scores.txt"
        >>> write_atomically(path, lambda beside: beside.write_text("78.6") and None)
        >>> path.read_text()
        '78.6'
    """
    # The process's number keeps two writers apart; the dot hides the file from folder listings.
    beside = path.with_name(f".writing-{os.getpid()}-{path.name}")
    try:
        write(beside)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_text_atomically(path: Path, text: str) -> None:
    """Write text in UTF-8 by `write_atomically`."""

    def write(beside: Path) -> None:
        beside.write_text(text, encoding="utf-8")

    write_atomically(path, write)


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Write several files that belong together, then move them into `folder`.

    Args:
        folder: Made if it is not there. Its other files stay.

    Yields:
        An empty folder inside `folder`. If the block raises, nothing in `folder` changes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Inside of `folder`: a rename is atomic within one file system only.
    beside = Path(tempfile.mkdtemp(dir=folder, prefix=".writing-"))
    try:
        yield beside
        # Only now, when all are complete. Each move is atomic; all of them together are not.
        for file in sorted(beside.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def file_digest(path: Path) -> str:
    """Return a digest of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
