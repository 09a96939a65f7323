"""What the benchmarks of trained runs share: their command line, and results of all runs so far."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pna.bench.machine import describe
from pna.predict import default_device
from pna.writing import replace_text

RESULTS = Path(__file__).parent / "results"


def record(
    name: str,
    title: str,
    measure: Callable[[Path, list[str]], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
) -> None:
    """Measure the runs that the command line names, and write the table of all.

    Args:
        name: What the two files in `RESULTS` are called, one in JSON and one in Markdown.
        title: What the command does, for its help.
        measure: From a run folder with an exported model, and changes to its recipe as
            `section.key=value`, to what is kept of it beside the machine.
        table: From all that is kept, by the runs' names, to the page in Markdown.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--set", action="append", default=[], help="change a recipe's setting")
    arguments = parser.parse_args()
    file = RESULTS / f"{name}.json"
    results = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    for run in arguments.runs:
        results[run.name] = {**measure(run, arguments.set), "machine": describe(default_device())}
        replace_text(file, json.dumps(results, indent=1) + "\n")
        replace_text(file.with_suffix(".md"), table(results))
