"""The figure of a report: scores by stage, and the IoU of each class at first and last stage."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pna.labels import LabelSpace
from pna.metrics import Scores

_FIRST, _LAST, _BOUNDARY = "#b8c4d0", "#1f5f8b", "#d9822b"


def draw_scores(path: Path, title: str, labels: LabelSpace, stages: dict[str, Scores]) -> None:
    """Draw mIoU and boundary mIoU by stage, and the IoU of each class at first and last stage.

    Args:
        path: The PNG to write, whatever its suffix.
        title: Stands above the figure.
        labels: Names of the classes.
        stages: Scores by stage, first to last.
    """
    # A row of readable text a class, however many there are.
    height = max(3.6, 0.26 * labels.num_classes + 1.2)
    # A Figure of its own rather than pyplot: no display, no global state.
    figure = Figure(figsize=(11, height), dpi=120, layout="constrained")
    # Names are data: "$" is a letter in them, not the start of a formula.
    figure.suptitle(title, fontsize=12, parse_math=False)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.3))
    _draw_stages(left, stages)
    _draw_classes(right, labels, stages)
    figure.savefig(path, format="png")


def _draw_stages(axes: Axes, stages: dict[str, Scores]) -> None:
    names = list(stages)
    width = next(iter(stages.values())).boundary_width
    miou = [100 * scores.miou for scores in stages.values()]
    boundary_miou = [100 * scores.boundary_miou for scores in stages.values()]
    lines = (("mIoU", miou, _LAST), (f"boundary mIoU ({width} px)", boundary_miou, _BOUNDARY))
    for label, values, color in lines:
        axes.plot(names, values, marker="o", color=color, label=label)
        for name, value in zip(names, values, strict=True):
            if np.isfinite(value):  # NaN: no class is in the mean
                axes.annotate(
                    f"{value:.1f}", (name, value), (0, 7), textcoords="offset points", ha="center"
                )
    axes.margins(x=0.12, y=0.18)
    axes.set_xlabel("stage")
    axes.set_ylabel("percent")
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    _legend_above(axes)


def _draw_classes(axes: Axes, labels: LabelSpace, stages: dict[str, Scores]) -> None:
    names = list(stages)
    rows = np.arange(labels.num_classes)
    shown = [(names[0], _FIRST)] if len(names) == 1 else [(names[0], _FIRST), (names[-1], _LAST)]
    thickness = 0.8 / len(shown)
    for order, (name, color) in enumerate(shown):
        # An absent class has no IoU, and so no bar.
        values = np.nan_to_num(100 * np.array(stages[name].iou))
        offset = (order - (len(shown) - 1) / 2) * thickness
        axes.barh(rows + offset, values, thickness, color=color, label=name)
    axes.set_yticks(rows, labels.classes, parse_math=False)
    axes.invert_yaxis()  # the first class on top, as in the table
    axes.set_xlim(0, 100)
    axes.set_xlabel("IoU in percent")
    axes.grid(axis="x", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    """Place the legend where it can't cover a value."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
