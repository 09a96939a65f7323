"""The tables of a comparison: for people in Markdown, for programs as flat rows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pna.bench.report import NOTHING, Table, number
from pna.compare.comparison import Comparison, ModelRow
from pna.compare.costs import Cost, Costs
from pna.compare.scores import METRICS, Entry, Metric, Spread, gain, spread

TITLES: dict[Metric, str] = {"miou": "mIoU", "boundary_miou": "boundary IoU"}


@dataclass(frozen=True)
class Findings:
    """All that tables and figures are made from.

    Attributes:
        comparison: What was compared.
        entries: The models and budgets with a finished run, in its order.
        costs: What the models take, as far as it was counted or measured.
    """

    comparison: Comparison
    entries: Sequence[Entry]
    costs: Costs

    @property
    def has_budgets(self) -> bool:
        """Whether entries differ in their budget."""
        return len({entry.budget for entry in self.entries}) > 1

    @property
    def common_budget(self) -> int | None:
        """The longest budget that every model was trained for, if they share one."""
        budgets: dict[str, set[int]] = {}
        for entry in self.entries:
            budgets.setdefault(entry.row.name, set()).add(entry.budget)
        return max(set.intersection(*budgets.values()), default=None)

    @property
    def one_each(self) -> list[Entry]:
        """One entry of each model: that of the common budget, or of its longest without one."""
        common = self.common_budget
        entries = [entry for entry in self.entries if common in (None, entry.budget)]
        return list({entry.row.name: entry for entry in entries}.values())

    def title(self, entry: Entry) -> str:
        """What an entry is called; its budget is told where there are several."""
        steps = f", {entry.budget} steps" if self.has_budgets else ""
        return f"{entry.row.title}{steps}"

    def of(self, rows: Sequence[ModelRow]) -> list[Entry]:
        """The entries of these models."""
        return [entry for entry in self.entries if entry.row in rows]

    def difference(self, entry: Entry, other: ModelRow, metric: Metric) -> Spread:
        """What an entry has over another model at the same budget, if that is there."""
        if entry.row == other:
            return spread([])
        found = [e for e in self.of([other]) if e.budget == entry.budget]
        return gain(entry, found[0], metric) if found else spread([])


def all_tables(findings: Findings) -> list[Table]:
    """Scores and costs by group, what is gained over the control, every output's, the classes."""
    tables = [
        _group_table(findings, title, entries)
        for title, rows in findings.comparison.groups().items()
        if (entries := findings.of(rows))
    ]
    if findings.comparison.control is not None:
        tables.append(
            _control_table(findings, findings.comparison.row(findings.comparison.control))
        )
    tables += [_stage_table(findings, metric) for metric in METRICS]
    return [*tables, _class_table(findings)]


def _group_table(findings: Findings, title: str, entries: list[Entry]) -> Table:
    over = f"over {findings.comparison.base.title}"
    columns = [
        *("model", "seeds", "mIoU", over, "boundary IoU", over),
        *("parameters (M)", "GMACs + attention", "ms", "peak MB"),
    ]
    return Table(title, tuple(columns), [_group_line(findings, entry) for entry in entries])


def _group_line(findings: Findings, entry: Entry) -> tuple[str, ...]:
    base = findings.comparison.base
    cells = [findings.title(entry), _seeds(len(entry.runs))]
    for metric in METRICS:
        cells.append(_percent(entry.spread(metric)))
        cells.append(_gain(findings.difference(entry, base, metric)))
    return (*cells, *_cost_cells(findings.costs.models.get(entry.row.name)))


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


def _control_table(findings: Findings, control: ModelRow) -> Table:
    rows = [
        (
            findings.title(entry),
            *(_gain(findings.difference(entry, control, metric)) for metric in METRICS),
        )
        for entry in findings.entries
        if entry.row != control
    ]
    return Table(f"Over {control.title}", ("model", *(TITLES[m] for m in METRICS)), rows)


