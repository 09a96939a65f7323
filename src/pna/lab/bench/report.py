"""The report of a suite, and its files: NAME.json, NAME.md for the docs, NAME.png."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console

from pna.files import write_text_atomically
from pna.lab.machine import sentence
from pna.lab.report import Table, write_figure

Row = dict[str, Any]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Report:
    """The results of a suite.

    Attributes:
        rows: All numbers, those of every round included, as plain values.
        tables: Tables for people.
        notes: Sentences for the reader of the tables: meanings, and reasons of gaps.
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
        """Write numbers, tables and chart.

        Args:
            path: NAME.json; the others have the suffixes .md and .png.
            command: The command that made them.
            settings: All its settings, defaults included.
            machine: From `pna.lab.machine.describe`.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "command": command,
            "machine": machine,
            "settings": settings,
            "rows": self.rows,
            "notes": self.notes,
        }
        parts = [f"`{command}`", sentence(machine)]
        parts += [table.markdown() for table in self.tables]
        if self.notes:
            parts.append("\n".join(f"- {note}" for note in self.notes))
        # JSON last: where it is, tables and chart of the same run are too.
        image = path.with_suffix(".png")
        parts.append(f"![Chart of the tables above]({image.name})")
        write_figure(image, self.draw)
        write_text_atomically(path.with_suffix(".md"), "\n\n".join(parts) + "\n")
        write_text_atomically(path, json.dumps(result, indent=1, allow_nan=False) + "\n")
