"""Turns a finished training run into a bundled model: `python benchmarks/bundle.py RUN NAME`.

Writes half-precision weights (norm statistics stay in float32), configuration, recipe, log and the
scores of the run's own evaluation to `src/pna/bundled/models/NAME`; its README is written by hand.
"""

import shutil
import sys
from pathlib import Path

import torch

import pna
from pna.train import dump_recipe, load_recipe

MODELS = Path(pna.__file__).parent / "bundled" / "models"


def main() -> None:
    """Bundle RUN as NAME."""
    run, name = Path(sys.argv[1]), sys.argv[2]
    folder = MODELS / name
    pna.load(run / "model").save_pretrained(folder, dtype=torch.float16)
    # Where the data lay is of this machine, not of the recipe.
    root = load_recipe(name).data.root
    recipe = dump_recipe(load_recipe(run / "recipe.yaml", [f"data.root={root}"]))
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    shutil.copy(run / "log.jsonl", folder / "log.jsonl")
    shutil.copy(run / "evaluation" / "scores.json", folder / "scores.json")
    print(folder)


if __name__ == "__main__":
    main()
