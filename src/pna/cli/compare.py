"""`pna compare`: many models trained, scored and measured under the same settings."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pna.compare import Comparison
    from pna.compare.costs import When
    from pna.compare.runs import Run
    from pna.compare.work import Outcome

HELP = "train, score and measure many models under the same settings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "comparison", nargs="?", help="a YAML file or the name of a bundled comparison"
    )
    parser.add_argument("--list", action="store_true", help="list the bundled comparisons")
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FOLDER",
        help="for runs, tables and figures; what is finished there is kept, what is begun goes on",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="change a setting of all models, e.g. --set data.root=PATH; may be repeated",
    )
    _add_choices(parser.add_argument_group("which runs to do now (the tables hold all)"))
    _add_modes(parser.add_mutually_exclusive_group())


def _add_choices(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--only", nargs="+", metavar="NAME", help="models")
    group.add_argument("--seeds", nargs="+", type=int, metavar="N", help="seeds")
    group.add_argument("--steps", nargs="+", type=int, metavar="N", help="budgets")


def _add_modes(group: "argparse._MutuallyExclusiveGroup") -> None:
    group.add_argument(
        "--dry-run", action="store_true", help="build every network, list the runs, do nothing"
    )
    group.add_argument(
        "--report-only", action="store_true", help="write tables and figures of what is there"
    )
    group.add_argument(
        "--measure",
        action=argparse.BooleanOptionalAction,
        help="measure time and memory of all models (when the last run is done, if any is "
        "missing; --measure trains nothing and does it anew, --no-measure leaves it)",
    )


def run(args: argparse.Namespace) -> int:
    """Do the runs and write the tables.

    Returns:
        0, 1 if a run failed, 130 if stopped by Ctrl-C or SIGTERM.

    Raises:
        ValueError: The comparison, a run in the folder or a choice isn't as it should be.
        FileNotFoundError: There is no such comparison.
    """
    from rich.console import Console

    from pna.compare import load_comparison
    from pna.compare.runs import check_runs, choose, plan
    from pna.compare.work import do_runs

    if args.list:
        return _list()
    if args.comparison is None or args.out is None:
        raise ValueError("expected a comparison and --out FOLDER; --list names the bundled ones")
    comparison = load_comparison(args.comparison, args.overrides)
    runs = plan(comparison, args.out)
    chosen = choose(runs, names=args.only, seeds=args.seeds, budgets=args.steps)
    check_runs(runs)
    if args.dry_run:
        return _show_plan(chosen)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.report_only or args.measure:
        _report(comparison, runs, args)
        return 0
    outcome = do_runs(chosen, args.out, Console())
    args.report_only = outcome.is_stopped  # who wants it to end doesn't want it to measure
    _report(comparison, runs, args)
    return _conclude(outcome)


def _list() -> int:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from pna.compare import bundled_comparisons
    from pna.compare.files import comparison_head

    table = Table("comparison", "shows", "hours", box=box.SIMPLE)
    table.columns[0].no_wrap = True
    for name in bundled_comparisons():
        head = comparison_head(name)
        table.add_row(name, head["shows"], head["hours"])
    Console().print(table)
    print("Run one: pna compare NAME -o runs/NAME --set data.root=PATH")
    return 0


def _show_plan(runs: Sequence["Run"]) -> int:
    """List the runs; a network that can't be built is found now, not in hours."""
    from pna.labels import generic
    from pna.train.assemble import create_network

    for row in {run.row.name: run for run in runs}.values():
        network = create_network(row.recipe.model, generic(2), pretrained=False)
        del network
    for item in runs:
        state = "finished" if item.is_finished else "begun" if item.folder.is_dir() else "to do"
        print(f"{state:9} {item.name}: {item.row.title}, {item.budget} steps, seed {item.seed}")
    return 0


def _report(comparison: "Comparison", runs: Sequence["Run"], args: argparse.Namespace) -> None:
    """Count, measure if that is due, and write."""
    from pna.compare.costs import read_costs, update_costs
    from pna.compare.report import write_report
    from pna.compare.scores import collect
    from pna.compare.tables import Findings

    entries = collect(comparison, runs)
    missing = [item for item in runs if not item.is_finished]
    if not entries:
        print(f"{args.out}: no run is finished yet, so there are no tables")
        return
    if args.report_only:
        costs = read_costs(args.out, entries, comparison.measure)
    else:
        when = _when_to_measure(args.measure, is_complete=not missing)
        costs = update_costs(args.out, entries, comparison.measure, when, _say)
    write_report(Findings(comparison, entries, costs), missing, args.out)
    print(f"tables and figures: {args.out / 'table.md'} and what lies beside it")


def _when_to_measure(wish: bool | None, *, is_complete: bool) -> "When":
    if wish:
        return "again"
    return "missing" if wish is None and is_complete else "never"


def _conclude(outcome: "Outcome") -> int:
    for name in outcome.elsewhere:
        print(f"under way in another process: {name}")
    for name in outcome.waiting:
        print(f"waits for the model it stands behind: {name}")
    for name, message in outcome.failed.items():
        print(f"failed: {name}: {message}", file=sys.stderr)
    if outcome.is_stopped:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 1 if outcome.failed else 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
