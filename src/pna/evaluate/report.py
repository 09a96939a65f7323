"""The report of an evaluation, and its three written forms: scores.json, scores.md, scores.png."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pna.files import write_atomically, write_text_atomically
from pna.inference.tiling import WHOLE, TilingConfig
from pna.labels import LabelSpace
from pna.metrics import Scores


@dataclass(frozen=True)
class Report:
    """Scores of every stage of one model on one data set.

    Attributes:
        dataset: Name of the data set's class.
        model: Name of the model, as the caller gave it; may be empty.
        labels: The label space scored in.
        stages: Scores by stage: "P0" (coarse) to "Pn" (final), in this order. All are averaged
            over the same classes.
        num_images: Images scored.
        num_available: Images the data set holds; larger if the evaluation was limited.
        unreadable: Messages about the images that were left out.
        remarks: Messages about labels that hold nothing to learn or to score.
        tiling: How the model ran on each image; None if the predictions came from files.
    """

    dataset: str
    model: str
    labels: LabelSpace
    stages: dict[str, Scores]
    num_images: int
    num_available: int
    unreadable: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    tiling: TilingConfig | None = WHOLE

    @property
    def final(self) -> Scores:
        """The scores of the model's output: its last stage."""
        return list(self.stages.values())[-1]

    @property
    def ignored_share(self) -> float:
        """Share of all pixels that were not scored because their label is 255, in [0, 1]."""
        total = self.final.num_pixels + self.final.num_ignored
        return self.final.num_ignored / total if total else 0.0

    @property
    def title(self) -> str:
        """Model and data set."""
        return f"{self.model} on {self.dataset}" if self.model else self.dataset

    def table(self) -> str:
        """Return the report as Markdown: a heading, a row a stage, a row a class."""
        header = ("stage", "mIoU", f"boundary mIoU ({self.final.boundary_width} px)", "mBA")
        rows: list[tuple[str, ...]] = [
            (name, *map(_percent, (s.miou, s.boundary_miou, s.mba, s.pixel_accuracy)))
            for name, s in self.stages.items()
        ]
        lines = [*self._heading(), "", *_markdown((*header, "pixel accuracy"), rows), ""]
        rows = []
        for c, name in enumerate(self.labels.classes):
            mark = "" if c in self.final.in_mean else " (not in the mean)"
            ious = (_percent(s.iou[c]) for s in self.stages.values())
            rows.append((_escape(name) + mark, *ious))
        lines += _markdown(("class IoU", *self.stages), rows)
        if self.unreadable:
            lines += ["", "Left out, because they can't be read:", ""]
            lines += [f"- {message}" for message in self.unreadable]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, versions included, as plain values for JSON; NaN as None."""
        return {
            "model": self.model,
            "dataset": self.dataset,
            "num_images": self.num_images,
            "num_available": self.num_available,
            "unreadable": list(self.unreadable),
            "remarks": list(self.remarks),
            "tiling": None if self.tiling is None else asdict(self.tiling),
            "num_pixels": self.final.num_pixels,
            "num_ignored": self.final.num_ignored,
            "ignored_share": self.ignored_share,
            "scored_classes": [self.labels.classes[c] for c in self.final.scored],
            "classes_in_mean": [self.labels.classes[c] for c in self.final.in_mean],
            "labels": self.labels.to_dict(),
            "stages": {name: scores.to_dict() for name, scores in self.stages.items()},
            "versions": {"pna": version("pna"), "torch": str(torch.__version__)},
        }

    def save(self, directory: str | Path) -> None:
        """Write scores.json, scores.md and scores.png into a folder, made if it isn't there.

        Each file is whole or not there at all. Without matplotlib there is no figure.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        # NaN is no JSON: `to_dict` has None for it, and a NaN that is left is a defect.
        data = json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"
        # Numbers first: the figure needs a library that may be missing.
        write_text_atomically(directory / "scores.json", data)
        write_text_atomically(directory / "scores.md", self.table() + "\n")
        try:
            from pna.evaluate.figure import draw_scores
        except ImportError:
            return
        write_atomically(
            directory / "scores.png",
            lambda path: draw_scores(path, self.title, self.labels, self.stages),
        )

    def _heading(self) -> list[str]:
        # "the first 100 of 1449 images, 2 of them left out": only the parts that apply.
        num_tried = self.num_images + len(self.unreadable)
        first = "" if num_tried == self.num_available else "the first "
        of_all = f" of {self.num_available}" if first else ""
        left_out = f", {len(self.unreadable)} of them left out" if self.unreadable else ""
        lines = [
            f"**{_escape(self.title)}**: {first}{num_tried}{of_all} images{left_out}, "
            f"{self.final.num_ignored:,} pixels ignored ({100 * self.ignored_share:.2f} %). "
            "Scores in percent.",
            "",
        ]
        if self.tiling is not None:
            lines += [f"Inference: {self.tiling}.", ""]
        lines.append(f"Classes in the mean: {self._names_in_mean()}.")
        for remark in self.remarks:
            lines += ["", f"Note: {_escape(remark)}."]
        return lines

    def _names_in_mean(self) -> str:
        names, in_mean = self.labels.classes, self.final.in_mean
        if len(in_mean) == len(names):
            return f"all {len(names)}"
        listed = ", ".join(names[c] for c in in_mean) or "none"
        text = f"{len(in_mean)} of {len(names)}: {listed}"
        absent = [names[c] for c in self.final.scored if c not in in_mean]
        if absent:
            text += f"; not in the labels, so not in the mean: {', '.join(absent)}"
        return _escape(text)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{100 * share:.2f}"


def _escape(text: str) -> str:
    """Escape the characters of a name that mark a table, HTML or emphasis in Markdown."""
    # Underscores and brackets stay: inside a word they mean nothing, and names are full of them.
    return re.sub(r"([\\|<*`])", r"\\\1", text)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out a table with padded columns: as readable in a terminal as on a page."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        others = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return "| " + " | ".join([first, *others]) + " |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return [line(header), line(rule), *(line(row) for row in rows)]
