"""What the runs found: scores by stage and class, spread over seeds, differences seed by seed."""

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pna.compare.comparison import Comparison, ModelRow
from pna.compare.runs import SCORES, Run
from pna.train.log import read_log

Metric = Literal["miou", "boundary_miou"]
METRICS: tuple[Metric, ...] = ("miou", "boundary_miou")


class Spread(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: NaN if there was nothing.
        deviation: Sample standard deviation (n - 1); NaN of one.
        n: Number of seeds.
    """

    mean: float
    deviation: float
    n: int


@dataclass(frozen=True)
class Scored:
    """One finished run.

    Attributes:
        run: Which.
        report: Its `scores.json`.
        losses: (step, loss of the last stage) over training; the part of the total that all models
            have alike. Empty if it wasn't trained.
    """

    run: Run
    report: dict[str, Any]
    losses: list[tuple[int, float]]

    def score(self, metric: Metric, stage: int = -1) -> float:
        """A score of a stage in [0, 1], of the last by default; NaN if there was nothing."""
        return _number(list(self.report["stages"].values())[stage][metric])

    @property
    def num_stages(self) -> int:
        """Outputs scored, P0 among them."""
        return len(self.report["stages"])

    @property
    def class_scores(self) -> dict[str, float]:
        """IoU of the last stage by class."""
        final = list(self.report["stages"].values())[-1]
        names = self.report["labels"]["classes"]
        return {name: _number(iou) for name, iou in zip(names, final["iou"], strict=True)}


@dataclass(frozen=True)
class Entry:
    """One model at one budget, over its seeds: a row of the tables.

    Attributes:
        row: The model.
        budget: Steps.
        runs: The finished ones, at least one, by seed.
    """

    row: ModelRow
    budget: int
    runs: dict[int, Scored]

    @property
    def key(self) -> tuple[str, int]:
        """Name and budget."""
        return self.row.name, self.budget

    @property
    def num_stages(self) -> int:
        """Outputs scored, P0 among them."""
        return next(iter(self.runs.values())).num_stages

    def values(self, metric: Metric, stage: int = -1) -> dict[int, float]:
        """A score of a stage, by seed."""
        return {seed: run.score(metric, stage) for seed, run in self.runs.items()}

    def spread(self, metric: Metric, stage: int = -1) -> Spread:
        """The same over the seeds."""
        return spread(list(self.values(metric, stage).values()))

    def class_spreads(self) -> dict[str, Spread]:
        """IoU of the last stage by class, over the seeds."""
        found = [run.class_scores for run in self.runs.values()]
        return {name: spread([scores[name] for scores in found]) for name in found[0]}


def read_scores(run: Run) -> Scored:
    """Read what a finished run found.

    Raises:
        ValueError: Its scores are damaged.
    """
    path = run.folder / SCORES
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        scored = Scored(run, report, _losses(run))
        scored.score("miou")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{path}: expected the scores of a finished run, got {error!r}: remove the run's "
            "folder to have it made anew"
        ) from error
    return scored


def collect(comparison: Comparison, runs: Sequence[Run]) -> list[Entry]:
    """The finished runs as entries, in the comparison's order; budgets from short to long."""
    found: dict[tuple[str, int], dict[int, Scored]] = {}
    for run in runs:
        if run.is_finished:
            found.setdefault((run.row.name, run.budget), {})[run.seed] = read_scores(run)
    return [
        Entry(row, budget, dict(sorted(found[row.name, budget].items())))
        for row in comparison.models
        for budget in sorted(comparison.budgets_of(row))
        if (row.name, budget) in found
    ]


def gain(entry: Entry, base: Entry, metric: Metric) -> Spread:
    """What a model gains over another: the difference in each seed that both have.

    Seeds share the data's order and augmentation, so a difference is taken within each; its
    spread says how sure it is.
    """
    mine, theirs = entry.values(metric), base.values(metric)
    return spread([mine[seed] - theirs[seed] for seed in mine if seed in theirs])


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation, of what there is: NaN is left out."""
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return Spread(math.nan, math.nan, 0)
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Spread(statistics.fmean(values), deviation, len(values))


def _number(value: float | None) -> float:
    """JSON has no NaN: there it's None."""
    return math.nan if value is None else float(value)


def _losses(run: Run) -> list[tuple[int, float]]:
    rows = [row for row in read_log(run.folder / "log.jsonl") if row["kind"] == "train"]
    outputs = {key for row in rows for key in row if re.fullmatch(r"P\d+", key)}
    if not outputs:
        return []
    last = max(outputs, key=lambda key: int(key[1:]))
    return [(row["step"], row[last]) for row in rows if last in row]
