"""What an evaluation found, and its three written forms: scores.json, scores.md, scores.png."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import pna
from pna.evaluate.figure import draw_scores
from pna.labels import LabelSpace
from pna.metrics import Scores
from pna.views import WHOLE, Views
from pna.writing import replace_file, replace_text


@dataclass(frozen=True)
class Report:
    """Scores of every stage of one model on one dataset.

    Attributes:
        dataset: Name of the dataset's class.
        model: What the caller named the model; may be empty.
        labels: The label space scored in.
        stages: Scores by stage: "P0" (coarse) to "Pn" (final), in this order.
        num_pictures: Pictures scored.
        num_available: Pictures the dataset holds; larger if the evaluation was limited.
        unreadable: What is wrong with the pictures that were left out.
        views: How each picture was looked at.
    """

    dataset: str
    model: str
    labels: LabelSpace
    stages: dict[str, Scores]
    num_pictures: int
    num_available: int
    unreadable: tuple[str, ...] = ()
    views: Views = WHOLE

    @property
    def final(self) -> Scores:
        """The scores of the model's output: its last stage."""
        return list(self.stages.values())[-1]

    @property
    def ignored_share(self) -> float:
        """Share of all pixels that were not scored because their label is 255, in [0, 1]."""
        total = self.final.num_pixels + self.final.num_ignored
        return self.final.num_ignored / total if total else 0.0

    def table(self) -> str:
        """Return the report as Markdown: what was scored, a row a stage, a row a class."""
        lines = [*self._heading(), "", *self._stage_rows(), "", *self._class_rows()]
        if self.unreadable:
            lines += ["", "Left out, because they can't be read:", ""]
            lines += [f"- {message}" for message in self.unreadable]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, versions included, as plain values for JSON; NaN as None."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "num_pictures": self.num_pictures,
            "num_available": self.num_available,
            "unreadable": list(self.unreadable),
            "views": asdict(self.views),
            "num_pixels": self.final.num_pixels,
            "num_ignored": self.final.num_ignored,
            "ignored_share": self.ignored_share,
            "scored_classes": [self.labels.classes[c] for c in self.final.scored],
            "labels": self.labels.to_dict(),
            "stages": {name: scores.to_dict() for name, scores in self.stages.items()},
            "versions": {"pna": pna.__version__, "torch": str(torch.__version__)},
        }

    def save(self, directory: str | Path) -> None:
        """Write scores.json, scores.md and scores.png into a folder, made if it isn't there.

        Each file is written beside its place and then renamed, so that a reader never meets half
        of one.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        data = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        table = self.table() + "\n"
        replace_text(directory / "scores.json", data)
        replace_text(directory / "scores.md", table)
        replace_file(
            directory / "scores.png",
            lambda path: draw_scores(path, self._title(), self.labels, self.stages),
        )

    def _title(self) -> str:
        return f"{self.model} on {self.dataset}" if self.model else self.dataset

    def _heading(self) -> list[str]:
        num_tried = self.num_pictures + len(self.unreadable)
        first = "" if num_tried == self.num_available else "the first "
        of_all = f" of {self.num_available}" if first else ""
        left_out = f", {len(self.unreadable)} of them left out" if self.unreadable else ""
        scored = self.final.scored
        if len(scored) == self.labels.num_classes:
            in_mean = f"all {len(scored)}"
        else:
            names = ", ".join(self.labels.classes[c] for c in scored)
            in_mean = f"{len(scored)} of {self.labels.num_classes}: {names}"
        return [
            f"**{self._title()}**: {first}{num_tried}{of_all} pictures{left_out}, "
            f"{self.final.num_ignored:,} pixels ignored ({100 * self.ignored_share:.2f} %). "
            "Scores in percent.",
            "",
            f"Looked at: {self.views}.",
            "",
            f"Classes in the mean: {in_mean}. Classes that never occur are left out.",
        ]

    def _stage_rows(self) -> list[str]:
        width = self.final.boundary_width
        rows = [
            (name, _percent(s.miou), _percent(s.boundary_miou), _percent(s.pixel_accuracy))
            for name, s in self.stages.items()
        ]
        return _markdown(("stage", "mIoU", f"boundary mIoU ({width} px)", "pixel accuracy"), rows)

    def _class_rows(self) -> list[str]:
        scored = set(self.final.scored)
        rows = []
        for c, name in enumerate(self.labels.classes):
            mark = "" if c in scored else " (not in the mean)"
            rows.append((name + mark, *(_percent(s.iou[c]) for s in self.stages.values())))
        return _markdown(("class IoU", *self.stages), rows)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.2f}"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a table with padded columns: as readable in a terminal as on a page."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *others]) + " |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(header), line(rule), *(line(row) for row in rows)]
