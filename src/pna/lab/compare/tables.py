"""The tables of a comparison: in Markdown, and as flat rows for CSV."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pna.lab.compare.comparison import ComparedModel, Comparison
from pna.lab.compare.costs import Cost, Costs
from pna.lab.compare.scores import METRICS, Metric, ModelScores, SeedMean, seed_mean
from pna.lab.report import NOTHING, Table, number

TITLES: dict[Metric, str] = {"miou": "mIoU", "boundary_miou": "boundary IoU"}


@dataclass(frozen=True)
class Results:
    """Everything that tables and figures show.

    Attributes:
        comparison: The comparison.
        scores: The models and lengths with a finished run, in the comparison's order.
        costs: Costs of the models, as far as they are known.
    """

    comparison: Comparison
    scores: Sequence[ModelScores]
    costs: Costs

    @property
    def num_outputs(self) -> int:
        """Largest number of scored outputs of a model."""
        return max(of.num_outputs for of in self.scores)

    @property
    def has_lengths(self) -> bool:
        """Whether the training lengths differ."""
        return len({of.steps for of in self.scores}) > 1

    @property
    def common_steps(self) -> int | None:
        """The longest training that every model has, if they share one."""
        lengths: dict[str, set[int]] = {}
        for of in self.scores:
            lengths.setdefault(of.model.name, set()).add(of.steps)
        # Lengths that some model lacks would compare long trainings with short ones.
        return max(set.intersection(*lengths.values()), default=None)

    @property
    def one_each(self) -> list[ModelScores]:
        """One of each model: of the common length, or of its longest without one."""
        common = self.common_steps
        scores = [of for of in self.scores if common in (None, of.steps)]
        return list({of.model.name: of for of in scores}.values())

    def title(self, of: ModelScores) -> str:
        """Return a row's title; with its length where lengths differ."""
        steps = f", {of.steps} steps" if self.has_lengths else ""
        return f"{of.model.title}{steps}"

    def difference(self, of: ModelScores, other: ComparedModel, metric: Metric) -> SeedMean:
        """Return a score less that of another model at the same length, if there is one."""
        for base in self.scores:
            # Of equal length only; a model's difference to itself is left empty.
            if base.model == other != of.model and base.steps == of.steps:
                return of.difference(base, metric)
        return seed_mean([])


def all_tables(results: Results) -> list[Table]:
    """Make the tables: scores and costs by title, differences to the control, outputs, classes."""
    comparison, scores = results.comparison, results.scores
    tables = []
    over = f"over {comparison.base.title}"
    columns: tuple[str, ...] = ("model", "seeds", "mIoU", over, "boundary IoU", over)
    columns += ("parameters (M)", "GMACs + attention", "ms", "peak MB")
    for title, models in comparison.tables().items():
        rows = []
        for of in scores:
            if of.model not in models:
                continue
            cells = [results.title(of), _seeds(len(of.runs))]
            for metric in METRICS:
                difference = results.difference(of, comparison.base, metric)
                cells += [_percent(of.mean(metric)), _signed_percent(difference)]
            rows.append((*cells, *_cost_cells(results.costs.models.get(of.model.name))))
        if rows:
            tables.append(Table(title, columns, rows))
    if comparison.control is not None:
        control = comparison.model(comparison.control)
        rows = [
            (
                results.title(of),
                *(_signed_percent(results.difference(of, control, metric)) for metric in METRICS),
            )
            for of in scores
            if of.model != control
        ]
        columns = ("model", *(TITLES[metric] for metric in METRICS))
        tables.append(Table(f"Over {control.title}", columns, rows))
    for metric in METRICS:
        rows = []
        for of in scores:
            cells = [_percent(of.mean(metric, m)) for m in range(of.num_outputs)]
            # A model without refinement has P0 alone.
            cells += [NOTHING] * (results.num_outputs - of.num_outputs)
            rows.append((results.title(of), _seeds(len(of.runs)), *cells))
        columns = ("model", "seeds", *(f"P{m}" for m in range(results.num_outputs)))
        tables.append(Table(f"{TITLES[metric]} of every output", columns, rows))
    rows = [
        (results.title(of), _seeds(len(of.runs)), *map(_percent, of.class_means().values()))
        for of in scores
    ]
    columns = ("model", "seeds", *scores[0].class_means())
    return [*tables, Table("IoU of every class, last output", columns, rows)]


