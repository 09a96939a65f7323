"""`pna data check` inspects a data set; `pna data bands` measures the channels of rasters."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pna.cli.batch import find_images, report_left_out
from pna.cli.options import add_dataset_arguments, check_dataset_arguments, create_dataset_of
from pna.cli.rasters import parse_scale
from pna.cli.tables import format_table
from pna.errors import PnaError

if TYPE_CHECKING:
    from pna.data.check import Finding, SplitReport

EPILOG = """\
examples:
  pna data check --dataset voc2012 --root data/voc2012
  pna data check --dataset folder --root data/own --labels data/own/labels.json -o sheets
  pna data bands data/own/images --names blue,green,red,nir -o data/own/bands.json
"""

IMAGES_ON_SHEET = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "open every file, list all problems, count the classes"
    check = actions.add_parser(
        "check",
        help=text,
        description=f"{text[0].upper()}{text[1:]}.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_dataset_arguments(check)
    check.add_argument(
        "--subset",
        action="store_true",
        help="accept any number of images; by default it must be the published one",
    )
    check.add_argument(
        "--limit", type=int, metavar="N", help="open N images of each part, evenly spread"
    )
    check.add_argument(
        "--show",
        type=int,
        default=20,
        metavar="N",
        help="list N problems; --json lists all (default: %(default)s)",
    )
    check.add_argument("--json", action="store_true", help="print JSON instead of tables")
    check.add_argument(
        "-o", "--out", type=Path, help="folder for a contact sheet of each part, made if missing"
    )
    _add_bands(actions)


def _add_bands(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "measure the bands of rasters: mean, standard deviation and range of each"
    bands = actions.add_parser(
        "bands",
        help=text,
        description=f"{text[0].upper()}{text[1:]}. The file is what recipes take as data.bands.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    bands.add_argument("paths", nargs="+", metavar="PATH", help="rasters, folders or patterns")
    bands.add_argument(
        "--names",
        type=lambda text: text.split(","),
        metavar="NAME,NAME,...",
        help="names of the bands, such as blue,green,red,nir (default: those in the files)",
    )
    bands.add_argument(
        "--scale",
        type=parse_scale,
        metavar="LOW,HIGH",
        help="values that become 0 and 1 (default: 0,255 for 8 bits, else what 99.8 %% of the "
        "values lie between)",
    )
    bands.add_argument("-o", "--out", type=Path, required=True, help="JSON file to write")


def _measure_bands(args: argparse.Namespace) -> int:
    from dataclasses import asdict

    from pna.data.statistics import measure_bands
    from pna.files import write_text_atomically

    files, skipped = find_images(args.paths)
    report_left_out(skipped)
    bands = measure_bands(files, names=args.names, scale=args.scale)
    fields = ("name", "mean", "std", "low", "high")
    rows = [[band.name, *(f"{getattr(band, f):g}" for f in fields[1:])] for band in bands]
    print(format_table(fields, rows))
    write_text_atomically(args.out, json.dumps([asdict(band) for band in bands], indent=1) + "\n")
    return 0


def run(args: argparse.Namespace) -> int:
    """Check; 0 if nothing is wrong, 1 otherwise. Or measure bands."""
    return _measure_bands(args) if args.action == "bands" else _check(args)


def _check(args: argparse.Namespace) -> int:
    from pna.data import DATASETS
    from pna.data.check import check_split

    splits = _splits(args)
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)  # now: it may fail, and the check takes long
    counts = {} if args.subset else DATASETS[args.dataset].counts
    reports = [
        check_split(
            partial(create_dataset_of, args, split),
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
    """List the parts to check; refuse options that do not fit, before a file is opened."""
    from pna.data import DATASETS
    from pna.labels import read_label_space

    check_dataset_arguments(args)
    for name, least in (("limit", 1), ("show", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise PnaError(f"--{name} must be {least} or more, got {value}")
    known, counts = DATASETS[args.dataset].splits, DATASETS[args.dataset].counts
    if args.dataset == "folder":
        if args.labels is None:
            raise PnaError("--dataset folder needs --labels: the classes of the masks")
        read_label_space(args.labels)  # a wrong name ends the command, not the check of each part
        if args.split is None:
            return [None]
    # Parts of parts have no count of their own, and need not be opened twice.
    wanted = list(counts or known) if args.split is None else args.split.split(",")
    unknown = [split for split in wanted if split not in known]
    if unknown:
        raise PnaError(f"no split {unknown[0]!r}: expected one of {', '.join(known)}")
    return wanted


def _show_progress(split: str, findings: Iterable["Finding"], number: int) -> Iterator["Finding"]:
    """Pass findings on; on a terminal, with a counter on standard error."""
    is_shown = sys.stderr.isatty()  # in a log file the counter would be one endless line
    for count, finding in enumerate(findings, start=1):
        if is_shown:
            print(f"\rcheck {split}: {count} of {number}", end="", file=sys.stderr, flush=True)
        yield finding
    if is_shown:
        print(file=sys.stderr)


def _print_tables(reports: Sequence["SplitReport"], show: int) -> None:
    columns: tuple[str, ...] = (
        "split",
        "images",
        "published",
        "opened",
        "size",
        "ignored",
        "problems",
    )
    rows: list[tuple[str, ...]] = [
        (
            report.split or "all",
            str(report.num_pairs),
            "-" if report.expected is None else str(report.expected),
            str(report.num_checked),
            _sizes(report),
            f"{100 * report.ignored_share:.2f} %",
            str(len(report.problems)),
        )
        for report in reports
    ]
    print(format_table(columns, rows))
    # A part that is not there has no classes; all others have the same ones.
    with_classes = [report for report in reports if report.classes]
    if with_classes:
        print("\nShare of the labeled pixels, and number of images, with each class:\n")
        columns = ("class", *(report.split or "all" for report in with_classes))
        rows = [
            (
                name,
                *(
                    f"{100 * report.shares[index]:.3f} % ({report.images[index]})"
                    if report.images[index]
                    else "-"
                    for report in with_classes
                ),
            )
            for index, name in enumerate(with_classes[0].classes)
        ]
        print(format_table(columns, rows))
    print()
    problems = [
        f"{report.split or 'all'}: {problem}" for report in reports for problem in report.problems
    ]
    for problem in problems[:show]:
        print(f"- {problem}")
    if len(problems) > show:
        print(f"... and {len(problems) - show} more: see them with --show or --json")
    if not problems:
        print("Nothing is wrong.")


def _sizes(report: "SplitReport") -> str:
    """Format width and height: the one that all images have, or least and largest."""
    if not report.sizes:
        return "-"
    heights, widths = zip(*report.sizes, strict=True)
    return " x ".join(
        f"{min(some)}" if min(some) == max(some) else f"{min(some)}-{max(some)}"
        for some in (widths, heights)
    )


def _draw(report: "SplitReport", out: Path) -> None:
    """Write the contact sheet of a split, of the samples that can be read."""
    from pna.data import DataError
    from pna.data.check import spread
    from pna.data.images import to_picture
    from pna.draw import Entry, contact_sheet, write_image

    if report.dataset is None:
        return
    entries = []
    for index in spread(len(report.dataset), IMAGES_ON_SHEET):
        try:
            image, labels = report.dataset.read_raw(index)
        except DataError:  # it is on the list of problems
            continue
        entries.append(
            Entry(
                report.dataset.pairs[index].name,
                to_picture(image.numpy(), report.dataset.bands),
                labels.numpy(),
            )
        )
    if entries:
        file = out / f"{report.split or 'all'}.png"
        write_image(contact_sheet(entries, report.dataset.labels), file)
        print(f"drew {file}", file=sys.stderr)
