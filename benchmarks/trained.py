"""Shared by the benchmarks: results on file, and the command line of those of trained runs."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pna.files import write_text_atomically
from pna.inference.devices import default_device
from pna.lab.machine import describe

RESULTS = Path(__file__).parent / "results"


def record(
    name: str,
    title: str,
    measure: Callable[[Path, list[str]], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
) -> None:
    """Measure the runs of the command line, and write the table of all runs so far.

    Args:
        name: Name of the two files in `RESULTS`, one in JSON and one in Markdown.
        title: One line about the command, for its help.
        measure: Takes a run folder with a saved model, and changes to its recipe as
            `section.key=value`; returns the results.
        table: Takes the results of all runs by name; returns the page in Markdown.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--set", action="append", default=[], help="change a recipe's setting")
    arguments = parser.parse_args()
    results = read_results(name)
    for run in arguments.runs:
        results[run.name] = {**measure(run, arguments.set), "machine": describe(default_device())}
        write_results(name, results, table(results))


def read_results(name: str) -> dict[str, Any]:
    """The results on file so far."""
    file = RESULTS / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def write_results(name: str, results: dict[str, Any], page: str) -> None:
    """Write results, and their page in Markdown."""
    file = RESULTS / f"{name}.json"
    write_text_atomically(file, json.dumps(results, indent=1) + "\n")
    write_text_atomically(file.with_suffix(".md"), page)
