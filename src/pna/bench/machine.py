"""What a result was measured on."""

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

# The optional ones are what backends of the operator are made of.
_PACKAGES = ("pna", "torch", "torchvision", "timm", "numpy", "triton", "numba")


def describe(device: str | torch.device) -> dict[str, Any]:
    """Processor, threads, device, versions, and how busy the machine is.

    Args:
        device: What is measured on.
    """
    device = torch.device(device)
    return {
        "processor": _processor(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "load": _load(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": {name: found for name in _PACKAGES if (found := _version(name)) is not None},
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def sentence(machine: dict[str, Any]) -> str:
    """The same in a line, for those who read a table."""
    device = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    load = "" if machine["load"] is None else f", load {machine['load']:.1f} before the run"
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return f"{device}, {machine['threads']} threads{load}; {versions}; {machine['date']}"


def _processor() -> str:
    name, cpuinfo = platform.processor(), Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    # Models of one name differ by a factor in what they compute at once.
    vectors = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {vectors}, {os.cpu_count()} cores"


def _load() -> float | None:
    """Processes that wanted to run over the last minute; None where the system doesn't say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
