"""Checkpoints, `last.pt` and `best.pt`: written whole or not at all, read without running code.

A checkpoint needs no random states: data, dropout and drop-path draw from (seed, step), so the
step number is all there is to restore.
"""

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from pna.errors import MissingFileError, PnaError
from pna.files import write_atomically
from pna.train.errors import explain_failed_write

VERSION = 2
# Settings that may change between a run and its continuation: they leave the gradients of a step
# as they are. `schedule.steps` bends the learning rate from here on, which is what is asked for.
CHANGEABLE = frozenset(
    {
        "schedule.steps",
        "data.root",
        "data.num_workers",
        "data.skip_bad",
        "data.val_split",
        "run.eval_every",
        "run.eval_limit",
        "run.export",
        "run.checkpoint_every",
        "run.log_every",
        "run.tensorboard",
        "run.timeout",
        "model.encoder_weights",
        "model.init_from",
    }
)


def save_checkpoint(payload: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint so that `path` is, at any moment, the old file or the new one.

    Args:
        payload: Tensors, numbers, strings, and dicts and lists of them.
        path: The target; its folder exists.

    Raises:
        OSError: It can't be written; the old file is as it was.
    """

    def write(beside: Path) -> None:
        with beside.open("wb") as file:
            try:
                torch.save({"version": VERSION, **payload}, file)
            except RuntimeError as error:  # closing its archive, torch hides the system's error
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.flush()
            os.fsync(file.fileno())  # before the rename: a power failure must not leave half a file

    with explain_failed_write(path):
        write_atomically(path, write)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU. Code that may be hidden in the file is not run.

    Raises:
        MissingFileError: There is none.
        PnaError: It is damaged, no checkpoint, or of another version of this package.
    """
    if not path.is_file():
        raise MissingFileError(f"{path}: expected a checkpoint, found no such file")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file torch.load may raise anything
        raise _damaged(path, error) from error
    if not isinstance(payload, dict):
        raise _damaged(path, f"it holds a {type(payload).__name__}")
    if payload.get("version") != VERSION:
        raise PnaError(
            f"{path}: expected checkpoint version {VERSION}, got {payload.get('version')}: "
            "continue the run with the release that began it"
        )
    return payload


@contextlib.contextmanager
def explain_misfit(path: Path) -> Iterator[None]:
    """Name the file in errors from the content of a checkpoint. Put nothing else inside.

    Raises:
        PnaError: Something is missing in it, or has another shape or type.
    """
    try:
        yield
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, reason: Exception | str) -> PnaError:
    lines = str(reason).splitlines() or [type(reason).__name__]
    return PnaError(
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
        PnaError: Something differs that isn't in `CHANGEABLE`; the message lists all of it.
    """
    differing = differing_settings(saved["recipe"], recipe, ignored=CHANGEABLE)
    if saved["classes"] != classes:
        before, now = len(saved["classes"]), len(classes)
        differing.append(
            f"there were {before} classes, are {now}"
            if before != now
            else f"classes were {', '.join(saved['classes'])}, are {', '.join(classes)}"
        )
    if differing:
        raise PnaError(
            f"{path}: expected the recipe that the run began with, got another "
            f"({'; '.join(differing)}): undo that, or train into a new folder"
        )


def differing_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], *, ignored: Collection[str]
) -> list[str]:
    """List the settings in which two recipes differ, a phrase each.

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
