"""What a result was measured on, and the one way in which results are written."""

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def describe() -> dict[str, Any]:
    """Processor, threads and versions."""
    import torch

    return {
        "processor": _processor(),
        "system": platform.platform(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "versions": {name: version(name) for name in ("pna", "torch", "timm", "numpy")},
        "python": platform.python_version(),
    }


def write(name: str, command: str, rows: list[dict[str, Any]]) -> Path:
    """Write `results/NAME.json` beside its place, then rename it."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    beside = path.with_suffix(".writing")
    result = {"command": command, "machine": describe(), "rows": rows}
    beside.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(beside, path)
    return path


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {os.cpu_count()} cores"
    return f"{platform.processor()}, {os.cpu_count()} cores"
