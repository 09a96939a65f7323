"""Write the results of a comparison into its folder.

`table.md` (for docs: no heading of its own), `table.csv` (a row for each model and length),
`runs.csv` (a row for each run), `runs.jsonl` (a line for each run, from which all others can be
written again), `figure.png`, `cost.png`, `curves.png`.
"""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from pna.files import write_text_atomically
from pna.lab.compare.charts import draw_costs, draw_curves, draw_scores
from pna.lab.compare.comparison import Comparison
from pna.lab.compare.runs import RECORDS, Run
from pna.lab.compare.scores import ModelScores
from pna.lab.compare.tables import Results, all_tables, run_rows, table_rows
from pna.lab.machine import sentence
from pna.lab.report import write_figure

FIGURES: dict[str, tuple[str, Callable[[Figure, Results], None]]] = {
    "figure.png": ("mIoU and boundary IoU by model", draw_scores),
    "cost.png": ("mIoU against cost", draw_costs),
    "curves.png": ("Training losses, and mIoU by output", draw_curves),
}


def write_report(results: Results, missing: Sequence[Run], folder: Path) -> None:
    """Write tables, figures and the log of all runs.

    Args:
        results: At least one finished run.
        missing: Runs that are not finished; the page names them.
        folder: Where to write.
    """
    # The log first: all else can be made of it again, without the folders of the runs.
    records = [run.record() for of in results.scores for run in of.runs.values()]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    write_text_atomically(folder / RECORDS, lines)
    write_text_atomically(folder / "table.csv", _csv(table_rows(results)))
    write_text_atomically(folder / "runs.csv", _csv(run_rows(results)))
    for name, (_, draw) in FIGURES.items():
        write_figure(folder / name, lambda figure: draw(figure, results))  # noqa: B023
    write_text_atomically(folder / "table.md", page(results, missing))


def page(results: Results, missing: Sequence[Run]) -> str:
    """Format the page in Markdown."""
    comparison = results.comparison
    notes = [
        f"Every model: {_settings(comparison, results.scores)}.",
        *(f"Scored on {text}." for text in _scored_on(results.scores)),
        "Scores in per cent: mean over seeds ± sample standard deviation. A difference is taken "
        "between runs of the same seed and steps, then averaged; it is the difference to "
        f"{comparison.base.title}.",
        *_cost_notes(results),
    ]
    if missing:
        notes.append(f"Not finished: {', '.join(run.name for run in missing)}.")
    parts = [f"**{comparison.title}**", "\n".join(f"- {note}" for note in notes)]
    parts += [table.markdown() for table in all_tables(results)]
    parts += [f"![{alt}]({name})" for name, (alt, _) in FIGURES.items()]
    return "\n\n".join(parts) + "\n"


def _settings(comparison: Comparison, scores: Sequence[ModelScores]) -> str:
    data, optimizer, run = comparison.data, comparison.optimizer, comparison.run
    lengths = ", ".join(str(steps) for steps in sorted({of.steps for of in scores}))
    encoder = comparison.encoder or "its preset's encoder"
    weights = "with ImageNet weights" if comparison.encoder_weights else "with random weights"
    limit = "" if data.limit is None else f", its first {data.limit} images"
    return (
        f"{encoder} {weights}, trained on {data.name} ({data.train_list or data.train_split}"
        f"{limit}) for {lengths} steps of {run.batch_size} crops of {data.crop[0]}x{data.crop[1]}, "
        f"AdamW at {optimizer.lr:g} (encoder) and {optimizer.head_lr or optimizer.lr:g} (the rest)"
    )


def _scored_on(scores: Sequence[ModelScores]) -> list[str]:
    """Describe images and classes of the scores: one line, or more if runs left out images."""
    runs_by_text: dict[str, list[str]] = {}
    for of in scores:
        for run in of.runs.values():
            report, data = run.report, run.run.recipe.data
            text = (
                f"{report['num_images']} of {report['num_available']} images of {data.name} "
                f"({data.val_list or data.val_split}), whole and at their own size, "
                f"{len(report['scored_classes'])} classes; boundary IoU in a region "
                f"{report['boundary_width']} pixels wide"
            )
            runs_by_text.setdefault(text, []).append(run.run.name)
    # As a rule all runs are scored on the same images; where not, each line names its runs.
    if len(runs_by_text) == 1:
        return list(runs_by_text)
    return [f"{text} ({', '.join(names)})" for text, names in runs_by_text.items()]


def _cost_notes(results: Results) -> list[str]:
    height, width = results.comparison.measure.size
    lines = [
        "Parameters include those of an auxiliary head, where there is one. Multiply-accumulates "
        f"are of one image of {height}x{width}; those of the neighborhood attention's product "
        "follow the plus."
    ]
    machine = results.costs.machine
    if machine is not None:
        lines.append(
            f"Time (median and quartiles) and peak memory: inference, one image of "
            f"{height}x{width}, float32, models in turns; {sentence(machine)}."
        )
    lines += [
        f"{name} could not be measured: {cost.why_not}."
        for name, cost in results.costs.models.items()
        if cost.why_not is not None
    ]
    return lines


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
