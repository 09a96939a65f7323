"""How far a run is, by its own pace."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        done: Finished blocks or frames, with those of an earlier run.
        total: All of them; None if that is not known.
        per_second: The pace of this run; None before its first one is done.
        seconds_left: By this pace; None before the first one is done, or without a total.
    """

    done: int
    total: int | None
    per_second: float | None
    seconds_left: float | None


class Pace:
    """The clock of a run; started when it is made.

    Args:
        total: Number of blocks or frames; None if that is not known.
        found: Those that an earlier run had finished.
    """

    def __init__(self, total: int | None, *, found: int = 0) -> None:
        self._total, self._found = total, found
        self._begin = time.perf_counter()

    def after(self, done: int) -> Progress:
        """Return the progress.

        Args:
            done: Those that this run has finished.
        """
        total, all_done = self._total, self._found + done
        if total is not None and all_done > total:  # it was an estimate
            total = None
        if done == 0:
            return Progress(all_done, total, None, None)
        seconds = time.perf_counter() - self._begin
        left = None if total is None else (total - all_done) * seconds / done
        return Progress(all_done, total, done / max(seconds, 1e-9), left)
