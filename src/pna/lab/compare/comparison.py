"""A comparison: one set of training settings, and the models that are trained with it.

It is a recipe with several models. Data, augmentation, loss weights, optimizer, schedule, batch
size and seeds are the same for all of them. The sentence under each field is its documentation.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pna.errors import PnaError
from pna.lab.baselines import PRESETS
from pna.settings import Section, bundled_names, known_keys, parse_tree, read_head, read_tree
from pna.train.losses import LossConfig
from pna.train.recipe import (
    CascadeSection,
    DataSection,
    ModelSection,
    NonNegative,
    OptimizerSection,
    Positive,
    RunSection,
    ScheduleSection,
)

FOLDERS = (resources.files("pna.lab.compare") / "comparisons",)
"""Folders of the bundled comparisons."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$")]
Seeds = Annotated[tuple[NonNegative, ...], Field(min_length=1)]
Lengths = Annotated[tuple[Positive, ...], Field(min_length=1)]


class ComparedModel(Section):
    """One model: a row of the tables for each of its training lengths."""

    name: Name
    """Name in files and on the command line; unique."""
    label: str | None = None
    """Name in tables and figures; none takes `name`."""
    preset: str | None = None
    """Name of a preset, of the library or a baseline."""
    cascade: CascadeSection | None = None
    """A network of another library, instead of a preset."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of a preset's encoder and coarse head, over the common ones; `null` is the preset's
    own value."""
    pna: dict[str, Any] | None = None
    """Options of the refinement; those left out are the preset's, or those of a cascade. `null`
    leaves a cascade's network unrefined."""
    seeds: Seeds | None = None
    """Seeds of this model; none takes the common ones."""
    steps: Lengths | None = None
    """Training lengths of this model; none takes the common ones."""
    tables: tuple[str, ...] = ()
    """Titles of the tables with this model; the baseline is in each of them."""
    weights_of: Name | None = None
    """Name of another model: this one is not trained, but scored with the weights of that one."""

    @property
    def title(self) -> str:
        """Name in tables and figures."""
        return self.label or self.name


class MeasureSection(Section):
    """How cost is measured: inference, one image per call, random pixels."""

    size: tuple[Positive, Positive] = (512, 512)
    """Height and width of the image, in pixels."""
    rounds: Positive = 5
    """Measurements of each model; the models take turns."""


