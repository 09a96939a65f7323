"""Compilation by numba with and without a place for the machine code."""

import os
import subprocess
import sys

import pytest

CODE = """
import numpy as np
from numba import types
from pna.ops.compilation import compile_for

@compile_for(types.float32(types.float32[::1]))
def total(values):
    result = np.float32(0)
    for value in values:
        result += value
    return result

print(total(np.arange(4, dtype=np.float32)))
"""


@pytest.mark.parametrize("is_writable", [True, False])
def test_a_cache_is_used_where_there_is_a_place_for_it(tmp_path, is_writable):
    """Installed by another user, without a home folder: as in a container with `--user 1000`."""
    (tmp_path / "kernel.py").write_text(CODE)
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    if not is_writable:
        (tmp_path / "__pycache__").touch()  # a file in its place stops root too
        environment |= {"HOME": "/dev/null/none", "XDG_CACHE_HOME": "/dev/null/none"}
    done = subprocess.run(
        [sys.executable, "kernel.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.stdout, done.stderr) == ("6.0\n", "")
    assert (tmp_path / "__pycache__").is_dir() == is_writable
