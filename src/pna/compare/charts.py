"""The figures of a comparison: scores by model, scores against cost, and how training went."""

import math
from collections.abc import Callable
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pna.bench.charts import finish, legend
from pna.compare.costs import Cost
from pna.compare.scores import METRICS, Entry, Metric
from pna.compare.tables import TITLES, Findings

_COLORS: dict[Metric, str] = {"miou": "#1f5f8b", "boundary_miou": "#d9822b"}


def draw_scores(figure: Figure, findings: Findings) -> None:
    """A panel a metric: mean and deviation by model, a dot for each seed."""
    figure.set_size_inches(11, 1.6 + 0.34 * len(findings.entries))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(panels, METRICS, strict=True):
        for place, entry in enumerate(findings.entries):
            _draw_score(axes, entry, metric, place)
        finish(axes, TITLES[metric], None)
        axes.margins(x=0.12)
    panels[0].set_yticks(range(len(findings.entries)), map(findings.title, findings.entries))
    panels[0].invert_yaxis()
    figure.supxlabel("per cent; dots: seeds, bars: mean, lines: standard deviation", size="medium")


def _draw_score(axes: Axes, entry: Entry, metric: Metric, place: int) -> None:
    found = entry.spread(metric)
    if found.n == 0:
        return
    mean = 100 * found.mean
    deviation = 100 * found.deviation if found.n > 1 else 0.0
    values = [100 * value for value in entry.values(metric).values()]
    axes.barh(place, mean, 0.6, color=_COLORS[metric], alpha=0.35)
    axes.hlines(place, mean - deviation, mean + deviation, color="black", linewidth=1.2)
    axes.plot(values, [place] * len(values), ".", color=_COLORS[metric])
    axes.annotate(
        f"{mean:.1f}",
        (max([mean + deviation, *values]), place),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )


def draw_costs(figure: Figure, findings: Findings) -> None:
    """MIoU against multiply-accumulates, and against time where it was measured."""
    amounts: dict[str, Callable[[Cost], float]] = {"GMACs, attention product included": _gmacs}
    if any(cost.ms for cost in findings.costs.models.values()):
        amounts["ms for a picture"] = _milliseconds
    figure.set_size_inches(11, 5 + 0.1 * len(findings.one_each))
    panels = figure.subplots(1, len(amounts), sharey=True, squeeze=False)[0]
    for axes, (unit, amount) in zip(panels, amounts.items(), strict=True):
        _draw_cost(axes, findings, unit, amount)
    legend(figure)


def _gmacs(cost: Cost) -> float:
    return (cost.macs + cost.attention_macs) / 1e9


def _milliseconds(cost: Cost) -> float:
    return math.nan if cost.ms is None else cost.ms[1]


def _draw_cost(axes: Axes, findings: Findings, unit: str, amount: Callable[[Cost], float]) -> None:
    styles = _styles(findings)
    for entry in findings.one_each:
        cost, found = findings.costs.models.get(entry.row.name), entry.spread("miou")
        if cost is None or math.isnan(amount(cost)) or found.n == 0:
            continue
        axes.errorbar(
            amount(cost),
            100 * found.mean,
            yerr=None if found.n < 2 else 100 * found.deviation,
            marker="o",
            capsize=3,
            color=styles[entry.row.name]["color"],
            label=findings.title(entry),
        )
    finish(axes, f"mIoU against {unit}", "per cent")
    axes.set_xlabel(unit)
    axes.set_xscale("log")
    _tick_log(axes.xaxis)


def _tick_log(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis: 1, 2, 5, ..., and more where a decade is not filled."""
    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high > 10 * low else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def draw_curves(figure: Figure, findings: Findings) -> None:
    """Loss of the last output over training; mIoU of every output; mIoU by budget."""
    titles = ["loss of the last output", "mIoU of every output"]
    if findings.has_budgets:
        titles.append("mIoU by budget")
    figure.set_size_inches(5.5 * len(titles), 5.5)
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, title in zip(panels, titles, strict=True):
        finish(axes, title, "per cent" if "mIoU" in title else "cross-entropy")
    styles = _styles(findings)
    for entry in findings.one_each:
        _draw_losses(panels[0], entry, styles[entry.row.name])
        _draw_stages(panels[1], entry, styles[entry.row.name])
    if findings.has_budgets:
        _draw_budgets(panels[2], findings, styles)
    legend(figure)
    common = findings.common_budget
    steps = "longest budget of each" if common is None else f"{common} steps"
    panels[0].set_xlabel(f"step; one line a seed, {steps}")
    panels[0].set_yscale("log")
    _tick_log(panels[0].yaxis)
    panels[1].set_xlabel(f"output; mean over seeds, {steps}")


def _styles(findings: Findings) -> dict[str, dict[str, Any]]:
    """Colour and line of each model; twenty colours, then the same dashed."""
    colors = colormaps["tab20"].colors  # type: ignore[attr-defined]
    return {
        row.name: {"color": colors[i % 20], "linestyle": ("-", "--", ":")[i // 20 % 3]}
        for i, row in enumerate(findings.comparison.models)
    }


def _draw_losses(axes: Axes, entry: Entry, style: dict[str, Any]) -> None:
    for run in entry.runs.values():
        if run.losses:
            axes.plot(*zip(*run.losses, strict=True), linewidth=1, label=entry.row.title, **style)


def _draw_stages(axes: Axes, entry: Entry, style: dict[str, Any]) -> None:
    means = [100 * entry.spread("miou", m).mean for m in range(entry.num_stages)]
    names = [f"P{m}" for m in range(entry.num_stages)]
    axes.plot(names, means, marker="o", label=entry.row.title, **style)


def _draw_budgets(axes: Axes, findings: Findings, styles: dict[str, dict[str, Any]]) -> None:
    for row in findings.comparison.models:
        found = [(e.budget, e.spread("miou")) for e in findings.of([row])]
        if not found:
            continue
        steps, spreads = zip(*found, strict=True)
        means = [100 * s.mean for s in spreads]
        deviations = [0.0 if math.isnan(s.deviation) else 100 * s.deviation for s in spreads]
        axes.errorbar(
            steps,
            means,
            yerr=deviations,
            marker="o",
            capsize=3,
            label=row.title,
            **styles[row.name],
        )
    axes.set_xticks(sorted({entry.budget for entry in findings.entries}))
    axes.set_xlabel("steps")
