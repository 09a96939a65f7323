"""Reads the golden cases that several test modules compare with."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

GOLDEN = Path(__file__).parent / "golden"


def names(kind: str) -> list[str]:
    return sorted(path.stem for path in GOLDEN.glob(f"{kind}_*.safetensors"))


def load(name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        config = json.loads(next(iter(file.metadata().values())))
    return tensors, config


def relative_error(got: torch.Tensor, expected: torch.Tensor) -> float:
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm())


def state(tensors: dict[str, torch.Tensor], prefix: str = "state.") -> dict[str, torch.Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
