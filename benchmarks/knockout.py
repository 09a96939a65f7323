"""Scores of a trained network with one of its parts knocked out.

    python benchmarks/knockout.py RUN [RUN ...] [--set data.root=PATH]

scores the model of each run folder on its validation split, whole and without one kind of part in
all stages, and writes `results/knockout.json` and `knockout.md`; a run of the same name is
replaced. Nothing is trained again: the scores show which parts the trained network relies on, not
how well it could have learned without them.
"""

from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from trained import record

import pna
from pna.evaluate import evaluate
from pna.inference.devices import default_device
from pna.model.pna.stage import Stage
from pna.model.resize import resize
from pna.train import load_recipe
from pna.train.build import create_split

Substitute = Callable[[nn.Module, Any, Any], Any]
"""Takes a part, its inputs and its output; returns what to use instead of the output."""


def nothing(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return zeros."""
    return torch.zeros_like(output)


def first_input(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return the first of the part's inputs."""
    return inputs[0]


def resized(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> Any:
    """Return logits (B, h, w, K), resized and not gathered, beside what they are gathered with."""
    feature, logits, *_ = inputs
    _, neighborhood = output
    carried = resize(logits.permute(0, 3, 1, 2), feature.shape[1:3]).permute(0, 2, 3, 1)
    return carried, neighborhood


def unmixed(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return a depth-wise convolution's output for maps (B, D, H, W) that are equal everywhere.

    Each cell then stands for all of its neighbors, so that the size of the features stays.
    """
    assert isinstance(module, nn.Conv2d)
    assert module.bias is not None
    weight, bias = module.weight.sum((1, 2, 3)), module.bias
    return inputs[0] * weight[:, None, None] + bias[:, None, None]


def replace(substitute: Substitute) -> Callable[[Any], None]:
    """Make the function that replaces a module's output."""

    def knock(module: nn.Module) -> None:
        module.register_forward_hook(substitute)

    return knock


def flatten(log_sharpness: nn.Parameter) -> None:
    """Set the weight of the color distance to 0."""
    nn.init.constant_(log_sharpness, -torch.inf)


PARTS: dict[str, tuple[tuple[str, ...], Callable[[Any], None]]] = {
    "NAM adds nothing": (("fusion.neighborhood",), replace(nothing)),
    "prediction not embedded": (("embed_prediction",), replace(nothing)),
    "features not handed on": (("receive",), replace(nothing)),
    "features past SAM": (("fusion.self_aggregation",), replace(first_input)),
    "cells not mixed": (("fusion.blocks.*.mix",), replace(unmixed)),
    "logits not gathered": (("carry",), replace(resized)),
    "learned similarity not used": (("carry.query",), replace(nothing)),
    "colors not used": (("carry.log_sharpness",), flatten),
    "no corrections, gathered logits alone": (("classifier",), replace(nothing)),
}
"""By name: patterns of the part's path in a stage of any variant, and a function to disable it."""


def knock_out(model: nn.Module, name: str) -> bool:
    """Knock a part out in all stages; False if the model has no such part."""
    patterns, disable = PARTS[name]
    parts = [
        part
        for stage in model.modules()
        if isinstance(stage, Stage)
        for path, part in [*stage.named_modules(), *stage.named_parameters()]
        if any(fnmatch(path, pattern) for pattern in patterns)
    ]
    for part in parts:
        disable(part)
    return bool(parts)


def score(run: Path, overrides: list[str]) -> dict[str, Any]:
    """MIoU and boundary IoU of every output in per cent, by the part that is knocked out.

    Args:
        run: A run folder with a saved model.
        overrides: Changes to its recipe, as `section.key=value`.
    """
    dataset = create_split(load_recipe(run / "recipe.yaml", overrides).data, "val")
    by_part: dict[str, dict[str, list[float]]] = {}
    for name in ("whole", *PARTS):
        model = pna.load(run / "model")
        if name != "whole" and not knock_out(model, name):
            continue
        report = evaluate(model, dataset, model_name=name, device=default_device())
        stages = [scores.to_dict() for scores in report.stages.values()]
        by_part[name] = {
            metric: [round(100 * stage[metric], 2) for stage in stages]
            for metric in ("miou", "boundary_miou")
        }
    return {"scores": by_part}


def table(results: dict[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# Parts knocked out",
        "",
        "Made by `python benchmarks/knockout.py RUN ...`; machines are in `knockout.json`.",
        "Scores of the last output in per cent, on all validation images.",
        "",
        "| run | | mIoU | boundary IoU |",
        "|---|---|---|---|",
    ]
    for run, result in results.items():
        for name, scores in result["scores"].items():
            miou, boundary = scores["miou"][-1], scores["boundary_miou"][-1]
            lines.append(f"| {run} | {name} | {miou:.2f} | {boundary:.2f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    record("knockout", __doc__.splitlines()[0], score, table)