def _cost_cells(cost: Cost | None) -> tuple[str, ...]:
    if cost is None:
        return (NOTHING,) * 4
    ms = NOTHING
    if cost.ms is not None:
        low, median, high = map(number, cost.ms)
        ms = f"{median} [{low}, {high}]"
    return (
        f"{cost.parameters / 1e6:.2f}",
        f"{cost.macs / 1e9:.2f} + {cost.attention_macs / 1e9:.2f}",
        ms,
        NOTHING if cost.peak_mb is None else number(cost.peak_mb),
    )


def table_rows(results: Results) -> list[dict[str, Any]]:
    """Make a flat row for each model and length; scores in per cent, None without any."""
    comparison = results.comparison
    rows = []
    for of in results.scores:
        row: dict[str, Any] = {
            "model": of.model.name,
            "label": of.model.title,
            "steps": of.steps,
            "seeds": " ".join(map(str, of.runs)),
            "baseline": comparison.base.name,
            "control": comparison.control,
        }
        for metric in METRICS:
            row |= _numbers(metric, of.mean(metric))
            row |= _numbers(f"{metric}_gain", results.difference(of, comparison.base, metric))
            if comparison.control is not None:
                control = comparison.model(comparison.control)
                row |= _numbers(f"{metric}_over_control", results.difference(of, control, metric))
            for m in range(results.num_outputs):
                mean = of.mean(metric, m) if m < of.num_outputs else seed_mean([])
                row |= _numbers(f"{metric}_P{m}", mean)
        cost = results.costs.models.get(of.model.name)
        # CSV has an empty cell for None, and every row the same columns.
        low, median, high = (None,) * 3 if cost is None or cost.ms is None else cost.ms
        rows.append(
            row
            | {
                "parameters": cost and cost.parameters,
                "macs": cost and cost.macs,
                "attention_macs": cost and cost.attention_macs,
                "ms": median,
                "ms_low": low,
                "ms_high": high,
                "peak_mb": cost and cost.peak_mb,
            }
        )
    return rows


def _numbers(name: str, mean: SeedMean) -> dict[str, Any]:
    return {
        name: _rounded(mean.mean),
        f"{name}_sd": _rounded(mean.deviation),
        f"{name}_n": mean.n,
    }


def run_rows(results: Results) -> list[dict[str, Any]]:
    """Make a flat row for each finished run: scores of every output and class, in per cent."""
    rows = []
    for of in results.scores:
        for seed, run in of.runs.items():
            row: dict[str, Any] = {"model": of.model.name, "steps": of.steps, "seed": seed}
            for metric in METRICS:
                for m in range(results.num_outputs):
                    score = run.score(metric, m) if m < of.num_outputs else math.nan
                    row[f"{metric}_P{m}"] = _rounded(score)
            for name, iou in run.class_scores.items():
                row[f"iou_{name}"] = _rounded(iou)
            rows.append(row)
    return rows


def _rounded(share: float) -> float | None:
    return None if math.isnan(share) else round(100 * share, 4)


def _percent(mean: SeedMean) -> str:
    return NOTHING if mean.n == 0 else f"{100 * mean.mean:.2f}{_deviation(mean)}"


def _signed_percent(mean: SeedMean) -> str:
    """Format a difference, with its number of seeds: it may be smaller than the model's own."""
    if mean.n == 0:
        return NOTHING
    return f"{100 * mean.mean:+.2f}{_deviation(mean)}, {_seeds(mean.n)}"


def _deviation(mean: SeedMean) -> str:
    return "" if math.isnan(mean.deviation) else f" ± {100 * mean.deviation:.2f}"


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"
