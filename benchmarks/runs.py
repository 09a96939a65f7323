"""Keep the results of training runs, without their weights, in `results/training.{jsonl,md}`.

    python benchmarks/runs.py RUN [RUN ...]        # keep finished runs
    python benchmarks/runs.py --recipe NAME        # print the recipe of a kept one as YAML
    pna train recipe.yaml -o RUN --set data.root=PATH      # and make it again

A line of `training.jsonl` has the run's name, resolved recipe, machine, hours, losses, and scores
on the whole validation (or test) split with the last weights; a run of the same name is replaced.
The runs of a comparison are kept by `pna compare` itself.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from pna.files import write_text_atomically
from pna.inference.devices import default_device
from pna.lab.baselines import PRESETS
from pna.lab.compare.runs import SCORES, read_records
from pna.lab.compare.scores import read_losses, summarize
from pna.lab.machine import describe
from pna.train import Recipe, dump_recipe, load_recipe, parse_recipe

RESULTS = Path(__file__).parent / "results"


def portable_recipe(run: Path) -> Recipe:
    """A run's recipe, without the path of its data on this machine."""
    name = load_recipe(run / "recipe.yaml", presets=PRESETS).data.name
    return load_recipe(run / "recipe.yaml", [f"data.root=data/{name}"], presets=PRESETS)


def record(run: Path) -> dict[str, Any]:
    """The line of a finished run."""
    log = [json.loads(line) for line in (run / "log.jsonl").open(encoding="utf-8")]
    return {
        "run": run.name,
        "hours": round(sum(row.get("seconds", 0) for row in log) / 3600, 2),
        "recipe": portable_recipe(run).model_dump(mode="json"),
        "machine": describe(default_device()),
        "scores": summarize(json.loads((run / SCORES).read_text(encoding="utf-8"))),
        "losses": read_losses(run / "log.jsonl"),
    }


def table(records: dict[str, dict[str, Any]]) -> str:
    """The page in Markdown."""
    lines = [
        "# Training runs",
        "",
        "Made by `python benchmarks/runs.py RUN ...`; recipe, machine, losses and scores of each",
        "run are in `training.jsonl`. Scores in per cent, P0 to Pn from left to right.",
        "",
        "| run | data | steps | batch | seed | mIoU | boundary IoU | hours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, kept in records.items():
        recipe, stages = kept["recipe"], kept["scores"]["stages"].values()
        scores = [
            " ".join(f"{100 * stage[metric]:.1f}" for stage in stages)
            for metric in ("miou", "boundary_miou")
        ]
        cells = [name, recipe["data"]["name"], recipe["schedule"]["steps"]]
        cells += [recipe["run"]["batch_size"], recipe["run"]["seed"], *scores, kept["hours"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Keep runs, or print a recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="*", type=Path, help="folders of finished runs")
    parser.add_argument("--recipe", metavar="NAME", help="print the recipe of a kept run")
    args = parser.parse_args()
    file = RESULTS / "training.jsonl"
    records = read_records(file)
    if args.recipe is not None:
        print(dump_recipe(parse_recipe(records[args.recipe]["recipe"], presets=PRESETS)), end="")
        return
    records |= {run.name: record(run) for run in args.runs}
    records = dict(sorted(records.items()))
    lines = "".join(json.dumps(kept) + "\n" for kept in records.values())
    write_text_atomically(file, lines)
    write_text_atomically(RESULTS / "training.md", table(records))
    print(table(records), end="")


if __name__ == "__main__":
    main()
