"""Keeps what finished training runs found: `python benchmarks/runs.py RUNS`.

Copies recipe, log and scores of every finished run in the folder RUNS to `results/runs/NAME`, and
writes `results/training.md`, a table of all kept runs: mIoU and boundary IoU of every stage on the
whole validation (or test) split, the last weights of each run.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from pna.bench.machine import describe
from pna.predict import default_device
from pna.train import Recipe, dump_recipe, load_recipe

RESULTS = Path(__file__).parent / "results"
KEPT = RESULTS / "runs"


def portable_recipe(run: Path) -> Recipe:
    """The run's recipe, without the place where the data lay on this machine."""
    name = load_recipe(run / "recipe.yaml").data.name
    return load_recipe(run / "recipe.yaml", [f"data.root=data/{name}"])


def keep(run: Path) -> None:
    """Copy what a run found to the results."""
    folder = KEPT / run.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(dump_recipe(portable_recipe(run)), encoding="utf-8")
    shutil.copy(run / "log.jsonl", folder)
    shutil.copy(run / "evaluation" / "scores.json", folder)
    (folder / "machine.json").write_text(json.dumps(describe(default_device()), indent=2) + "\n")


def row(folder: Path) -> str:
    """One line of the table."""
    recipe = load_recipe(folder / "recipe.yaml")
    stages: dict[str, dict[str, Any]] = json.loads((folder / "scores.json").read_text())["stages"]
    scores = [
        " ".join(f"{100 * stage[key]:.1f}" for stage in stages.values())
        for key in ("miou", "boundary_miou")
    ]
    steps, run = recipe.schedule.steps, recipe.run
    seconds = sum(
        json.loads(line).get("seconds", 0) for line in (folder / "log.jsonl").open(encoding="utf-8")
    )
    cells = [folder.name, recipe.data.name, steps, run.batch_size, run.seed, *scores]
    return "| " + " | ".join(map(str, [*cells, f"{seconds / 3600:.1f}"])) + " |"


def main() -> None:
    """Keep the finished runs and write the table."""
    for scores in sorted(Path(sys.argv[1]).glob("*/evaluation/scores.json")):
        keep(scores.parent.parent)
    lines = [
        "# Training runs",
        "",
        "Made by `python benchmarks/runs.py RUNS`; recipes, logs and machines are in `runs/`.",
        "Scores in per cent, P0 to Pn from left to right.",
        "",
        "| run | data | steps | batch | seed | mIoU | boundary IoU | hours |",
        "|---|---|---|---|---|---|---|---|",
        *map(row, sorted(path for path in KEPT.iterdir() if path.is_dir())),
    ]
    (RESULTS / "training.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
