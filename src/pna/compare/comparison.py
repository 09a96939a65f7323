"""What is compared: one set of training settings, and the models that all get them.

A comparison is a recipe with many models in place of one. Whatever could favour one of them (data,
augmentation, loss weights, optimizer, schedule, batch, seed) stands in it once. The sentence under
each field is its documentation, in `docs/compare.md` too.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from pna.train.recipe import (
    CASCADE_OVERRIDES,
    CascadeSection,
    DataSection,
    LossSection,
    ModelOverrides,
    ModelSection,
    NonNegative,
    OptimizerSection,
    Positive,
    RunSection,
    ScheduleSection,
    Section,
)

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Seeds = Annotated[tuple[NonNegative, ...], Field(min_length=1)]
Budgets = Annotated[tuple[Positive, ...], Field(min_length=1)]


class ModelRow(Section):
    """One model: a row of the tables, or one for each of its budgets."""

    name: Name
    """Names the model in files and on the command line; unique."""
    label: str | None = None
    """What tables and figures call it; none takes the name."""
    preset: str | None = None
    """Name of a preset (`pna.create_model` lists them)."""
    cascade: CascadeSection | None = None
    """A network of another library, refined or alone, instead of a preset."""
    overrides: ModelOverrides = ModelOverrides()
    """Settings of the preset to change, on top of the common ones; `null` is the preset's own."""
    seeds: Seeds | None = None
    """Seeds of this model; none takes the common ones."""
    budgets: Budgets | None = None
    """Budgets of this model; none takes the common ones."""
    groups: tuple[str, ...] = ()
    """Tables that the model stands in, by title; the baseline stands in each."""
    behind: Name | None = None
    """Nothing is trained: the preset takes the trained weights of this model, and is scored."""

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        if self.preset is not None and self.cascade is not None:
            raise ValueError(f"{self.name}: expected a preset or a cascade, got both")
        return self

    @property
    def title(self) -> str:
        """What people call it."""
        return self.label or self.name


class MeasureSection(Section):
    """How cost is measured: inference, one picture per call, random pixels."""

    size: tuple[Positive, Positive] = (512, 512)
    """Height and width of the picture, in pixels."""
    rounds: Positive = 5
    """Turns of each model."""


class Comparison(Section):
    """Models under the same settings."""

    title: str
    """Stands above tables and figures."""
    data: DataSection
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection
    run: RunSection = RunSection()
    measure: MeasureSection = MeasureSection()
    encoder: str | None = None
    """timm name of everybody's encoder; none takes each preset's."""
    pretrained: bool = True
    """Whether encoders start from ImageNet weights."""
    overrides: ModelOverrides = ModelOverrides()
    """Settings of every preset to change."""
    seeds: Seeds | None = None
    """Seeds to train each model with; none takes `run.seed` alone."""
    budgets: Budgets | None = None
    """Lengths to train each model for, in steps; none takes `schedule.steps` alone."""
    baseline: Name | None = None
    """The model that differences are taken to; none takes the first."""
    control: Name | None = None
    """A second model that differences are taken to, in a table of its own."""
    models: Annotated[tuple[ModelRow, ...], Field(min_length=1)]
    """The models."""

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        names = [row.name for row in self.models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"models: expected each name once, got {', '.join(twice)} again")
        for key, name in (("baseline", self.baseline), ("control", self.control)):
            if name is not None and name not in names:
                raise ValueError(f"{key}: expected one of {', '.join(names)}, got {name}")
        for row in self.models:
            if row.behind is not None:
                self._check_behind(row, names)
        return self

    def _check_behind(self, row: ModelRow, names: list[str]) -> None:
        where = f"{row.name}: behind: expected"
        if row.behind not in names:
            raise ValueError(f"{where} one of {', '.join(names)}, got {row.behind}")
        source = self.row(row.behind)
        if source.behind is not None:
            raise ValueError(f"{where} a model that is trained, got {source.name}, which is not")
        if not set(self.seeds_of(row)) <= set(self.seeds_of(source)):
            raise ValueError(
                f"{where} a model with the same seeds; give seeds that {source.name} has"
            )
        if not set(self.budgets_of(row)) <= set(self.budgets_of(source)):
            raise ValueError(f"{where} a model with the same budgets; give some of {source.name}'s")

    @property
    def base(self) -> ModelRow:
        """The model that differences are taken to."""
        return self.models[0] if self.baseline is None else self.row(self.baseline)

    def row(self, name: str) -> ModelRow:
        """The model of that name, which there is."""
        return next(row for row in self.models if row.name == name)

    def seeds_of(self, row: ModelRow) -> tuple[int, ...]:
        """Seeds that a model is trained with; those of the model it stands behind by default."""
        if row.seeds is None and row.behind is not None:
            return self.seeds_of(self.row(row.behind))
        return row.seeds or self.seeds or (self.run.seed,)

    def budgets_of(self, row: ModelRow) -> tuple[int, ...]:
        """Steps that a model is trained for, likewise."""
        if row.budgets is None and row.behind is not None:
            return self.budgets_of(self.row(row.behind))
        return row.budgets or self.budgets or (self.schedule.steps,)

    def model_of(self, row: ModelRow) -> ModelSection:
        """The recipe's section of a model: the common overrides, then its own."""
        own = {key: getattr(row.overrides, key) for key in row.overrides.model_fields_set}
        common = self.overrides
        if row.cascade is not None:  # what is common to presets is none of its network's business
            common = ModelOverrides(**common.model_dump(include=CASCADE_OVERRIDES))
        return ModelSection(
            preset=row.preset,
            cascade=row.cascade,
            encoder=self.encoder if row.cascade is None else None,
            pretrained=self.pretrained,
            overrides=common.model_copy(update=own),
        )

    def groups(self) -> dict[str, list[ModelRow]]:
        """Models by the title of their table, the baseline first; one of all if none is named."""
        titles = dict.fromkeys(title for row in self.models for title in row.groups)
        if not titles:
            return {self.title: list(self.models)}
        return {
            title: [row for row in self.models if row == self.base or title in row.groups]
            for title in titles
        }
