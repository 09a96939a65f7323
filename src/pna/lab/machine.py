"""The machine that a result was measured on."""

import datetime
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

# Triton and numba compile the operator's backends; the process may not have them.
_PACKAGES = ("pna", "torch", "torchvision", "timm", "numpy", "triton", "numba")


def describe(device: str | torch.device) -> dict[str, Any]:
    """Describe processor, threads, device, versions and load, as plain values.

    Args:
        device: The device that is measured.

    Example:
        >>> describe("cpu")["device"]
        'cpu'
    """
    device = torch.device(device)
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        # Processes that were ready to run in the last minute; Windows has no such number.
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": versions,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def sentence(machine: Mapping[str, Any]) -> str:
    """Format a description in a line, for the notes of a table."""
    device = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    load = "" if machine["load"] is None else f", load {machine['load']:.1f} before the run"
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    return f"{device}, {threads}{load}; {versions}; {machine['date']}"


def _processor() -> str:
    # On Linux `platform.processor` is the architecture alone ("x86_64").
    name, cpuinfo = platform.processor(), Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    # Processors of one name may differ in their vector instructions, which decide the speed.
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {vectors}, {os.cpu_count()} cores"
