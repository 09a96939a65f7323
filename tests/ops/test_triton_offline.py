"""What can be known of the fused kernels without a GPU.

Their numbers, from Triton's interpreter; and that they compile for a GPU, with which resources.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from pna.ops import neighborhood_attention, triton, why_not

HOPPER_SHARED = 227 * 1024  # bytes a program may have on compute capability 9.0
needs_triton = pytest.mark.skipif(not triton._IS_INSTALLED, reason="Triton is not installed")


@needs_triton
@pytest.mark.triton
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("marks", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_interpreted(marks):
    """In its own process: the interpreter has to be chosen before Triton is imported."""
    file = Path(__file__).with_name("test_triton.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        file,
        "-q",
        "-p",
        "no:cacheprovider",
        "--timeout=0",
        "-m",
    ]
    done = subprocess.run(
        [*command, f"triton and {marks} and not cuda"],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=file.parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout


class Hopper:
    """Stands in for Triton's driver of the GPU that is not here."""

    def get_current_device(self):
        return "a compiler's"  # key of a cache of kernels, apart from those of real devices

    def get_current_stream(self, device):
        return None

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)


@pytest.fixture
def compiled(monkeypatch):
    """Compile what is launched instead of launching it; a list of (name, kernel)."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    kernels = []

    def compile_only(self, *args, grid, warmup, **options):
        kernels.append((self.__name__, run(self, *args, grid=grid, warmup=True, **options)))

    run = JITFunction.run
    monkeypatch.setattr(driver, "_active", Hopper())
    monkeypatch.setattr(JITFunction, "run", compile_only)
    return kernels


def _launch(B, heads, queries, keys, d, dv, window, dtype, dilation=1):
    """Forward and backward pass on uninitialized maps, strided as the model's are."""

    def split(grid, width, parts):
        return torch.empty(B, *grid, heads, width, dtype=dtype).movedim(3, 1).chunk(parts, -1)

    if queries == keys:
        query, key = split(keys, 2 * d, 2)
    else:
        (query,), (key,) = split(queries, d, 1), split(keys, d, 1)
    (value,), (grad,) = split(keys, dv, 1), split(queries, dv, 1)
    inputs = (query, key, value, torch.empty(heads, 2 * window - 1, 2 * window - 1))
    output, lse = triton.triton_attention(*inputs, window, dilation, 0.5)
    triton.triton_attention_backward(grad, *inputs, output, lse, window, dilation, 0.5)


def _resources(kernel):
    """Registers and bytes of stack of one thread, as the assembler counted them."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    return int(registers), int(stack)


KERNELS = ["forward_kernel", "backward_query_kernel", "backward_key_value_kernel"]
KERNELS += ["backward_bias_kernel", "collect_bias_kernel"]


@needs_triton
@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize(("side", "window", "programs"), [(128, 9, 3), (64, 5, 2)])
def test_compiles_for_hopper_without_spilling(compiled, side, window, programs):
    """The cases to be fast in: tensor cores, no spilled registers, several programs at a time."""
    _launch(16, 3, (128, 128), (side, side), 32, 32, window, torch.float16)
    assert [name for name, _ in compiled] == KERNELS
    for name, kernel in compiled:
        registers, stack = _resources(kernel)
        assert stack == 0, name
        assert registers <= 65536 // (programs * 128), name
        assert kernel.metadata.shared <= HOPPER_SHARED // 8, name
        assert ("wgmma" in kernel.asm["ptx"]) == (name != "collect_bias_kernel")


@needs_triton
@pytest.mark.triton
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("d", "dv", "queries", "keys", "window", "dilation"),
    [
        (8, 8, (1, 1), (1, 1), 1, 1),
        (32, 21, (16, 5), (16, 5), 13, 1),
        (128, 128, (64, 64), (64, 64), 9, 1),
        (768, 768, (16, 16), (16, 16), 9, 1),
        (32, 32, (32, 32), (32, 32), 5, 2),
        (32, 21, (64, 64), (16, 16), 5, 1),
        (128, 128, (16, 16), (32, 32), 5, 1),
        (32, 21, (16, 11), (5, 16), 3, 3),
        (8, 8, (1, 600), (1, 2**21), 3, 1),  # positions in 64 bits
    ],
)
def test_compiles_for_hopper(compiled, d, dv, queries, keys, window, dilation, dtype):
    _launch(1, 1, queries, keys, d, dv, window, dtype, dilation)
    names = [name for name, _ in compiled]
    assert names[:5] == KERNELS
    assert set(names[5:]) <= set(KERNELS[3:])  # the bias gradient, some tiles at a time
    assert max(kernel.metadata.shared for _, kernel in compiled) <= HOPPER_SHARED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"_IS_INSTALLED": False}, "not installed"),
        ({}, "CUDA"),
    ],
)
def test_why_not(change, reason, monkeypatch):
    monkeypatch.setattr(triton, "_IS_INSTALLED", True)
    for name, value in change.items():
        monkeypatch.setattr(triton, name, value)
    query = torch.zeros(1, 1, 2, 2, 2)
    assert reason in why_not("triton", query)
    with pytest.raises(ValueError, match=f"'triton' cannot serve this call: .*{reason}"):
        neighborhood_attention(query, query, query, window=3, backend="triton")
