"""The runs of a comparison: one model, one length, one seed, one folder each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pna.errors import PnaError
from pna.lab.baselines import PRESETS
from pna.lab.compare.comparison import ComparedModel, Comparison
from pna.train import Recipe, load_recipe, parse_recipe
from pna.train.run import is_finished
from pna.train.state import differing_settings

# Settings that do not change the weights and scores of a finished run.
HARMLESS = frozenset(
    {
        "data.root",
        "data.num_workers",
        "run.checkpoint_every",
        "run.log_every",
        "run.tensorboard",
        "run.timeout",
    }
)

SCORES = Path("evaluation") / "scores.json"
MACHINE = "machine.json"
"""File in a run's folder: processor, threads and versions."""
WEIGHTS_OF = "weights_of.txt"
"""File in the folder of a model that is not trained: the run whose weights it has."""
RECORDS = "runs.jsonl"
"""File in the comparison's folder: a line with recipe, machine, scores and losses of each run."""


@dataclass(frozen=True)
class Run:
    """One training run, or the scoring of one model with the weights of another.

    Attributes:
        model: The model.
        steps: Training length.
        seed: Seed of everything random.
        recipe: The settings of the training.
        folder: Folder for everything of this run.
        record: Its line of `runs.jsonl`, if there is one: it stands for a folder that is gone.
        source: The run whose weights it takes, if it is not trained.
    """

    model: ComparedModel
    steps: int
    seed: int
    recipe: Recipe
    folder: Path
    record: Mapping[str, Any] | None = None
    source: "Run | None" = None

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.name

    @property
    def has_folder(self) -> bool:
        """Whether its folder has a finished training and its scores."""
        if self.source is None:
            return is_finished(self.folder, self.recipe)
        return (self.folder / SCORES).is_file()

    @property
    def is_finished(self) -> bool:
        """Whether its scores are known."""
        return self.has_folder or (self.record is not None and not self.folder.is_dir())


def plan_runs(comparison: Comparison, folder: Path) -> list[Run]:
    """List all runs of a comparison, in the order in which to do them.

    Every model gets its first seed before any gets its second, and shorter trainings come first, so
    that the tables of a half-finished comparison hold all models. Models that take the weights of
    others come last.

    Raises:
        PnaError: `runs.jsonl` is damaged.
    """
    records = read_records(folder / RECORDS)
    runs = [
        _plan_run(comparison, model, steps, seed, folder, records)
        for model in comparison.models
        for steps in comparison.steps_of(model)
        for seed in comparison.seeds_of(model)
    ]
    return sorted(
        runs,
        key=lambda run: (
            run.source is not None,
            comparison.seeds_of(run.model).index(run.seed),
            run.steps,
        ),
    )


def _plan_run(
    comparison: Comparison,
    model: ComparedModel,
    steps: int,
    seed: int,
    folder: Path,
    records: Mapping[str, Mapping[str, Any]],
) -> Run:
    source = None
    if model.weights_of is not None:
        other = comparison.model(model.weights_of)
        source = _plan_run(comparison, other, steps, seed, folder, records)
    # Not validated again: the sections are valid, and the lab's presets would be refused.
    recipe = Recipe.model_construct(
        model=comparison.section_of(model),
        data=comparison.data,
        loss=comparison.loss,
        optimizer=comparison.optimizer,
        schedule=comparison.schedule.model_copy(update={"steps": steps}),
        run=comparison.run.model_copy(update={"seed": seed}),
    )
    name = f"{model.name}-{steps}-{seed}"
    return Run(model, steps, seed, recipe, folder / name, records.get(name), source)


def read_records(path: Path) -> dict[str, dict[str, Any]]:
    """Read the lines of a `runs.jsonl`, by the name of the run; empty if there is no such file.

    Raises:
        PnaError: A line is damaged.
    """
    records = {}
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            records[record["run"]] = record
        except (ValueError, KeyError, TypeError) as error:
            raise PnaError(
                f"{path}, line {number}: expected a run in JSON, got {error!r}: remove the line"
            ) from error
    return records


def choose_runs(
    runs: Sequence[Run],
    *,
    names: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> list[Run]:
    """Choose the runs of some models, seeds and lengths; None chooses all.

    Raises:
        PnaError: One of them is not planned.
    """
    chosen = list(runs)
    for kind, wanted, values in (
        ("models", names, {run.name: run.model.name for run in runs}),
        ("seeds", seeds, {run.name: run.seed for run in runs}),
        ("steps", steps, {run.name: run.steps for run in runs}),
    ):
        if wanted is None:
            continue
        # Among the runs chosen so far: a seed that only other models have is refused.
        known = dict.fromkeys(values[run.name] for run in chosen)
        if unknown := [item for item in wanted if item not in known]:
            raise PnaError(
                f"expected some of the {kind} {', '.join(map(str, known))}, got "
                f"{', '.join(map(str, unknown))}"
            )
        chosen = [run for run in chosen if values[run.name] in wanted]
    return chosen


def check_run(run: Run) -> None:
    """Refuse a folder or a record that was made under another comparison.

    Raises:
        PnaError: The recipe or the source of the weights was another one.
    """
    saved, source = run.folder / "recipe.yaml", run.folder / WEIGHTS_OF
    if saved.is_file():
        before = load_recipe(saved, presets=PRESETS).flat()
        weights_of = source.read_text(encoding="utf-8").strip() if source.is_file() else None
    elif run.record is not None and not run.folder.is_dir():
        before = parse_recipe(dict(run.record["recipe"]), label=run.name, presets=PRESETS).flat()
        weights_of = run.record["weights_of"]
    else:
        return
    differing = differing_settings(before, run.recipe.flat(), ignored=HARMLESS)
    now = None if run.source is None else run.source.name
    if weights_of != now:
        differing.append(
            f"its weights were those of {weights_of or 'a training'}, now they are those of "
            f"{now or 'a training'}"
        )
    if differing:
        raise PnaError(
            f"{run.folder}: expected a run of this comparison, got one of another "
            f"({'; '.join(differing)}): undo the change, remove the run (its folder and its line "
            f"in {RECORDS}), or compare in another folder"
        )
