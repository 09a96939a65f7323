"""The charts of the suites, drawn from their rows."""

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pna.lab.bench.report import Row
from pna.lab.report import add_legend, finish_axes, number

_TIME, _MEMORY = "#1f5f8b", "#b8c4d0"


def draw_operator(figure: Figure, rows: list[Row]) -> None:
    """Draw a panel per task: bars of each candidate over the stages, floors as lines."""
    rows = [row for row in rows if "ms" in row]
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    bars = [name for name in names if not name.endswith("floor")]
    width = 0.8 / len(bars)
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        times = {(r["name"], r["stage"]): r["ms"] for r in rows if r["task"] == task}
        for order, name in enumerate(bars):
            found = [(i, times[name, s]) for i, s in enumerate(stages) if (name, s) in times]
            if not found:
                continue
            # Bars of one stage stand side by side, centered on its tick.
            x = np.array([i for i, _ in found]) + (order + 0.5) * width - 0.4
            low, median, high = np.array([ms for _, ms in found]).T
            axes.bar(x, median, width, color=f"C{order}", label=name)
            axes.vlines(x, low, high, color="black", linewidth=1)
        for name, style in zip([n for n in names if n not in bars], ("-", ":"), strict=False):
            floor = [times[name, stage][1] for stage in stages]
            left = np.arange(len(stages)) - 0.45
            axes.hlines(floor, left, left + 0.9, color="black", linestyle=style, label=name)
        axes.set_xticks(range(len(stages)), stages)
        axes.set_yscale("log")
        finish_axes(axes, task, "ms, log scale")
    add_legend(figure)


def draw_grids(figure: Figure, rows: list[Row]) -> None:
    """Draw a panel per task and channels: time of each layout by backend, over the base's."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    channels = list(dict.fromkeys(row["channels"] for row in rows))
    layouts = list(dict.fromkeys(row["layout"] for row in rows))
    backends = list(dict.fromkeys(row["backend"] for row in rows))
    figure.set_size_inches(11, 1 + 3 * len(channels))
    height = 0.8 / len(backends)
    panels = figure.subplots(len(channels), len(tasks), squeeze=False, sharey=True)
    for panel, (kind, task) in zip(panels.flat, itertools.product(channels, tasks), strict=True):
        for order, backend in enumerate(backends):
            found = [
                row
                for row in rows
                if (row["task"], row["channels"], row["backend"]) == (task, kind, backend)
            ]
            offset = (order + 0.5) * height - 0.4
            _ratio_bars(
                panel, found, offset, backend, f"C{order}", lambda row: row.get("ratio"), height
            )
        panel.axvline(1, color="black", linewidth=1)
        panel.set_yticks(range(len(layouts)), layouts)
        panel.margins(x=0.15)
        finish_axes(panel, f"{task}, channels {kind}", None)
        panel.set_xlabel(f"times {layouts[0]}")
    panels[0, 0].invert_yaxis()  # of all, for they share it
    add_legend(figure)


def draw_head(figure: Figure, rows: list[Row]) -> None:
    """Draw a panel per model: a bar for each component, stacked from its parts."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    parts = list(dict.fromkeys(row["part"] for row in rows))
    colors = {part: f"C{i}" for i, part in enumerate(part for part in parts if part != "whole")}
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        found = {(r["component"], r["part"]): r["ms"][1] for r in rows if r["model"] == model}
        components = [
            component for component in dict.fromkeys(p for p, _ in found) if component != "model"
        ]
        # Stacked: each part begins where those before it end.
        starts: npt.NDArray[np.float64] = np.zeros(len(components))
        for part, color in colors.items():
            lengths = np.array([found.get((component, part), 0.0) for component in components])
            axes.barh(components, lengths, left=starts, color=color, label=part)
            starts += lengths
        for index, component in enumerate(components):
            if (component, "rest") not in found:  # it has no parts
                axes.barh(index, found[component, "whole"], color="#888888")
        axes.invert_yaxis()
        finish_axes(axes, model, None)
        axes.set_xlabel("ms")
    add_legend(figure)


def draw_models(figure: Figure, rows: list[Row]) -> None:
    """Draw a panel per task: time and peak memory of each model, over those of the first."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    base = rows[0]["model"]
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        found = [row for row in rows if row["task"] == task]
        _ratio_bars(axes, found, -0.2, "time", _TIME, lambda row: row.get("ratio"))
        _ratio_bars(
            axes,
            found,
            0.2,
            "peak memory",
            _MEMORY,
            lambda row: [row["peak_ratio"]] * 3 if "peak_ratio" in row else None,
        )
        labels = [f"{row['model']} ({row['mode']})" for row in found]
        axes.set_yticks(range(len(found)), labels)
        axes.invert_yaxis()
        axes.margins(x=0.15)
        finish_axes(axes, task, None)
        axes.set_xlabel(f"times {base}")
    add_legend(figure)


def draw_runtimes(figure: Figure, rows: list[Row]) -> None:
    """Draw the time of each exported model over that of the same model in PyTorch."""
    found = [row for row in rows if row["runtime"] != "PyTorch"]
    axes = figure.subplots()
    _ratio_bars(axes, found, 0.0, "time", _TIME, lambda row: row["ratio"])
    axes.set_yticks(range(len(found)), [row["model"] for row in found])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    finish_axes(axes, "ONNX Runtime", None)
    axes.set_xlabel("times PyTorch")


def draw_growth(figure: Figure, rows: list[Row]) -> None:
    """Time and peak memory against the side of the image, both axes logarithmic."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    exponents = {row["model"]: row["exponent"][1] for row in rows if "exponent" in row}
    left, right = figure.subplots(1, 2)
    for model in models:
        found = [row for row in rows if row["model"] == model and row["side"] != "all"]
        timed = [row for row in found if "ms" in row]
        weighed = [row for row in found if row["peak_mb"] is not None]
        grown = f", exponent {exponents[model]:.2f}" if model in exponents else ""
        left.plot(
            [row["side"] for row in timed],
            [row["ms"][1] for row in timed],
            marker="o",
            label=model + grown,
        )
        right.plot([r["side"] for r in weighed], [r["peak_mb"] for r in weighed], marker="o")
    sides = sorted({row["side"] for row in rows if row["side"] != "all"})
    for axes, title, unit in ((left, "time", "ms"), (right, "peak memory", "MB")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sides, [str(side) for side in sides])
        axes.set_xlabel("side of the image, pixels")
        finish_axes(axes, title, f"{unit}, log scale")
    add_legend(figure)


def _ratio_bars(
    axes: Axes,
    rows: list[Row],
    offset: float,
    label: str,
    color: str,
    ratio: Callable[[Row], list[float] | None],
    height: float = 0.38,
) -> None:
    for index, row in enumerate(rows):
        if (value := ratio(row)) is not None:
            low, median, high = value
            axes.barh(index + offset, median, height, color=color, label="" if index else label)
            axes.hlines(index + offset, low, high, color="black", linewidth=1)
            axes.annotate(
                number(median),
                (high, index + offset),
                (4, 0),
                textcoords="offset points",
                va="center",
            )
