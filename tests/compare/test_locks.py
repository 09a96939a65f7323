"""A lock is one process's, and goes with it."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pna.compare import locks
from pna.compare.locks import try_lock

# The file alone, without the package: this takes no time.
TAKE = f"""
import runpy, sys, time
from pathlib import Path
try_lock = runpy.run_path({str(Path(locks.__file__))!r})["try_lock"]
with try_lock(Path(sys.argv[1])) as is_ours:
    print(is_ours, flush=True)
    time.sleep(3600 if is_ours else 0)
"""


def other(path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", TAKE, path], stdout=subprocess.PIPE, text=True, bufsize=1
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX locks")
def test_one_at_a_time_and_freed_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "made" / "lock"
    with other(path) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "True\n"
        with try_lock(path) as is_ours:
            assert not is_ours
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with try_lock(path) as is_ours:
        assert is_ours
        with other(path) as refused:
            assert refused.communicate()[0] == "False\n"
    with try_lock(path) as is_ours:  # given back
        assert is_ours
