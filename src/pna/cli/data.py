"""`pna data check`: is a data set whole? Counts, pairs, sizes, labels, shares of the classes."""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from pna.data.check import Finding, SplitReport

HELP = "check a data set: counts, pairs, sizes, labels, and what the classes cover"

PICTURES_ON_SHEET = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help=HELP, description=HELP)
    check.add_argument(
        "name",
        metavar="NAME",
        help="voc2012, cityscapes, cocostuff10k, deepglobe, trans10k, camvid, damage or folder",
    )
    check.add_argument("root", type=Path, metavar="ROOT", help="where it lies")
    check.add_argument(
        "--split", help="which parts, for example train,val (all of them; folder: all pairs)"
    )
    check.add_argument(
        "--subset",
        action="store_true",
        help="take any number of pictures, instead of comparing it with the published one",
    )
    check.add_argument(
        "--labels", metavar="SPACE", help="for a folder: a label space's JSON file, or a known name"
    )
    check.add_argument(
        "--split-list", type=Path, metavar="FILE", help="for a folder: stems to check, one a line"
    )
    check.add_argument(
        "--masks", choices=("index", "color"), help="for a folder: what its masks hold (index)"
    )
    check.add_argument(
        "--limit", type=int, metavar="N", help="open only N pictures of each part, evenly spread"
    )
    check.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes that read (%(default)s)"
    )
    check.add_argument(
        "--show",
        type=int,
        default=20,
        metavar="N",
        help="problems to list (%(default)s; JSON: all)",
    )
    check.add_argument("--json", action="store_true", help="print JSON instead of tables")
    check.add_argument(
        "-o", "--out", type=Path, help="folder for a contact sheet of each part, made if missing"
    )


def run(args: argparse.Namespace) -> int:
    """Check; 0 if all is well, 1 if something is wrong."""
    from pna.data import DATASETS, create_dataset
    from pna.data.check import check_split
    from pna.labels import read_label_space

    splits = _splits(args)
    create = partial(
        create_dataset,
        args.name,
        args.root,
        labels=None if args.labels is None else read_label_space(args.labels),
        split_list=args.split_list,
        masks=args.masks,
    )
    counts = {} if args.subset else DATASETS[args.name].counts
    reports = [
        check_split(
            partial(create, split),
            split,
            expected=counts.get(split or ""),
            limit=args.limit,
            num_workers=args.workers,
            follow=partial(_show_progress, split or "all"),
        )
        for split in splits
    ]
    if args.json:
        print(json.dumps([report.to_dict() for report in reports], indent=2))
    else:
        _print_tables(reports, args.show)
    if args.out is not None:
        for report in reports:
            _draw(report, args.out)
    return 1 if any(report.problems for report in reports) else 0


def _splits(args: argparse.Namespace) -> list[str | None]:
    """The parts to check; refuses what doesn't go together before anything is opened."""
    from pna.data import DATASETS

    if args.name not in DATASETS:
        raise ValueError(f"no data set {args.name!r}: expected one of {', '.join(DATASETS)}")
    for name, least in (("limit", 1), ("workers", 0), ("show", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} must be {least} or more, got {value}")
    known, counts = DATASETS[args.name].splits, DATASETS[args.name].counts
    if args.name == "folder":
        if args.labels is None:
            raise ValueError("a folder needs --labels: a label space's JSON file, or a known name")
        if args.split is None:
            return [None]
    elif args.labels or args.masks or args.split_list:
        raise ValueError(
            f"--labels, --masks and --split-list are for a folder; {args.name} knows its own"
        )
    # Parts of parts have no count of their own, and needn't be opened twice.
    wanted = list(counts or known) if args.split is None else args.split.split(",")
    unknown = [split for split in wanted if split not in known]
    if unknown:
        raise ValueError(f"no split {unknown[0]!r}: expected one of {', '.join(known)}")
    return wanted


def _show_progress(split: str, findings: Iterable["Finding"], number: int) -> Iterable["Finding"]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)  # standard output is for results
    return track(
        findings, f"check {split}", total=number, console=console, disable=not console.is_terminal
    )


def _print_tables(reports: list["SplitReport"], show: int) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    console.print(_summary(reports))
    if any(report.classes for report in reports):
        console.print("Share of the labelled pixels, and number of pictures, with each class:")
        console.print(_shares(reports))
    problems = [
        f"{report.split or 'all'}: {problem}" for report in reports for problem in report.problems
    ]
    for problem in problems[:show]:
        console.print(f"- {problem}", soft_wrap=True, markup=False)
    if len(problems) > show:
        console.print(f"... and {len(problems) - show} more: see them with --show or --json")
    if not problems:
        console.print("Nothing is wrong.")


def _summary(reports: list["SplitReport"]) -> "Table":
    """One row a split."""
    from rich import box
    from rich.table import Table

    table = Table("split", box=box.SIMPLE)
    for column in ("pictures", "published", "opened", "size", "ignored", "problems"):
        table.add_column(column, justify="right")
    for report in reports:
        table.add_row(
            report.split or "all",
            str(report.num_pairs),
            "-" if report.expected is None else str(report.expected),
            str(report.num_checked),
            _sizes(report),
            f"{100 * report.ignored_share:.2f} %",
            str(len(report.problems)),
        )
    return table


def _sizes(report: "SplitReport") -> str:
    """Height and width: the one that all pictures have, or from the least to the largest."""
    if not report.sizes:
        return "-"
    lengths = zip(*report.sizes, strict=True)  # heights, widths
    return " x ".join(
        f"{min(some)}" if min(some) == max(some) else f"{min(some)}-{max(some)}" for some in lengths
    )


def _shares(reports: list["SplitReport"]) -> "Table":
    """One row a class: its share of the labelled pixels, and the pictures it is in."""
    from rich import box
    from rich.table import Table

    table = Table("class", box=box.SIMPLE)
    found = [report for report in reports if report.classes]
    for report in found:
        table.add_column(report.split or "all", justify="right")
    for index, name in enumerate(found[0].classes):
        table.add_row(name, *(_share(report, index) for report in found))
    return table


def _share(report: "SplitReport", index: int) -> str:
    if not report.pictures[index]:
        return "-"
    return f"{100 * report.shares[index]:.3f} % ({report.pictures[index]})"


def _draw(report: "SplitReport", out: Path) -> None:
    """Write the contact sheet of a split; of what can be read."""
    from pna.data import DataError
    from pna.data.check import spread
    from pna.draw import Entry, contact_sheet

    if report.dataset is None:
        return
    entries = []
    for index in spread(len(report.dataset), PICTURES_ON_SHEET):
        try:
            picture, labels = report.dataset.read(index)
        except DataError:  # it is on the list of problems
            continue
        entries.append(
            Entry(
                report.dataset.pairs[index].name,
                picture.permute(1, 2, 0).numpy(),
                labels.numpy(),
            )
        )
    if entries:
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"{report.split or 'all'}.png"
        beside = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        contact_sheet(entries, report.dataset.labels).save(beside, format="PNG")
        beside.replace(file)
        print(f"drew {file}", file=sys.stderr)
