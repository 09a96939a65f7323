"""What a suite found, and its written forms: NAME.json, NAME.md for the docs, NAME.png."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from pna.bench.machine import sentence
from pna.bench.stats import Spread
from pna.writing import replace_file, replace_text

Row = dict[str, Any]
Say = Callable[[str], None]

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A table for people: names in the first column, numbers in the others."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def markdown(self) -> str:
        """Return the table as Markdown under its title."""
        rule = [":--", *("--:" for _ in self.columns[1:])]
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.columns, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines])

    def rich(self) -> RichTable:
        """Return the table for a terminal."""
        table = RichTable(title=self.title, box=box.SIMPLE)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


@dataclass(frozen=True)
class Report:
    """What a suite found.

    Attributes:
        rows: All numbers, every round's among them, as plain values.
        tables: What people read.
        notes: What has to be known to read them, such as what could not run and why.
        draw: Draws the chart.
    """

    rows: list[Row]
    tables: list[Table]
    notes: list[str]
    draw: Callable[[Figure], None]

    def show(self, console: Console) -> None:
        """Print tables and notes."""
        for table in self.tables:
            console.print(table.rich())
        for note in self.notes:
            console.print(f"- {note}", markup=False, highlight=False)

    def write(
        self, path: Path, *, command: str, settings: dict[str, Any], machine: dict[str, Any]
    ) -> None:
        """Write numbers, tables and chart, each beside its place and then renamed.

        Args:
            path: NAME.json; the others get the suffixes .md and .png.
            command: What was typed.
            settings: What it came down to.
            machine: From `pna.bench.machine.describe`.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "command": command,
            "machine": machine,
            "settings": settings,
            "rows": self.rows,
            "notes": self.notes,
        }
        data = json.dumps(result, indent=1, allow_nan=False) + "\n"
        picture = path.with_suffix(".png")
        page = self._page(command, machine, picture.name)
        replace_text(path, data)
        replace_text(path.with_suffix(".md"), page)
        replace_file(picture, self._save_chart)

    def _page(self, command: str, machine: dict[str, Any], picture: str) -> str:
        parts = [f"`{command}`", sentence(machine)]
        parts += [table.markdown() for table in self.tables]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        parts.append(f"![Chart of the tables above]({picture})")
        return "\n\n".join(parts) + "\n"

    def _save_chart(self, path: Path) -> None:
        # A Figure of its own rather than pyplot: no display, no global state.
        figure = Figure(figsize=(11, 4.5), dpi=110, layout="constrained")
        self.draw(figure)
        figure.savefig(path, format="png")


def number(value: float) -> str:
    """Three digits that mean something: 0.0123, 1.23, 12.3, 1234."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_spread(value: Spread) -> str:
    """A median and its quartiles, for a cell of a table."""
    return f"{number(value.median)} [{number(value.low)}, {number(value.high)}]"


def rounded(values: Spread | list[float]) -> list[float]:
    """Four significant digits, for JSON."""
    return [float(f"{value:.4g}") for value in values]
