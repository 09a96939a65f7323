"""Turn a finished training run into a bundled model: `python benchmarks/bundle.py RUN NAME`.

Writes half-precision weights (norm statistics stay in float32), configuration, recipe, log and the
scores of the run's own evaluation to `src/pna/bundled/models/NAME`; its README is written by hand.
"""

import shutil
import sys
from pathlib import Path

import torch
from runs import portable_recipe

import pna
from pna.train import dump_recipe

MODELS = Path(pna.__file__).parent / "bundled" / "models"


def main() -> None:
    """Bundle RUN as NAME."""
    run, folder = Path(sys.argv[1]), MODELS / sys.argv[2]
    pna.load(run / "model").save_pretrained(folder, dtype=torch.float16)
    (folder / "recipe.yaml").write_text(dump_recipe(portable_recipe(run)), encoding="utf-8")
    shutil.copy(run / "log.jsonl", folder)
    shutil.copy(run / "evaluation" / "scores.json", folder)
    print(folder)


if __name__ == "__main__":
    main()
