"""The line of progress: on a terminal, in a log, and its words."""

import contextlib

import pytest

from pna.cli import progress
from pna.cli.progress import ProgressLine
from pna.inference.progress import Pace, Progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_a_log_gets_a_line_now_and_then(clock, capsys):
    with ProgressLine("clip.mp4", "frames") as line:
        for done in range(5):
            line(Progress(done, 4, 0.1 if done else None, 10.0 * (4 - done) if done else None))
            clock[0] += 20
    assert capsys.readouterr().err.splitlines() == [
        "clip.mp4: 0 of 4 frames",
        "clip.mp4: 2 of 4 frames, 10 s each, 20 s left",
        "clip.mp4: 4 of 4 frames, 10 s each, 0 s left",
    ]


def test_a_terminal_has_one_line_that_ends(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with contextlib.suppress(KeyError), ProgressLine("clip.mp4", "frames") as line:
        line(Progress(0, None, None, None))
        line(Progress(1, None, 20.0, None))  # too early
        clock[0] += 1
        line(Progress(2, None, 2.0, None))
        raise KeyError
    expected = "\r\x1b[Kclip.mp4: 0 frames\r\x1b[Kclip.mp4: 2 frames, 2.0 a second\n"
    assert capsys.readouterr().err == expected


def test_nothing_shown_nothing_ended(capsys):
    with ProgressLine("clip.mp4", "frames"):
        pass
    assert capsys.readouterr().err == ""


def test_pace(clock):
    pace = Pace(10, found=4)
    assert pace.after(0) == Progress(4, 10, None, None)
    clock[0] += 4
    assert pace.after(2) == Progress(6, 10, 0.5, 8.0)
    clock[0] += 8
    assert pace.after(6) == Progress(10, 10, 0.5, 0.0)
    assert pace.after(7).total is None  # more than the header said
    assert pace.after(7).seconds_left is None
    assert Pace(None).after(0) == Progress(0, None, None, None)


def test_durations():
    assert progress._duration(5) == "5 s"
    assert progress._duration(65) == "1 min 5 s"
    assert progress._duration(7300) == "2 h 1 min"