class Comparison(Section):
    """Models that are trained with the same settings."""

    title: str
    """Title of tables and figures."""
    data: DataSection
    loss: Annotated[LossConfig, known_keys(LossConfig)] = LossConfig()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection
    run: RunSection = RunSection()
    measure: MeasureSection = MeasureSection()
    encoder: str | None = None
    """timm name of the encoder of all presets; none takes each preset's."""
    encoder_weights: Literal["imagenet"] | None = "imagenet"
    """Pretrained weights of all encoders; none starts at random."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of every preset's encoder and coarse head."""
    seeds: Seeds | None = None
    """Seeds that each model is trained with; none takes `run.seed` alone."""
    steps: Lengths | None = None
    """Lengths that each model is trained for; none takes `schedule.steps` alone."""
    baseline: Name | None = None
    """Name of the model that differences are taken to; none takes the first."""
    control: Name | None = None
    """Name of a second model that differences are taken to, in a table of its own."""
    models: Annotated[tuple[ComparedModel, ...], Field(min_length=1)]
    """The models."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [model.name for model in self.models]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise PnaError(f"models: expected each name once, got {', '.join(twice)} again")
        for key, name in (("baseline", self.baseline), ("control", self.control)):
            if name is not None and name not in names:
                raise PnaError(f"{key}: expected one of {', '.join(names)}, got {name}")
        for model in self.models:
            if model.weights_of is not None:
                where = f"{model.name}: weights_of: expected"
                if model.weights_of not in names:
                    raise PnaError(f"{where} one of {', '.join(names)}, got {model.weights_of}")
                source = self.model(model.weights_of)
                if source.weights_of is not None:
                    raise PnaError(
                        f"{where} a model that is trained, got {source.name}, which is not"
                    )
                for key, of in (("seeds", self.seeds_of), ("steps", self.steps_of)):
                    if not set(of(model)) <= set(of(source)):
                        raise PnaError(
                            f"{where} a model with the same {key}: leave {key} of {model.name} "
                            f"out, or choose some of {source.name}'s"
                        )
            # A preset or option that does not fit fails here, not when its run begins.
            try:
                self.section_of(model)
            except ValidationError as error:
                problem = error.errors()[0]
                key = ".".join(map(str, problem["loc"]))
                message = problem["msg"].removeprefix("Value error, ")
                if problem["type"] == "unknown_key":
                    message = f"unknown key {problem['ctx']['key']}"
                raise PnaError(": ".join(filter(None, (model.name, key, message)))) from error
        return self

    @property
    def base(self) -> ComparedModel:
        """The model that differences are taken to."""
        return self.models[0] if self.baseline is None else self.model(self.baseline)

    def model(self, name: str) -> ComparedModel:
        """Return the model of that name, which must exist."""
        return next(model for model in self.models if model.name == name)

    def seeds_of(self, model: ComparedModel) -> tuple[int, ...]:
        """Return the seeds that a model is trained with."""
        # The weights of another model exist for its seeds alone.
        if model.seeds is None and model.weights_of is not None:
            return self.seeds_of(self.model(model.weights_of))
        return model.seeds or self.seeds or (self.run.seed,)

    def steps_of(self, model: ComparedModel) -> tuple[int, ...]:
        """Return the numbers of steps that a model is trained for."""
        if model.steps is None and model.weights_of is not None:
            return self.steps_of(self.model(model.weights_of))
        return model.steps or self.steps or (self.schedule.steps,)

    def section_of(self, model: ComparedModel) -> ModelSection:
        """Return the recipe's section `model` of a model."""
        values: dict[str, Any] = {"encoder_weights": self.encoder_weights}
        if model.cascade is None:
            options = {**self.options, **model.options}
            values["preset"] = model.preset
            values["encoder"] = self.encoder
            values["options"] = {key: x for key, x in options.items() if x is not None}
        else:  # the common options are those of presets
            values["preset"] = model.preset
            values["cascade"] = model.cascade
            values["options"] = model.options
        # Left out is not null: null leaves a cascade unrefined.
        if "pna" in model.model_fields_set:
            values["pna"] = model.pna
        return ModelSection.model_validate(values, context={"presets": PRESETS})

    def tables(self) -> dict[str, list[ComparedModel]]:
        """Return the models by title of their table, baseline first; by default one of all."""
        titles = dict.fromkeys(title for model in self.models for title in model.tables)
        if not titles:
            return {self.title: list(self.models)}
        return {
            title: [model for model in self.models if model == self.base or title in model.tables]
            for title in titles
        }


def bundled_comparisons() -> list[str]:
    """List the bundled comparisons."""
    return bundled_names(FOLDERS)


def comparison_head(name: str) -> dict[str, str]:
    """Read the comment at the head of a bundled comparison: "shows", "command" and "hours".

    Raises:
        MissingFileError: There is no such bundled comparison.
    """
    return read_head(name, FOLDERS, kind="comparison")


def load_comparison(source: str | Path, overrides: Sequence[str] = ()) -> Comparison:
    """Read a comparison.

    Args:
        source: Path of a YAML file, or the name of a bundled comparison.
        overrides: `section.key=value` strings, the value in YAML; later ones win.

    Raises:
        MissingFileError: There is no such file and no such bundled comparison.
        PnaError: A key or a preset is unknown, or a value does not fit.

    Example:
        >>> comparison = load_comparison("camvid-window", ["data.root=data/camvid"])
        >>> [model.name for model in comparison.models]
        ['window-5', 'window-7', 'window-9', 'window-11']
    """
    label, tree = read_tree(source, FOLDERS, kind="comparison")
    return parse_tree(Comparison, tree, label=label, overrides=overrides)
