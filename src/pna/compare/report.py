"""Writes what a comparison found into its folder, from what the runs left there.

`table.md` (for docs: no heading of its own, figures beside it), `table.csv` (a row for each model
and budget), `runs.csv` (a row for each run), `figure.png`, `cost.png`, `curves.png`.
"""

import csv
import io
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pna.bench.machine import sentence
from pna.compare.charts import draw_costs, draw_curves, draw_scores
from pna.compare.comparison import Comparison
from pna.compare.runs import Run
from pna.compare.scores import Entry
from pna.compare.tables import Findings, all_tables, run_rows, table_rows
from pna.writing import replace_file, replace_text

FIGURES: dict[str, tuple[str, Callable[[Figure, Findings], None]]] = {
    "figure.png": ("mIoU and boundary IoU by model", draw_scores),
    "cost.png": ("mIoU against cost", draw_costs),
    "curves.png": ("Training losses, and mIoU by output", draw_curves),
}


def write_report(findings: Findings, missing: Sequence[Run], folder: Path) -> None:
    """Write tables and figures, each beside its place and then renamed.

    Args:
        findings: At least one entry.
        missing: Runs that aren't finished; the page names them.
        folder: Where to.
    """
    replace_text(folder / "table.csv", _csv(table_rows(findings)))
    replace_text(folder / "runs.csv", _csv(run_rows(findings)))
    for name, (_, draw) in FIGURES.items():
        replace_file(folder / name, partial(_save, findings, draw))
    replace_text(folder / "table.md", page(findings, missing))


def page(findings: Findings, missing: Sequence[Run]) -> str:
    """The page in Markdown."""
    parts = [f"**{findings.comparison.title}**", "\n".join(notes(findings, missing))]
    parts += [table.markdown() for table in all_tables(findings)]
    parts += [f"![{alt}]({name})" for name, (alt, _) in FIGURES.items()]
    return "\n\n".join(parts) + "\n"


def notes(findings: Findings, missing: Sequence[Run]) -> list[str]:
    """What has to be known to read the tables, as a list in Markdown."""
    comparison = findings.comparison
    lines = [
        f"Every model: {_settings(comparison, findings.entries)}.",
        *(f"Scored on {text}." for text in _scored_on(findings.entries)),
        "Scores in per cent, the mean over seeds ± the sample standard deviation over seeds; one "
        "seed has none. A difference is taken between runs of the same seed and steps, then "
        f"averaged; {comparison.base.title} is what it is taken to.",
        *_about_costs(findings),
    ]
    if missing:
        lines.append(f"Not finished: {', '.join(run.name for run in missing)}.")
    return [f"- {line}" for line in lines]


def _settings(comparison: Comparison, entries: Sequence[Entry]) -> str:
    data, optimizer, run = comparison.data, comparison.optimizer, comparison.run
    budgets = ", ".join(str(steps) for steps in sorted({entry.budget for entry in entries}))
    encoder = comparison.encoder or "its preset's encoder"
    weights = "with ImageNet weights" if comparison.pretrained else "with random weights"
    limit = "" if data.limit is None else f", its first {data.limit} pictures"
    return (
        f"{encoder} {weights}, trained on {data.name} ({data.train_list or data.train_split}"
        f"{limit}) for {budgets} steps of {run.batch_size} crops of {data.crop[0]}x{data.crop[1]}, "
        f"AdamW at {optimizer.lr:g} (encoder) and {optimizer.head_lr or optimizer.lr:g} (the rest)"
    )


def _scored_on(entries: Sequence[Entry]) -> list[str]:
    """What the scores are of: one line, or more if runs left different pictures out."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        for scored in entry.runs.values():
            report, data = scored.report, scored.run.recipe.data
            final = list(report["stages"].values())[-1]
            text = (
                f"{report['num_pictures']} of {report['num_available']} pictures of {data.name} "
                f"({data.val_list or data.val_split}), whole and at their own size, "
                f"{len(report['scored_classes'])} classes; boundary IoU in a region "
                f"{final['boundary_width']} pixels wide"
            )
            found.setdefault(text, []).append(scored.run.name)
    if len(found) == 1:
        return list(found)
    return [f"{text} ({', '.join(names)})" for text, names in found.items()]


def _about_costs(findings: Findings) -> list[str]:
    height, width = findings.comparison.measure.size
    lines = [
        "Parameters with those of an auxiliary head; multiply-accumulates for one picture of "
        f"{height}x{width}, those of the neighborhood attention's product after the plus."
    ]
    machine = findings.costs.machine
    if machine is not None:
        lines.append(
            f"Time (median and quartiles) and peak memory: inference, one picture of "
            f"{height}x{width}, float32, models in turns; {sentence(machine)}."
        )
    lines += [
        f"{name} could not be measured: {cost.why_not}."
        for name, cost in findings.costs.models.items()
        if cost.why_not is not None
    ]
    return lines


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _save(findings: Findings, draw: Callable[[Figure, Findings], None], path: Path) -> None:
    # A Figure of its own rather than pyplot: no display, no global state.
    figure = Figure(figsize=(11, 5.5), dpi=110, layout="constrained")
    draw(figure, findings)
    figure.savefig(path, format="png")
