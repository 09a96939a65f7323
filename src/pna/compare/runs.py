"""The runs of a comparison: one model, one budget, one seed, one folder each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pna.compare.comparison import Comparison, ModelRow
from pna.train import Recipe, load_recipe
from pna.train.assemble import is_finished
from pna.train.checkpoint import differing_settings

# What leaves the weights and scores of a finished run as they are.
HARMLESS = frozenset(
    {
        "data.root",
        "data.num_workers",
        "data.label_cache",
        "run.checkpoint_every",
        "run.log_every",
        "run.tensorboard",
        "run.timeout",
    }
)

SCORES = Path("evaluation") / "scores.json"
SOURCE = "behind.txt"
"""Says, in the folder of a model that stands behind another, which run its weights are from."""


@dataclass(frozen=True)
class Run:
    """One training run, or the scoring of one model behind another's weights.

    Attributes:
        row: The model.
        budget: Steps.
        seed: Of everything random.
        recipe: What is trained.
        folder: Where everything about it goes.
        source: The run whose weights it takes, if it isn't trained.
    """

    row: ModelRow
    budget: int
    seed: int
    recipe: Recipe
    folder: Path
    source: "Run | None" = None

    @property
    def name(self) -> str:
        """Its folder's name."""
        return self.folder.name

    @property
    def is_finished(self) -> bool:
        """Whether it has been trained and scored."""
        if self.source is None:
            return is_finished(self.folder, self.recipe)
        return (self.folder / SCORES).is_file()


def plan(comparison: Comparison, folder: Path) -> list[Run]:
    """All runs, those that are trained before those that wait for them.

    Every model gets its first seed before any gets its second, and of equals the shorter budget
    comes first: a comparison that is looked at half-way is a whole one with fewer seeds.
    """
    runs = [
        _run(comparison, row, budget, seed, folder)
        for row in comparison.models
        for budget in comparison.budgets_of(row)
        for seed in comparison.seeds_of(row)
    ]
    return sorted(runs, key=lambda run: _order(comparison, run))


def _order(comparison: Comparison, run: Run) -> tuple[bool, int, int]:
    return run.source is not None, comparison.seeds_of(run.row).index(run.seed), run.budget


def _run(comparison: Comparison, row: ModelRow, budget: int, seed: int, folder: Path) -> Run:
    source = None
    if row.behind is not None:
        source = _run(comparison, comparison.row(row.behind), budget, seed, folder)
    recipe = Recipe(
        model=comparison.model_of(row),
        data=comparison.data,
        loss=comparison.loss,
        optimizer=comparison.optimizer,
        schedule=comparison.schedule.model_copy(update={"steps": budget}),
        run=comparison.run.model_copy(update={"seed": seed}),
    )
    return Run(row, budget, seed, recipe, folder / f"{row.name}-{budget}-{seed}", source)


def choose(
    runs: Sequence[Run],
    *,
    names: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    budgets: Sequence[int] | None = None,
) -> list[Run]:
    """The runs of these models, seeds and budgets; None leaves all.

    Raises:
        ValueError: One of them isn't planned, or together they leave nothing.
    """
    chosen = _keep(list(runs), names, "models", lambda run: run.row.name)
    chosen = _keep(chosen, seeds, "seeds", lambda run: run.seed)
    return _keep(chosen, budgets, "budgets", lambda run: run.budget)


def _keep(
    runs: list[Run], wanted: Sequence[object] | None, what: str, value: Callable[[Run], object]
) -> list[Run]:
    if wanted is None:
        return runs
    known = dict.fromkeys(value(run) for run in runs)
    if unknown := [item for item in wanted if item not in known]:
        raise ValueError(
            f"expected some of the {what} {', '.join(map(str, known))}, got "
            f"{', '.join(map(str, unknown))}"
        )
    return [run for run in runs if value(run) in wanted]


def check_runs(runs: list[Run]) -> None:
    """Refuse runs in the folder that were made under another comparison.

    Raises:
        ValueError: A run was trained by another recipe; the message lists what differs.
    """
    for run in runs:
        check_run(run)


def check_run(run: Run) -> None:
    """The same for one run."""
    differing = []
    saved = run.folder / "recipe.yaml"
    if saved.is_file():
        before, now = load_recipe(saved).flat(), run.recipe.flat()
        differing = differing_settings(before, now, ignored=HARMLESS)
    differing += _other_source(run)
    if differing:
        raise ValueError(
            f"{run.folder}: expected a run of this comparison, got one of another "
            f"({'; '.join(differing)}): undo that, remove the folder to have it made anew, or "
            "compare in another folder"
        )


def _other_source(run: Run) -> list[str]:
    file = run.folder / SOURCE
    now = run.source.name if run.source is not None else None
    before = file.read_text(encoding="utf-8").strip() if file.is_file() else None
    if before == now or (before is None and not (run.folder / "recipe.yaml").is_file()):
        return []
    return [f"its weights were from {before or 'a training'}, are from {now or 'a training'}"]
