"""The figures of a comparison: scores by model, scores against cost, training losses."""

import math
from collections.abc import Callable
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pna.lab.compare.costs import Cost
from pna.lab.compare.scores import METRICS, Metric, ModelScores
from pna.lab.compare.tables import TITLES, Results
from pna.lab.report import add_legend, finish_axes

_COLORS: dict[Metric, str] = {"miou": "#1f5f8b", "boundary_miou": "#d9822b"}


def draw_scores(figure: Figure, results: Results) -> None:
    """Draw a panel a metric: mean and deviation by model, a dot for each seed."""
    figure.set_size_inches(11, 1.6 + 0.34 * len(results.scores))
    panels = figure.subplots(1, 2, sharey=True)
    for axes, metric in zip(panels, METRICS, strict=True):
        for y, of in enumerate(results.scores):
            _draw_score(axes, of, metric, y)
        finish_axes(axes, TITLES[metric], None)
        axes.margins(x=0.12)
    panels[0].set_yticks(range(len(results.scores)), map(results.title, results.scores))
    panels[0].invert_yaxis()
    figure.supxlabel("per cent; dots: seeds, bars: mean, lines: standard deviation", size="medium")


def _draw_score(axes: Axes, of: ModelScores, metric: Metric, y: int) -> None:
    score = of.mean(metric)
    if score.n == 0:
        return
    mean = 100 * score.mean
    deviation = 100 * score.deviation if score.n > 1 else 0.0  # one seed has none
    values = [100 * value for value in of.values(metric).values()]
    axes.barh(y, mean, 0.6, color=_COLORS[metric], alpha=0.35)
    axes.hlines(y, mean - deviation, mean + deviation, color="black", linewidth=1.2)
    axes.plot(values, [y] * len(values), ".", color=_COLORS[metric])
    axes.annotate(
        f"{mean:.1f}",
        (max([mean + deviation, *values]), y),
        (5, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
    )


def draw_costs(figure: Figure, results: Results) -> None:
    """Draw mIoU against multiply-accumulates, and against time where it was measured."""
    amounts: dict[str, Callable[[Cost], float]] = {
        "GMACs, attention product included": lambda cost: (cost.macs + cost.attention_macs) / 1e9
    }
    if any(cost.ms for cost in results.costs.models.values()):
        amounts["ms for an image"] = _milliseconds
    figure.set_size_inches(11, 5 + 0.1 * len(results.one_each))
    panels = figure.subplots(1, len(amounts), sharey=True, squeeze=False)[0]
    for axes, (unit, amount) in zip(panels, amounts.items(), strict=True):
        _draw_cost(axes, results, unit, amount)
    add_legend(figure)


def _milliseconds(cost: Cost) -> float:
    return math.nan if cost.ms is None else cost.ms[1]


def _draw_cost(axes: Axes, results: Results, unit: str, amount: Callable[[Cost], float]) -> None:
    styles = _styles(results)
    for of in results.one_each:
        cost, score = results.costs.models.get(of.model.name), of.mean("miou")
        # Not measured yet, or no class has a score: no point.
        if cost is None or math.isnan(amount(cost)) or score.n == 0:
            continue
        axes.errorbar(
            amount(cost),
            100 * score.mean,
            yerr=None if score.n < 2 else 100 * score.deviation,
            marker="o",
            capsize=3,
            color=styles[of.model.name]["color"],
            label=results.title(of),
        )
    finish_axes(axes, f"mIoU against {unit}", "per cent")
    axes.set_xlabel(unit)
    axes.set_xscale("log")
    _tick_log(axes.xaxis)


def _tick_log(axis: Axis) -> None:
    """Put plain numbers on a logarithmic axis: 1, 2, 5, ..., and more on less than a decade."""
    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high > 10 * low else (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def draw_curves(figure: Figure, results: Results) -> None:
    """Draw the loss of the last output over training, mIoU of every output, mIoU by steps."""
    titles = ["loss of the last output", "mIoU of every output"]
    if results.has_lengths:
        titles.append("mIoU by steps")
    figure.set_size_inches(5.5 * len(titles), 5.5)
    panels = figure.subplots(1, len(titles), squeeze=False)[0]
    for axes, title in zip(panels, titles, strict=True):
        finish_axes(axes, title, "per cent" if "mIoU" in title else "cross-entropy")
    styles = _styles(results)
    for of in results.one_each:
        style = styles[of.model.name]
        for run in of.runs.values():
            if run.losses:  # none of a model that was not trained
                steps, losses = zip(*run.losses, strict=True)
                panels[0].plot(steps, losses, linewidth=1, label=of.model.title, **style)
        means = [100 * of.mean("miou", m).mean for m in range(of.num_outputs)]
        names = [f"P{m}" for m in range(of.num_outputs)]
        panels[1].plot(names, means, marker="o", label=of.model.title, **style)
    if results.has_lengths:
        _draw_lengths(panels[2], results, styles)
    add_legend(figure)
    common = results.common_steps
    trained = "longest training of each" if common is None else f"{common} steps"
    panels[0].set_xlabel(f"step; one line a seed, {trained}")
    panels[0].set_yscale("log")
    _tick_log(panels[0].yaxis)
    panels[1].set_xlabel(f"output; mean over seeds, {trained}")


def _styles(results: Results) -> dict[str, dict[str, Any]]:
    """Choose color and line of each model: twenty colors, then the same dashed."""
    colors = colormaps["tab20"].colors  # type: ignore[attr-defined]
    return {
        row.name: {"color": colors[i % 20], "linestyle": ("-", "--", ":")[i // 20 % 3]}
        for i, row in enumerate(results.comparison.models)
    }


def _draw_lengths(axes: Axes, results: Results, styles: dict[str, dict[str, Any]]) -> None:
    for row in results.comparison.models:
        points = [(of.steps, of.mean("miou")) for of in results.scores if of.model == row]
        if not points:
            continue
        steps, scores = zip(*points, strict=True)
        means = [100 * s.mean for s in scores]
        deviations = [0.0 if math.isnan(s.deviation) else 100 * s.deviation for s in scores]
        axes.errorbar(
            steps,
            means,
            yerr=deviations,
            marker="o",
            capsize=3,
            label=row.title,
            **styles[row.name],
        )
    axes.set_xticks(sorted({of.steps for of in results.scores}))
    axes.set_xlabel("steps")
