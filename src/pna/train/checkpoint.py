"""`last.pt` and `best.pt`: written whole or not at all, read without running code.

A checkpoint needs no random states: data, dropout and drop-path draw from (seed, step), so the
step number is all there is to restore.
"""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pna.train.faults import explain_failed_write

VERSION = 1
# Settings that may change between a run and its continuation: they leave the gradients of a step
# as they are. `schedule.steps` bends the learning rate from here on, which is what is asked for.
CHANGEABLE = frozenset(
    {
        "schedule.steps",
        "data.root",
        "data.num_workers",
        "data.label_cache",
        "data.picture_cache",
        "data.picture_cache_gb",
        "data.skip_bad",
        "data.val_split",
        "run.eval_every",
        "run.eval_limit",
        "run.export",
        "run.checkpoint_every",
        "run.log_every",
        "run.tensorboard",
        "run.timeout",
        "model.pretrained",
    }
)


def save_atomically(payload: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint so that `path` is, at any moment, the old file or the new one.

    Args:
        payload: Tensors, numbers, strings, and dicts and lists of them.
        path: Where it goes; its folder exists.

    Raises:
        OSError: It can't be written; the old file is as it was.
    """
    temporary = path.with_name(f"{path.name}.writing")
    with explain_failed_write(path):
        try:
            with temporary.open("wb") as file:
                torch.save({"version": VERSION, **payload}, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)  # half a file would keep a full disk full
        _sync_folder(path.parent)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU; nothing that may be hidden in the file is run.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, no checkpoint, or of another version of this package.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a checkpoint, found no such file")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file may have it raise anything
        raise _damaged(path, error) from error
    if not isinstance(payload, dict):
        raise _damaged(path, f"it holds a {type(payload).__name__}")
    if payload.get("version") != VERSION:
        raise ValueError(
            f"{path}: expected checkpoint version {VERSION}, got {payload.get('version')}: "
            "continue the run with the release that began it"
        )
    return payload


@contextlib.contextmanager
def explain_misfit(path: Path) -> Iterator[None]:
    """Inside, a checkpoint whose contents aren't what a run needs is named.

    Raises:
        ValueError: Something is missing in it, or has another shape or type.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, reason: Exception | str) -> ValueError:
    lines = str(reason).splitlines() or [type(reason).__name__]
    return ValueError(
        f"{path}: expected a checkpoint that `pna train` wrote, got a damaged or foreign file "
        f"({lines[0]}); nothing in it was run. Put a copy of it back, or train into a new folder"
    )


def check_resumable(
    path: Path, saved: Mapping[str, Any], recipe: Mapping[str, Any], classes: list[str]
) -> None:
    """Refuse to continue a run under another recipe or on other classes.

    Args:
        path: The checkpoint, for messages.
        saved: Its `recipe` (settings by dotted name) and `classes`.
        recipe: The settings asked for, by dotted name.
        classes: The data set's class names.

    Raises:
        ValueError: Something differs that isn't in `CHANGEABLE`; the message lists all of it.
    """
    differing = differing_settings(saved["recipe"], recipe, ignored=CHANGEABLE)
    if saved["classes"] != classes:
        differing.append(_differing_classes(saved["classes"], classes))
    if differing:
        raise ValueError(
            f"{path}: expected the recipe that the run began with, got another "
            f"({'; '.join(differing)}): undo that, or train into a new folder"
        )


def differing_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], *, ignored: Collection[str]
) -> list[str]:
    """Say how two recipes differ, a phrase a setting.

    Args:
        before: Settings by dotted name.
        now: The same.
        ignored: Settings that may differ.
    """
    return [
        f"{key} was {before.get(key)!r}, is {now.get(key)!r}"
        for key in {**before, **now}
        if key not in ignored and before.get(key) != now.get(key)
    ]


def _differing_classes(before: list[str], now: list[str]) -> str:
    if len(before) != len(now):
        return f"there were {len(before)} classes, are {len(now)}"
    return f"classes were {', '.join(before)}, are {', '.join(now)}"


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power failure (where the system can)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
