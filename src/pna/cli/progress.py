"""How far a run is, as one line on standard error."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pna.inference.progress import Progress

# Seconds between two lines of a log, and between two changes of a terminal's line.
_LOG, _TERMINAL = 30.0, 0.1


class ProgressLine:
    """One line on standard error: rewritten on a terminal, else a new one from time to time.

    A context, which ends the line.

    Args:
        name: What is worked on.
        noun: The word for its parts, such as "frames".
    """

    def __init__(self, name: str, noun: str) -> None:
        self._name, self._noun = name, noun
        self._is_terminal = sys.stderr.isatty()
        self._last = -_LOG
        self._is_open = False

    def __call__(self, progress: "Progress") -> None:
        """Show how far it is."""
        now = time.monotonic()
        pause = _TERMINAL if self._is_terminal else _LOG
        if now - self._last < pause and progress.done != progress.total:
            return
        self._last = now
        of_all = "" if progress.total is None else f" of {progress.total}"
        text = f"{self._name}: {progress.done}{of_all} {self._noun}"
        if progress.per_second is not None:
            text += f", {_pace(progress.per_second)}"
        if progress.seconds_left is not None:
            text += f", {_duration(progress.seconds_left)} left"
        if self._is_terminal:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
            self._is_open = True
        else:
            print(text, file=sys.stderr, flush=True)

    def __enter__(self) -> "ProgressLine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_open:
            print(file=sys.stderr, flush=True)


def _pace(per_second: float) -> str:
    return f"{per_second:.1f} a second" if per_second >= 1 else f"{_duration(1 / per_second)} each"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
