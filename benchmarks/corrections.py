"""Size of the corrections of a trained network's stages, and its spread over cells.

    python benchmarks/corrections.py RUN [RUN ...] [--set data.root=PATH]

runs the model of each run folder on its validation split, and writes `results/corrections.json` and
`corrections.md`; a run of the same name is replaced. The size of a cell is the Euclidean norm over
channels of the input of the stage's classifier ("read"), and of its output, less the mean over
classes ("added").
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from trained import record

import pna
from pna.inference.devices import default_device
from pna.model.pna.stage import Stage
from pna.train import load_recipe
from pna.train.build import create_split

QUANTILES = (0.05, 0.5, 0.95)


def watch(stage: Stage, read: list[Tensor], added: list[Tensor]) -> None:
    """Append the sizes of all cells of the classifier's input and output, at each call."""

    def append(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        read.append(inputs[0].norm(dim=-1).flatten())
        added.append((output - output.mean(-1, keepdim=True)).norm(dim=-1).flatten())

    stage.classifier.register_forward_hook(append)


def measure(run: Path, overrides: list[str]) -> dict[str, Any]:
    """Quantiles of the sizes over all cells of the split, by stage, the coarsest first.

    Args:
        run: A run folder with a saved model.
        overrides: Changes to its recipe, as `section.key=value`.
    """
    dataset = create_split(load_recipe(run / "recipe.yaml", overrides).data, "val")
    model = pna.load(run / "model")
    stages = [module for module in model.modules() if isinstance(module, Stage)]
    seen: list[dict[str, list[Tensor]]] = [{"read": [], "added": []} for _ in stages]
    for stage, sizes in zip(stages, seen, strict=True):
        watch(stage, **sizes)
    device = default_device()
    model.to(device).eval()
    with torch.inference_mode():
        for index in range(len(dataset)):
            model(dataset[index].image[None].to(device))
    return {
        "stages": [{key: quantiles(torch.cat(x)) for key, x in sizes.items()} for sizes in seen]
    }


def quantiles(x: Tensor) -> list[float]:
    """The `QUANTILES`, exact for any number of values (torch.quantile takes 2^24 at most)."""
    x = x.sort().values
    return [round(float(x[round(q * (len(x) - 1))]), 3) for q in QUANTILES]


def table(results: dict[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# Sizes of the stages' corrections",
        "",
        "Made by `python benchmarks/corrections.py RUN ...`; machines are in `corrections.json`.",
        "Over the cells of all validation images: median, and the 95 % quantile as a multiple of",
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
