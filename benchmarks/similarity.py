"""Where the attention weights of a trained network lie: on the object of the pixel, or beside it.

    python benchmarks/similarity.py RUN [RUN ...] [--set data.root=PATH]

takes five pixels near edges of every validation image, with another class at most 8 pixels away,
and writes `results/similarity.json` and `similarity.md`: the share of their weights that lies on
the pixel's own class, and the share that equal weights in the same windows would have. The mean is
taken over the pixels; a run of the same name is replaced.
"""

from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from trained import record

import pna
from pna.labels import IGNORE_INDEX
from pna.model.segmenter import StageSimilarity
from pna.train import load_recipe
from pna.train.build import create_split

PIXELS = 5
"""Pixels of each image."""
RADIUS = 8
"""Pixels to another class, along rows and columns."""


def near_edges(labels: Tensor) -> Tensor:
    """Find the pixels (n, 2), row and column, of (H, W) with another class nearby."""
    side = 2 * RADIUS + 1
    found = torch.zeros_like(labels, dtype=torch.bool)
    for label in labels.unique():  # type: ignore[no-untyped-call]
        if label != IGNORE_INDEX:
            other = ((labels != label) & (labels != IGNORE_INDEX)).float()
            near = F.max_pool2d(other[None], side, stride=1, padding=RADIUS)[0] > 0
            found |= near & (labels == label)
    return found.nonzero()


def shares(near: StageSimilarity, labels: Tensor, place: tuple[int, int]) -> tuple[float, float]:
    """Share of the weights on the class of a pixel (row, column), and that of equal weights."""
    stride, (H, W) = round(near.stride), labels.shape
    own = (labels == labels[place]).float()[None, None]
    # Windows may reach into the padding, which repeats the edge of the image.
    (top, bottom), (left, right) = near.rows, near.cols
    padding = (0, max(0, stride * right - W), 0, max(0, stride * bottom - H))
    own = F.pad(own, padding, mode="replicate")
    own = own[..., stride * top : stride * bottom, stride * left : stride * right]
    window = F.avg_pool2d(own, stride)[0, 0]
    return float((near.weights.mean(0) * window).sum()), float(window.mean())


def measure(run: Path, overrides: list[str]) -> dict[str, Any]:
    """Mean shares over the pixels, by stage, the coarsest first."""
    dataset = create_split(load_recipe(run / "recipe.yaml", overrides).data, "val")
    predictor = pna.Predictor(pna.load(run / "model"))
    found: dict[int, list[tuple[float, float]]] = {}
    for number in range(len(dataset)):
        image, labels, *_ = dataset[number]
        places = near_edges(labels)
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(number))
        for row, column in places[order[:PIXELS]].tolist():
            prediction = predictor(image, similar=(column, row))
            for near in prediction.similarity or []:
                found.setdefault(near.stage, []).append(shares(near, labels, (row, column)))
    return {
        "pixels": len(next(iter(found.values()))),
        "stages": {
            str(stage): {"weights": fmean(a for a, _ in pairs), "equal": fmean(b for _, b in pairs)}
            for stage, pairs in sorted(found.items())
        },
    }


def table(results: dict[str, Any]) -> str:
    """The page in Markdown."""
    lines = [
        "# Where the weights lie",
        "",
        "Made by `python benchmarks/similarity.py RUN ...`; machines are in `similarity.json`.",
        "Share of the attention weights on the class of the pixel, for pixels near edges, and in",
        "brackets the share of equal weights in the same windows; per cent.",
        "",
        "| run | pixels | stage 1 | stage 2 | stage 3 | stage 4 |",
        "|---|---|---|---|---|---|",
    ]
    for run, result in results.items():
        cells = " | ".join(
            f"{100 * of['weights']:.1f} ({100 * of['equal']:.1f})"
            for of in result["stages"].values()
        )
        lines.append(f"| {run} | {result['pixels']} | {cells} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    record("similarity", __doc__.splitlines()[0], measure, table)
