"""The log of a run: `log.jsonl` always, TensorBoard where installed, progress on the console."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from pna.files import write_text_atomically
from pna.train.errors import explain_failed_write


class Writer(Protocol):
    """The part of TensorBoard's `SummaryWriter` that is used."""

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """Record one number."""

    def close(self) -> None:
        """Finish the file."""


class Meter:
    """Mean of some scalars since the last call of `means`; sums stay on their device until then."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Count one step's scalars in."""
        for name, value in parts.items():
            # On the device, because reading a value would wait for the GPU at every step; in
            # float32, because sums in half precision lose digits.
            value = value.detach().to(torch.promote_types(value.dtype, torch.float32))
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def means(self) -> dict[str, Tensor]:
        """Return the means since the last call, and start anew."""
        means = {name: value / max(1, self.count) for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means

    def state_dict(self) -> dict[str, Any]:
        """Return sums and count, for a checkpoint."""
        return {"sums": dict(self.sums), "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continue from a checkpoint."""
        self.sums = {name: value.to(device) for name, value in state["sums"].items()}
        self.count = state["count"]


class RunLog:
    """Rows in `log.jsonl` (and TensorBoard), and progress on the console.

    Args:
        run: The run folder.
        start: Step the run begins at; rows it will write again are removed (see `cut_log`).
        steps: Length of the run.
        tensorboard: Whether to write events too, where the package is installed.
        console: Where to show progress: a bar on a terminal, a line per row elsewhere.
    """

    def __init__(
        self, run: Path, *, start: int, steps: int, tensorboard: bool, console: Console
    ) -> None:
        self.path = run / "log.jsonl"
        cut_log(self.path, start)
        self._file = self.path.open("a", encoding="utf-8")
        self._writer = _tensorboard(run / "tensorboard", start) if tensorboard else None
        self._console = console
        self._progress = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=steps, completed=start)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()
        with contextlib.suppress(OSError):  # every row was flushed, or has failed already
            self._file.close()
        if self._writer is not None:
            self._writer.close()

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=step)

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Write one row.

        Args:
            kind: "train", "eval" or "final".
            step: Number of steps taken.
            values: Numbers, and dicts of numbers, by name.

        Raises:
            OSError: It can't be written.
        """
        with explain_failed_write(self.path):
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            self._file.flush()  # a run that is killed keeps the row
        numbers = _numbers(values)
        for name, value in numbers.items():
            if self._writer is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, step)
        text = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        # On a terminal the losses stand beside the bar, and every other row keeps its line.
        if kind == "train" and self._console.is_terminal:
            self._progress.update(self._task, description=text)
        else:
            self.say(f"{kind} {step}: {text}")

    def say(self, message: str) -> None:
        """Show a message."""
        self._console.print(message, soft_wrap=True, highlight=False, markup=False)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a log, less a last line that was cut off while it was written."""
    rows: list[dict[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                rows.append(json.loads(line))
    return rows


def cut_log(path: Path, step: int) -> None:
    """Remove the rows that a run resumed at `step` writes again.

    The checkpoint of a step comes after its training row and before its evaluation.
    """
    if not path.is_file():
        return
    kept = [
        json.dumps(row) + "\n"
        for row in read_log(path)
        if row["step"] < step or (row["step"] == step and row["kind"] == "train")
    ]
    write_text_atomically(path, "".join(kept))


def _numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    numbers: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            numbers |= _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            numbers[f"{prefix}{name}"] = value
    return numbers


def _tensorboard(folder: Path, start: int) -> Writer | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the `track` extra
        return None
    # Events of steps that are taken again are hidden, as `cut_log` removes their rows.
    writer: Writer = SummaryWriter(str(folder), purge_step=start + 1)
    return writer
