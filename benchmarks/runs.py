"""Keeps what finished training runs found, without their weights.

    python benchmarks/runs.py RUNS                   # to results/runs/NAME
    python benchmarks/runs.py RUNS --into camvid-lite    # to results/camvid-lite/NAME

Copies recipe, log and scores of every finished run in the folder RUNS that isn't kept yet, with a
note of this machine. Of `results/runs` it writes a table, `results/training.md`: mIoU and boundary
IoU of every stage on the whole validation (or test) split, the last weights of each run. Any other
folder is a comparison's; `pna compare NAME -o results/NAME --report-only` writes its tables.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from pna.bench.machine import describe
from pna.predict import default_device
from pna.train import Recipe, dump_recipe, load_recipe

RESULTS = Path(__file__).parent / "results"
KEPT = ("log.jsonl", "evaluation/scores.json", "behind.txt")


def portable_recipe(run: Path) -> Recipe:
    """The run's recipe, without the place where the data lay on this machine."""
    name = load_recipe(run / "recipe.yaml").data.name
    return load_recipe(run / "recipe.yaml", [f"data.root=data/{name}"])


def keep(run: Path, folder: Path) -> None:
    """Copy what a run found to a folder, unless it is there."""
    if is_kept(run, folder):
        return
    (folder / "evaluation").mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(dump_recipe(portable_recipe(run)), encoding="utf-8")
    for name in KEPT:
        if (run / name).is_file():
            shutil.copy(run / name, folder / name)
    (folder / "machine.json").write_text(json.dumps(describe(default_device()), indent=2) + "\n")


def is_kept(run: Path, folder: Path) -> bool:
    """Whether a folder has the scores of this very run, which don't repeat to the last digit."""
    kept, scores = folder / "evaluation/scores.json", run / "evaluation/scores.json"
    return kept.is_file() and kept.read_bytes() == scores.read_bytes()


def row(folder: Path) -> str:
    """One line of the table."""
    recipe = load_recipe(folder / "recipe.yaml")
    stages: dict[str, dict[str, Any]] = json.loads(
        (folder / "evaluation" / "scores.json").read_text(encoding="utf-8")
    )["stages"]
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


def write_table(folder: Path) -> None:
    """The table of all runs that are kept in a folder."""
    lines = [
        "# Training runs",
        "",
        "Made by `python benchmarks/runs.py RUNS`; recipes, logs and machines are in `runs/`.",
        "Scores in per cent, P0 to Pn from left to right.",
        "",
        "| run | data | steps | batch | seed | mIoU | boundary IoU | hours |",
        "|---|---|---|---|---|---|---|---|",
        *map(row, sorted(path for path in folder.iterdir() if path.is_dir())),
    ]
    (RESULTS / "training.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


def main() -> None:
    """Keep the finished runs; write the table, if it is one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of run folders")
    parser.add_argument("--into", default="runs", help="folder in benchmarks/results")
    args = parser.parse_args()
    folder = RESULTS / args.into
    for scores in sorted(args.runs.glob("*/evaluation/scores.json")):
        run = scores.parent.parent
        keep(run, folder / run.name)
    if args.into == "runs":
        write_table(folder)


if __name__ == "__main__":
    main()
