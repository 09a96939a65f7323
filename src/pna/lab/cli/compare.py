"""`pna compare`: several models, trained, scored and measured with the same settings."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pna.lab.compare import Comparison
    from pna.lab.compare.costs import When
    from pna.lab.compare.runs import Run

EPILOG = """\
Runs that are finished in FOLDER are kept, and runs that were interrupted are continued. Several
processes may work on one folder at the same time, such as one per GPU.

examples:
  pna compare camvid-lite -o runs/camvid-lite --set data.root=data/camvid
  pna compare camvid-lite -o runs/camvid-lite --only lite decoder --seeds 0
  pna compare camvid-lite -o runs/camvid-lite --report-only
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "comparison", help="a YAML file, or the name of a bundled one (see pna comparisons)"
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for runs, tables and figures",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change a setting of all models, e.g. --set data.root=PATH; may be repeated",
    )
    group = parser.add_argument_group("runs to do now (the tables hold all)")
    group.add_argument("--only", nargs="+", metavar="NAME", help="models")
    group.add_argument("--seeds", nargs="+", type=int, metavar="N", help="seeds")
    group.add_argument("--steps", nargs="+", type=int, metavar="N", help="training lengths")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument(
        "--dry-run", action="store_true", help="build every network and list the runs, no more"
    )
    modes.add_argument(
        "--report-only", action="store_true", help="write tables and figures of the finished runs"
    )
    modes.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        help="measure time and memory of all models: by default after the last run, if any is "
        "missing; --measure measures all again and trains nothing, --no-measure measures nothing",
    )


def run(args: argparse.Namespace) -> int:
    """Do the runs and write the tables.

    Returns:
        0, 1 if a run failed, 130 if stopped by Ctrl-C or SIGTERM.

    Raises:
        PnaError: The comparison or a choice is wrong, or a run in the folder is of another one.
        MissingFileError: There is no such comparison.
    """
    from rich.console import Console

    from pna.lab.compare import load_comparison
    from pna.lab.compare.runs import check_run, choose_runs, plan_runs
    from pna.lab.compare.work import do_runs

    comparison = load_comparison(args.comparison, args.overrides)
    runs = plan_runs(comparison, args.out)
    chosen = choose_runs(runs, names=args.only, seeds=args.seeds, steps=args.steps)
    for each in runs:  # all, before any work: the tables will hold all
        check_run(each)
    if args.dry_run:
        _show_plan(chosen)
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    if args.report_only or args.measure:
        _report(comparison, runs, args)
        return 0
    progress = do_runs(chosen, args.out, Console())
    args.report_only = progress.is_stopped  # a user who stops the work does not wait for times
    _report(comparison, plan_runs(comparison, args.out), args)
    for name in progress.elsewhere:
        print(f"another process does it: {name}")
    for name in progress.waiting:
        print(f"the weights that it takes are not trained yet: {name}")
    for name, message in progress.failed.items():
        print(f"failed: {name}: {message}", file=sys.stderr)
    if progress.is_stopped:
        print("stopped; the same command continues", file=sys.stderr)
        return 130
    return 1 if progress.failed else 0


def _show_plan(runs: Sequence["Run"]) -> None:
    """List the runs. A network that cannot be built fails here, and not after hours."""
    from pna.lab.baselines import PRESETS
    from pna.labels import generic
    from pna.train.build import create_network

    # Two classes are enough: options that do not fit fail for any number.
    for each in {run.model.name: run for run in runs}.values():
        create_network(each.recipe.model, generic(2), pretrained=False, presets=PRESETS)
    for each in runs:
        state = "finished" if each.is_finished else "begun" if each.folder.is_dir() else "to do"
        print(f"{state:9} {each.name}: {each.model.title}, {each.steps} steps, seed {each.seed}")


def _report(comparison: "Comparison", runs: Sequence["Run"], args: argparse.Namespace) -> None:
    """Count, measure if that is due, and write."""
    from pna.lab.compare.costs import read_costs, update_costs
    from pna.lab.compare.report import write_report
    from pna.lab.compare.scores import collect_scores
    from pna.lab.compare.tables import Results

    scores = collect_scores(comparison, runs)
    missing = [each for each in runs if not each.is_finished]
    if not scores:
        print(f"{args.out}: no run is finished yet, so there are no tables")
        return
    if args.report_only:
        costs = read_costs(args.out, scores, comparison.measure)
    else:
        when: When = "again" if args.measure else "never"
        if args.measure is None and not missing:
            when = "missing"

        def log(line: str) -> None:
            print(line, file=sys.stderr, flush=True)

        costs = update_costs(args.out, scores, comparison.measure, when, log)
    write_report(Results(comparison, scores, costs), missing, args.out)
    print(f"tables and figures: {args.out / 'table.md'} and the files beside it")
