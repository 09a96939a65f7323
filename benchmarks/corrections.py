"""How large the corrections of a trained network's stages are, and how that varies over cells.

    python benchmarks/corrections.py RUN [RUN ...] [--set data.root=PATH]

runs the model of each run folder over its validation split, and writes `results/corrections.json`
and `corrections.md` there, in which a run of the same name is replaced and others stay. A cell's
size is a Euclidean norm over channels: of what the stage's classifier reads, and of the logits that
it adds, less their mean over classes.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from trained import record

import pna
from pna.model.aggregation.stage import Stage
from pna.predict import default_device
from pna.train import load_recipe
from pna.train.assemble import create_split

QUANTILES = (0.05, 0.5, 0.95)


def watch(stage: Stage, read: list[Tensor], added: list[Tensor]) -> None:
    """Note the sizes of every cell that the stage's classifier reads, and of what it adds."""

    def note(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        read.append(inputs[0].norm(dim=-1).flatten())
        added.append((output - output.mean(-1, keepdim=True)).norm(dim=-1).flatten())

    stage.classifier.register_forward_hook(note)


def measure(run: Path, overrides: list[str]) -> dict[str, Any]:
    """Quantiles of the sizes over all cells of the split, stage by stage from the coarsest.

    Args:
        run: A run folder with an exported model.
        overrides: Changes to its recipe, as `section.key=value`.
    """
    dataset = create_split(load_recipe(run / "recipe.yaml", overrides).data, "val")
    model = pna.load(run / "model")
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    seen: list[dict[str, list[Tensor]]] = [{"read": [], "added": []} for _ in stages]
    for stage, found in zip(stages, seen, strict=True):
        watch(stage, **found)
    device = default_device()
    model.to(device).eval()
    with torch.inference_mode():
        for index in range(len(dataset)):
            model(dataset.load(index).picture[None].to(device))
    sizes = [{name: quantiles(torch.cat(x)) for name, x in found.items()} for found in seen]
    return {"stages": sizes}


def quantiles(x: Tensor) -> list[float]:
    """Those of `QUANTILES`; exact, for any number of values."""
    x = x.sort().values
    return [round(float(x[round(q * (len(x) - 1))]), 3) for q in QUANTILES]


def table(results: dict[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# Sizes of the stages' corrections",
        "",
        "Made by `python benchmarks/corrections.py RUN ...`; machines are in `corrections.json`.",
        "Over the cells of all validation pictures: median, and the 95 % quantile as a multiple of",
        "the 5 % quantile, of what a stage's classifier reads and of the logits that it adds.",
        "",
        "| run | stage | read | 95 % / 5 % | added | 95 % / 5 % |",
        "|---|---|---|---|---|---|",
    ]
    for run, result in results.items():
        for number, sizes in enumerate(result["stages"], 1):
            cells = [
                text
                for low, middle, high in (sizes["read"], sizes["added"])
                for text in (f"{middle:.2f}", f"{high / low:.2f}")
            ]
            lines.append(f"| {run} | {number} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    record("corrections", __doc__.splitlines()[0], measure, table)
