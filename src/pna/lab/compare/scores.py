"""Scores of finished runs: by stage and class, means over seeds, differences seed by seed."""

import json
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pna.errors import PnaError
from pna.lab.compare.comparison import ComparedModel, Comparison
from pna.lab.compare.runs import MACHINE, SCORES, Run
from pna.train.log import read_log

Metric = Literal["miou", "boundary_miou"]
METRICS: tuple[Metric, ...] = ("miou", "boundary_miou")


class SeedMean(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: NaN without values.
        deviation: Sample standard deviation (n - 1); NaN of one value.
        n: Number of seeds.
    """

    mean: float
    deviation: float
    n: int


@dataclass(frozen=True)
class RunScores:
    """A finished run.

    Attributes:
        run: The run.
        report: Scores by stage, and the images and classes that they are of.
        losses: (step, loss of the last stage) over training, the part of the loss that all models
            have in common; empty if it was not trained.
        machine: Processor, threads and versions; None if they are not known.
    """

    run: Run
    report: Mapping[str, Any]
    losses: Sequence[tuple[int, float]]
    machine: Mapping[str, Any] | None

    def score(self, metric: Metric, stage: int = -1) -> float:
        """Return a score of a stage in [0, 1], of the last by default; NaN if no class has one."""
        return _number(list(self.report["stages"].values())[stage][metric])

    @property
    def num_outputs(self) -> int:
        """Number of scored outputs: P0 and the stages."""
        return len(self.report["stages"])

    @property
    def class_scores(self) -> dict[str, float]:
        """IoU of the last stage by class."""
        final = list(self.report["stages"].values())[-1]
        return {
            name: _number(iou)
            for name, iou in zip(self.report["classes"], final["iou"], strict=True)
        }

    def record(self) -> dict[str, Any]:
        """Return all that tables and figures need, as a line of `runs.jsonl`."""
        recipe = self.run.recipe.model_dump(mode="json")
        recipe["data"]["root"] = f"data/{recipe['data']['name']}"  # no path of this machine
        return {
            "run": self.run.name,
            "model": self.run.model.name,
            "steps": self.run.steps,
            "seed": self.run.seed,
            "weights_of": None if self.run.source is None else self.run.source.name,
            "recipe": recipe,
            "machine": self.machine,
            "scores": self.report,
            "losses": self.losses,
        }


@dataclass(frozen=True)
class ModelScores:
    """One model at one training length, over its seeds: a row of the tables.

    Attributes:
        model: The model.
        steps: Training length.
        runs: The finished runs, at least one, by seed.
    """

    model: ComparedModel
    steps: int
    runs: Mapping[int, RunScores]

    @property
    def first(self) -> RunScores:
        """The run of the first seed."""
        return next(iter(self.runs.values()))

    @property
    def num_outputs(self) -> int:
        """Number of scored outputs: P0 and the stages."""
        return self.first.num_outputs

    def values(self, metric: Metric, stage: int = -1) -> dict[int, float]:
        """Return a score of a stage, by seed."""
        return {seed: run.score(metric, stage) for seed, run in self.runs.items()}

    def mean(self, metric: Metric, stage: int = -1) -> SeedMean:
        """Return a score of a stage, over the seeds."""
        return seed_mean(list(self.values(metric, stage).values()))

    def class_means(self) -> dict[str, SeedMean]:
        """Return the IoU of the last stage by class, over the seeds."""
        by_run = [run.class_scores for run in self.runs.values()]
        return {name: seed_mean([scores[name] for scores in by_run]) for name in by_run[0]}

    def difference(self, other: "ModelScores", metric: Metric) -> SeedMean:
        """Return this model's score less another's, in each seed that both have.

        Runs of one seed see the same images in the same order with the same augmentation, so the
        deviation of their differences is smaller than that of the scores.
        """
        # Paired by seed, not mean against mean.
        mine, others = self.values(metric), other.values(metric)
        return seed_mean([mine[seed] - others[seed] for seed in mine if seed in others])


def read_scores(run: Run) -> RunScores:
    """Read the scores of a finished run from its folder, or from its line of `runs.jsonl`.

    Raises:
        PnaError: They are damaged.
    """
    path = run.folder / SCORES
    try:
        if not run.has_folder:
            assert run.record is not None
            losses = [(step, loss) for step, loss in run.record["losses"]]
            scores = RunScores(run, run.record["scores"], losses, run.record["machine"])
        else:
            machine = run.folder / MACHINE
            scores = RunScores(
                run,
                summarize(json.loads(path.read_text(encoding="utf-8"))),
                read_losses(run.folder / "log.jsonl"),
                json.loads(machine.read_text(encoding="utf-8")) if machine.is_file() else None,
            )
        scores.score("miou")
        scores.class_scores  # noqa: B018  # a damaged report fails here
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise PnaError(
            f"{path}: expected the scores of a finished run, got {error!r}: remove the run's "
            "folder to make it again"
        ) from error
    return scores


def collect_scores(comparison: Comparison, runs: Sequence[Run]) -> list[ModelScores]:
    """Return the finished runs by model and length, in the comparison's order, short ones first."""
    by_model: dict[tuple[str, int], dict[int, RunScores]] = {}
    for run in runs:
        if run.is_finished:
            by_model.setdefault((run.model.name, run.steps), {})[run.seed] = read_scores(run)
    return [
        ModelScores(model, steps, dict(sorted(by_model[model.name, steps].items())))
        for model in comparison.models
        for steps in sorted(comparison.steps_of(model))
        if (model.name, steps) in by_model
    ]


def seed_mean(values: Sequence[float]) -> SeedMean:
    """Compute mean and sample standard deviation; NaN is left out.

    Example:
        >>> seed_mean([0.25, 0.75])
        SeedMean(mean=0.5, deviation=0.3535533905932738, n=2)
    """
    values = [value for value in values if not math.isnan(value)]
    if not values:
        return SeedMean(math.nan, math.nan, 0)
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return SeedMean(statistics.fmean(values), deviation, len(values))


def _number(value: float | None) -> float:
    """Return NaN for None: JSON has no NaN."""
    return math.nan if value is None else float(value)


def summarize(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a `scores.json` that tables show: class scores of the last stage only."""
    stages = {
        name: {"miou": scores["miou"], "boundary_miou": scores["boundary_miou"]}
        for name, scores in report["stages"].items()
    }
    # Class scores of one stage: those of all would be most of the bytes of `runs.jsonl`.
    last, final = list(report["stages"].items())[-1]
    stages[last]["iou"] = final["iou"]
    return {
        "num_images": report["num_images"],
        "num_available": report["num_available"],
        "classes": report["labels"]["classes"],
        "scored_classes": report["scored_classes"],
        "boundary_width": final["boundary_width"],
        "stages": stages,
    }


def read_losses(log: Path) -> list[tuple[int, float]]:
    """Step and loss of the last stage, for each training row of a `log.jsonl`."""
    rows = [row for row in read_log(log) if row["kind"] == "train"]
    # Rows hold "P0", "P1", ..., and the parts of a baseline's own losses.
    outputs = {key for row in rows for key in row if re.fullmatch(r"P\d+", key)}
    if not outputs:
        return []
    last = max(outputs, key=lambda key: int(key[1:]))
    return [(row["step"], row[last]) for row in rows if last in row]
