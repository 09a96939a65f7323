"""Scores of a trained network with one of its parts knocked out.

    python benchmarks/knockout.py RUN [RUN ...] [--set data.root=PATH]

scores the model of each run folder on its validation split, whole and without one kind of part in
all stages, and writes `results/knockout.json` and `knockout.md`; a run of the same name is
replaced. Nothing is trained again: the scores show which parts the trained network relies on, not
how well it could have learned without them.
"""

from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from trained import record

import pna
from pna.evaluate import evaluate
from pna.inference.devices import default_device
from pna.model.pna.stage import Stage
from pna.model.segmenter import BaseSegmenter
from pna.train import load_recipe
from pna.train.build import create_split

Substitute = Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]


def nothing(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return zeros instead of the part's output."""
    return torch.zeros_like(output)


def first_input(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return the part's input."""
    return inputs[0]


def second_input(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Return the second of the part's inputs."""
    return inputs[1]


PARTS: dict[str, tuple[str, Substitute]] = {
    "NAM adds nothing": ("fusion.neighborhood", nothing),
    "features past SAM": ("fusion.self_aggregation", first_input),
    "logits not gathered": ("carry", second_input),
    "no corrections, gathered logits alone": ("classifier", nothing),
}
"""By name: the part of a stage, and the function whose result replaces its output."""


def knock_out(model: BaseSegmenter, name: str) -> bool:
    """Knock a part out in all stages; False if the model has no such part."""
    path, substitute = PARTS[name]
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    parts = [part for part in map(attrgetter(path), stages) if part is not None]
    for part in parts:
        part.register_forward_hook(substitute)
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