def _stage_table(findings: Findings, metric: Metric) -> Table:
    most = max(entry.num_stages for entry in findings.entries)
    rows = []
    for entry in findings.entries:
        cells = [_percent(entry.spread(metric, m)) for m in range(entry.num_stages)]
        cells += [NOTHING] * (most - entry.num_stages)
        rows.append((findings.title(entry), _seeds(len(entry.runs)), *cells))
    columns = ("model", "seeds", *(f"P{m}" for m in range(most)))
    return Table(f"{TITLES[metric]} of every output", columns, rows)


def _class_table(findings: Findings) -> Table:
    classes = list(findings.entries[0].class_spreads())
    rows = [
        (
            findings.title(entry),
            _seeds(len(entry.runs)),
            *(_percent(found) for found in entry.class_spreads().values()),
        )
        for entry in findings.entries
    ]
    return Table("IoU of every class, last output", ("model", "seeds", *classes), rows)


def table_rows(findings: Findings) -> list[dict[str, Any]]:
    """A flat row for each model and budget; scores in per cent, None where there is nothing."""
    return [_table_row(findings, entry) for entry in findings.entries]


def _table_row(findings: Findings, entry: Entry) -> dict[str, Any]:
    comparison = findings.comparison
    row: dict[str, Any] = {
        "model": entry.row.name,
        "label": entry.row.title,
        "steps": entry.budget,
        "seeds": " ".join(map(str, entry.runs)),
        "baseline": comparison.base.name,
        "control": comparison.control,
    }
    for metric in METRICS:
        row |= _numbers(metric, entry.spread(metric))
        row |= _numbers(f"{metric}_gain", findings.difference(entry, comparison.base, metric))
        if comparison.control is not None:
            over = findings.difference(entry, comparison.row(comparison.control), metric)
            row |= _numbers(f"{metric}_over_control", over)
        for m in range(max(other.num_stages for other in findings.entries)):
            has_stage = m < entry.num_stages
            found = entry.spread(metric, m) if has_stage else spread([])
            row |= _numbers(f"{metric}_P{m}", found)
    return row | _cost_numbers(findings.costs.models.get(entry.row.name))


def _numbers(name: str, found: Spread) -> dict[str, Any]:
    return {
        name: _rounded(found.mean),
        f"{name}_sd": _rounded(found.deviation),
        f"{name}_n": found.n,
    }


def _cost_numbers(cost: Cost | None) -> dict[str, Any]:
    ms = None if cost is None else cost.ms
    low, median, high = (None, None, None) if ms is None else ms
    return {
        "parameters": cost and cost.parameters,
        "macs": cost and cost.macs,
        "attention_macs": cost and cost.attention_macs,
        "ms": median,
        "ms_low": low,
        "ms_high": high,
        "peak_mb": cost and cost.peak_mb,
    }


def run_rows(findings: Findings) -> list[dict[str, Any]]:
    """A flat row for each finished run: every output's scores, and every class's; in per cent."""
    rows = []
    for entry in findings.entries:
        for seed, found in entry.runs.items():
            row: dict[str, Any] = {"model": entry.row.name, "steps": entry.budget, "seed": seed}
            for metric in METRICS:
                for m in range(max(other.num_stages for other in findings.entries)):
                    has_stage = m < entry.num_stages
                    score = found.score(metric, m) if has_stage else math.nan
                    row[f"{metric}_P{m}"] = _rounded(score)
            for name, iou in found.class_scores.items():
                row[f"iou_{name}"] = _rounded(iou)
            rows.append(row)
    return rows


def _rounded(share: float) -> float | None:
    return None if math.isnan(share) else round(100 * share, 4)


def _percent(found: Spread) -> str:
    if found.n == 0:
        return NOTHING
    return f"{100 * found.mean:.2f}{_deviation(found)}"


def _gain(found: Spread) -> str:
    """A difference says on how many seeds it rests: they may be fewer than the model's own."""
    return (
        NOTHING
        if found.n == 0
        else f"{100 * found.mean:+.2f}{_deviation(found)}, {_seeds(found.n)}"
    )


def _deviation(found: Spread) -> str:
    return "" if math.isnan(found.deviation) else f" ± {100 * found.deviation:.2f}"


def _seeds(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"
