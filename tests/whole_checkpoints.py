"""Whole checkpoints of the authors by rule: weights from the names, an image from a seed."""

import json
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent / "golden" / "full"
SHARED = Path(os.environ.get("PNA_SHARED", Path(__file__).parents[2] / "shared"))
BESIDE = SHARED / "golden" / "full"


CASES = (
    "mm_fcn_r50_d32_voc",
    "mm_fcn_r50_d32_voc_odd",
    "mm_psp_r101_d16_voc",
    "mm_psp_swin_tiny_voc",
    "mm_deeplabv3_r50_d16_cocostuff10k",
    "d2_fpn_r52_cityscapes",
    "d2_fpn_r52_cityscapes_odd",
    "d2_fpn_r52_deepglobe",
    "d2_fpn_r52_trans10k",
    "d2_deeplabv3_r52_os16_cityscapes_small",
    "d2_deeplabv3_r52_os16_cityscapes",
)
WITH_THE_TESTS = ("mm_fcn_r50_d32_voc", "d2_fpn_r52_deepglobe")


def folder_of(name: str) -> Path | None:
    """The folder that holds a case: that of the tests, or the shared one where it is there."""
    return next((f for f in (HERE, BESIDE) if (f / f"{name}.json").is_file()), None)


def read_case(name: str) -> dict[str, Any]:
    folder = folder_of(name)
    if folder is None:
        pytest.skip(f"no {name}.json in {HERE} and {BESIDE}; set PNA_SHARED to the shared folder")
    case = json.loads((folder / f"{name}.json").read_text())
    case["file"] = folder / f"{name}.safetensors"
    return case


def shapes_of(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict of a case without values."""
    return {
        name: torch.empty(shape, dtype=getattr(torch, dtype), device="meta")
        for name, shape, dtype in case["keys"]
    }


def state_of(case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The state dict of a case, in the order of the authors' code."""
    return {
        name: fill(name, shape, getattr(torch, dtype))
        for name, shape, dtype in case["keys"]
        if not name.endswith("relative_position_index")
    }


def image_of(case: dict[str, Any]) -> torch.Tensor:
    """The image of a case, (1, 3, H, W) in [0, 1]."""
    picture = case["picture"]
    array = draw(picture["height"], picture["width"], picture["seed"])
    return torch.from_numpy(array).permute(2, 0, 1)[None].float() / 255


def fill(name: str, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    """Values of mean 0 or 1, uniform, from a name; a block's last norm is small."""
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    u = np.random.RandomState(zlib.crc32(name.encode())).random_sample(tuple(shape))
    n = (2 * u - 1) * math.sqrt(3)
    leaf = name.rpartition(".")[2]
    if leaf == "running_var":
        x = 0.5 + u
    elif leaf in ("running_mean", "bias"):
        x = 0.1 * n
    elif leaf in ("rpb", "relative_position_bias_table"):
        x = 0.2 * n
    elif leaf == "temperature" or len(shape) == 1:
        x = 1 + 0.1 * n
        if name.endswith(("bn3.weight", "conv3.norm.weight")) and "stem" not in name:
            x = 0.25 * x  # or deep networks overflow
    else:
        x = n * math.sqrt(2 / math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(x)).to(dtype)


def draw(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth noise (height, width, 3), uint8, of three scales."""
    random = np.random.RandomState(seed)
    total = np.zeros((height, width, 3), dtype=np.int64)
    rows, cols = np.arange(height), np.arange(width)
    for step, share in ((32, 5), (8, 2), (1, 1)):
        size = (height // step + 2, width // step + 2, 3)
        grid = np.floor(256 * random.random_sample(size)).astype(np.int64)
        a, b = (rows % step)[:, None, None], (cols % step)[None, :, None]
        near, far = grid[rows // step], grid[rows // step + 1]
        top = near[:, cols // step] * (step - b) + near[:, cols // step + 1] * b
        bottom = far[:, cols // step] * (step - b) + far[:, cols // step + 1] * b
        total += share * ((top * (step - a) + bottom * a) // step**2)
    return np.clip(2 * (total // 8) - 128, 0, 255).astype(np.uint8)


def tensors_of(model: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """What the cases hold: P0, stages and logits, and features and pyramid on the way."""
    found: dict[str, torch.Tensor] = {}

    def keep(kind: str) -> Any:
        def hook(module: Any, inputs: Any, output: list[torch.Tensor]) -> None:
            found.update({f"{kind}.{i}": x for i, x in enumerate(output)})

        return hook

    hooks = [model.encoder.register_forward_hook(keep("feature"))]
    if hasattr(model.coarse, "scale_heads"):
        hooks.append(model.coarse.pyramid.register_forward_hook(keep("pyramid")))
    with torch.inference_mode():
        output = model(images, stages=True)
    for hook in hooks:
        hook.remove()
    found |= {f"stage.{m}": x for m, x in enumerate(output.stages, 1)}
    return found | {"coarse": output.coarse, "logits": output.logits}


def deviations(case: dict[str, Any], got: dict[str, torch.Tensor]) -> dict[str, float]:
    """The largest difference of each tensor by its largest magnitude; shapes must be equal."""
    result, values = {}, load_file(case["file"])
    for name, about in case["tensors"].items():
        assert list(got[name].shape) == about["whole"]["shape"], name
        kept = about["kept"]
        rows, cols = slice(*kept["rows"]), slice(*kept["cols"])
        part = got[name][0, kept["channels"]][:, rows, cols]
        largest = max(abs(about["whole"]["min"]), abs(about["whole"]["max"]))
        result[name] = float((part - values[name]).abs().max()) / largest
    return result
