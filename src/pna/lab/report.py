"""Tables, numbers and figures of the lab's reports."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich import box
from rich.table import Table as RichTable

from pna.files import write_atomically
from pna.lab.measure.timing import Quartiles

NOTHING = "–"


@dataclass(frozen=True)
class Table:
    """A table for people: names in the first column, numbers in the others."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def markdown(self) -> str:
        """Format the table in Markdown under its title.

        Example:
            >>> print(Table("Times", ("name", "ms"), [("numba", "2.0")]).markdown())
            **Times**
            <BLANKLINE>
            | name | ms |
            | :-- | --: |
            | numba | 2.0 |
        """
        rule = [":--", *("--:" for _ in self.columns[1:])]
        lines = ["| " + " | ".join(cells) + " |" for cells in (self.columns, rule, *self.rows)]
        return "\n".join([f"**{self.title}**", "", *lines])

    def rich(self) -> RichTable:
        """Format the table for a terminal."""
        table = RichTable(title=self.title, box=box.SIMPLE)
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


def number(value: float) -> str:
    """Format three significant digits, whole numbers from 100 on.

    Example:
        >>> [number(x) for x in (0.01234, 12.34, 56789.0)]
        ['0.0123', '12.3', '56789']
    """
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_quartiles(value: Quartiles) -> str:
    """Format a median and its quartiles, for a cell of a table."""
    return f"{number(value.median)} [{number(value.low)}, {number(value.high)}]"


def rounded(values: Iterable[float]) -> list[float]:
    """Round to four significant digits, for JSON."""
    return [float(f"{value:.4g}") for value in values]


def write_figure(path: Path, draw: Callable[[Figure], None]) -> None:
    """Draw a figure and write it as PNG.

    Args:
        path: The file.
        draw: Draws on an empty figure, whose size it may change.
    """

    def save(temporary: Path) -> None:
        # Not pyplot: that needs a display, or a global choice of its backend.
        figure = Figure(figsize=(11, 5), dpi=110, layout="constrained")
        draw(figure)
        figure.savefig(temporary, format="png")

    write_atomically(path, save)


def finish_axes(axes: Axes, title: str, unit: str | None) -> None:
    """Add title, grid and unit to a panel; None is for horizontal bars."""
    axes.set_title(title, fontsize=11)
    if unit is not None:
        axes.set_ylabel(unit)
    axes.grid(axis="x" if unit is None else "y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def add_legend(figure: Figure) -> None:
    """Add one legend for all panels, above them, in as many columns as fit."""
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    # The width of a legend depends on its columns, and is known only once it is drawn.
    for columns in range(min(len(handles), 6), 0, -1):
        legend = figure.legend(
            list(handles.values()),
            list(handles),
            loc="outside upper center",
            ncols=columns,
            frameon=False,
        )
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            break
        legend.remove()
