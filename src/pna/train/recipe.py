"""A training run as data: one frozen, typed section per concern, read from YAML.

Defaults are the paper's settings where it gives any (its Experimental Settings) and the authors'
released ones elsewhere. A recipe file holds only what differs; the resolved recipe, every default
spelled out, is saved with the run. The sentence under each field is its documentation.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from pna.errors import PnaError
from pna.model.config import Library, ModelOptions
from pna.model.pna.config import PNAConfig
from pna.model.presets import PRESETS, Preset, find_preset
from pna.settings import (
    Folders,
    Section,
    Setting,
    bundled_names,
    document,
    known_keys,
    parse_tree,
    read_head,
    read_tree,
)
from pna.train.losses import LossConfig

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]

RECIPES: Traversable = resources.files("pna.train") / "recipes"
"""The folder of the bundled recipes."""


def _yaml_no(value: Any) -> Any:
    """Return "no" for False: YAML 1.1 reads a bare `no` so, here the name of a precision."""
    return "no" if value is False else value


class MeanStd(Section):
    """Normalization of images in [0, 1], per RGB channel."""

    mean: tuple[float, float, float]
    """Mean that is subtracted."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat]
    """Standard deviation that the difference is divided by."""


class CascadeSection(Section):
    """A network of another library, refined by PNA (`pna.cascade`), or trained alone."""

    library: Library
    """Its library: `smp` is segmentation_models_pytorch, `timm` a backbone with an FCN head."""
    name: str
    """The library's name of it: `Unet`, `fcn_resnet50`, `SegformerForSemanticSegmentation`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Its further arguments, such as `encoder_name`."""
    weights: str | None = None
    """Weights to start from: a run's `model/` around the same network, or a state dict's file."""
    freeze: bool = False
    """Whether its weights and the statistics of its batch norm are fixed."""
    features: tuple[str, ...] | None = None
    """Names of the modules whose outputs are the features, fine to coarse; none: found."""
    coarse: str | None = None
    """Name of the module whose output is P0; none: found."""
    normalize: Literal["auto", "imagenet"] | MeanStd | None = "auto"
    """Normalization of its images: `auto` (read from the network), `imagenet`, `{mean, std}`, or
    `null` for images in [0, 1] as they are."""


class ModelSection(Section):
    """The network to train: a preset, or a network of another library."""

    preset: str | None = None
    """Name of a preset (`pna.create_model` lists them)."""
    cascade: CascadeSection | None = None
    """A network of another library, instead of a preset."""
    encoder: str | None = None
    """timm name of a preset's encoder; none takes the preset's own."""
    encoder_weights: Literal["imagenet"] | None = "imagenet"
    """Pretrained weights of the encoder; none starts at random."""
    init_from: str | None = None
    """Saved model to start from (folder, bundled name or OWNER/NAME). Tensors of other shapes and,
    where the classes differ, those that depend on the classes keep their random start."""
    options: Annotated[ModelOptions, known_keys(ModelOptions)] = ModelOptions()
    """Options of a preset's encoder and coarse head."""
    pna: Annotated[PNAConfig | None, known_keys(PNAConfig)] = None
    """Options of the refinement. Those left out are the preset's, or those of a cascade; `null`
    leaves a cascade's network unrefined."""

    @model_validator(mode="before")
    @classmethod
    def _complete_pna(cls, values: Any, info: ValidationInfo) -> Any:
        """Put the options under `pna` over the preset's."""
        if not isinstance(values, Mapping) or isinstance(values.get("pna"), PNAConfig):
            return values
        # Before the fields are read, because PNAConfig has no value for "not given".
        name = values.get("preset")
        preset = _presets(info).get(name) if isinstance(name, str) else None
        if values.get("cascade") is not None:
            default: PNAConfig | None = PNAConfig.for_cascade()
        elif preset is not None:
            default = preset.pna
        else:
            return values  # no network that is known: refused below
        given = values.get("pna", {})
        if given is None or (default is None and given == {}):
            return {**values, "pna": None}
        if default is None:
            raise PnaError(
                f"preset {values['preset']!r} has no PNA, got pna: {given}; leave it out, "
                "or take a preset that has one"
            )
        return {**values, "pna": asdict(default) | given} if isinstance(given, dict) else values

    @model_validator(mode="after")
    def _one_network(self, info: ValidationInfo) -> Self:
        if (self.preset is None) == (self.cascade is None):
            got = "neither" if self.preset is None else "both"
            raise PnaError(f"expected a preset or a cascade, got {got}")
        if self.preset is not None:
            preset = find_preset(self.preset, _presets(info))
            if self.pna is None and preset.pna is not None:
                raise PnaError(
                    f"preset {self.preset!r} is refined by PNA, got pna: null; take a preset "
                    "without, such as lite-fcn"
                )
        elif self.encoder is not None or self.options != ModelOptions():
            raise PnaError(
                "encoder and options are a preset's, got them for a cascade; its network takes "
                "model.cascade.options instead"
            )
        if self.options.bands is not None:
            raise PnaError("options.bands: the data say which bands there are; set data.bands")
        if self.cascade is not None and self.cascade.freeze and self.pna is None:
            raise PnaError("expected something to train, got cascade.freeze and no refinement")
        return self

    @property
    def title(self) -> str:
        """The network's name for people."""
        if self.cascade is not None:
            refined = "" if self.pna is None else " + PNA"
            return f"{self.cascade.name} ({self.cascade.library}){refined}"
        on_encoder = "" if self.encoder is None else f" on {self.encoder}"
        return f"{self.preset}{on_encoder}"


def _presets(info: ValidationInfo) -> Mapping[str, Preset]:
    # In the validation's context, so that no module holds a registry.
    presets: Mapping[str, Preset] = (info.context or {}).get("presets", PRESETS)
    return presets


class DataSection(Section):
    """The data set and how its images are augmented."""

    name: str
    """Name of a data set; the page on data lists them."""
    root: str
    """Its folder; `~` stands for the home folder."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to evaluate on."""
    labels: str | None = None
    """Only for `folder`: JSON file of its label space, or the name of a known one."""
    masks: Literal["index", "color", "polygons"] | None = None
    """Only for `folder`: whether its masks hold class indices, colors or polygons."""
    class_property: str | None = None
    """Only for `folder`: the property of a polygon that holds its class."""
    ignore: int | tuple[int, int, int] | None = None
    """Only for `folder`: value or color of ignored pixels in its masks, besides 255."""
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Only for `folder`: share of the pairs in `val`."""
    train_list: str | None = None
    """Only for `folder`: file of the stems to train on, one a line, instead of `train_split`."""
    val_list: str | None = None
    """Only for `folder`: the same for evaluation, instead of `val_split`."""
    bands: str | None = None
    """Only for `folder`: JSON file of the channels of its images, as `pna data bands` writes it;
    none: red, green and blue."""
    crop: tuple[Positive, Positive] = (512, 512)
    """Height and width of a training crop, in pixels."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Range of the random scale."""
    base_size: tuple[Positive, Positive] | None = None
    """Long and short side an image is fitted into before the random scale."""
    short_sides: tuple[Positive, ...] | None = None
    """Short sides to draw from instead of `scale`, in pixels."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    jitter: bool = True
    """Whether colors are jittered."""
    skip_bad: bool = False
    """Whether files that can't be read are replaced or left out, and listed at the end."""
    num_workers: NonNegative = 4
    """Processes per rank that prepare images; changes speed, never an image."""
    limit: Positive | None = None
    """Train on the first so many images only."""

    @model_validator(mode="after")
    def _one_way_to_scale(self) -> Self:
        if self.base_size is not None and self.short_sides is not None:
            raise PnaError("expected base_size or short_sides, got both: remove one")
        if self.scale[0] > self.scale[1]:
            raise PnaError(f"expected scale as [low, high], got {list(self.scale)}: swap them")
        if self.bands is not None and self.jitter:
            raise PnaError("colors are jittered in RGB alone: for bands set data.jitter to false")
        return self


class OptimizerSection(Section):
    """AdamW. Norms, biases and relative-position bias tables are never decayed."""

    lr: PositiveFloat = 1e-4
    """Peak learning rate of the encoder, and of the rest unless `head_lr` says otherwise."""
    head_lr: PositiveFloat | None = None
    """Peak learning rate of everything that is not the encoder."""
    weight_decay: Weight = 1e-4
    """Decoupled weight decay."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (
        0.9,
        0.999,
    )
    """AdamW's two decay rates."""
    clip_norm: PositiveFloat | None = None
    """Largest norm of the whole model's gradient."""


class ScheduleSection(Section):
    """Polynomial decay to 0 after a linear warm-up."""

    steps: Positive
    """Length of the run in optimizer steps."""
    warmup_steps: NonNegative = 0
    """Length of the warm-up."""
    warmup_from: Annotated[float, Field(ge=0, le=1)] = 1e-6
    """Where the warm-up starts, as a factor of the learning rate."""
    power: Weight = 0.9
    """Exponent of the decay."""


class RunSection(Section):
    """How the run is carried out."""

    batch_size: Positive = 16
    """Images per optimizer step, over all processes and accumulated parts."""
    accumulation: Positive = 1
    """Parts a step's batch is cut into, one after the other, to save memory."""
    precision: Annotated[Literal["no", "bf16", "fp16"], BeforeValidator(_yaml_no)] = "no"
    """Automatic mixed precision; `no` trains in float32."""
    sync_batch_norm: bool | None = None
    """Whether batch norm takes its statistics over all GPUs; none: where there are several."""
    timeout: PositiveFloat = 1800.0
    """Seconds that the processes of a run wait for each other within a step; then it ends."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of a running average of the weights, which is then evaluated and exported."""
    seed: NonNegative = 0
    """Seed of everything random."""
    eval_every: Positive | None = None
    """Steps between two evaluations; none evaluates only the final model."""
    eval_limit: Positive | None = None
    """Evaluate on the first so many images only (the final evaluation takes all)."""
    export: Literal["last", "best"] = "last"
    """Which weights become `model/`; `best` chooses by `val_split`, so report it on another one."""
    checkpoint_every: Positive = 500
    """Steps between two writings of `last.pt`."""
    log_every: Positive = 50
    """Steps between two lines of the log."""
    tensorboard: bool = True
    """Whether to write TensorBoard events too, where it is installed."""

    @model_validator(mode="after")
    def _even_parts(self) -> Self:
        if self.batch_size % self.accumulation:
            raise PnaError(
                f"expected batch_size ({self.batch_size}) to be a multiple of accumulation "
                f"({self.accumulation}): change one of them"
            )
        return self


class Recipe(Section):
    """A whole training run."""

    model: ModelSection
    data: DataSection
    loss: Annotated[LossConfig, known_keys(LossConfig)] = LossConfig()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection
    run: RunSection = RunSection()

    def flat(self) -> dict[str, Any]:
        """Return all settings by dotted name, e.g. `{"loss.coarse": 1.0, ...}`."""
        return _flatten(self.model_dump(mode="json"))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        inner = _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {}
        leaves |= inner or {f"{prefix}{key}": value}  # an empty mapping is a value itself
    return leaves


def bundled_recipes(folders: Folders = (RECIPES,)) -> list[str]:
    """List the recipes in some folders; by default those that come with the library."""
    return bundled_names(folders)


def recipe_head(name: str, folders: Folders = (RECIPES,)) -> dict[str, str]:
    """Read the comment at the head of a bundled recipe.

    Returns:
        Text by key: "paper" (table and row, or "none"), "command", "hours" and "score".

    Raises:
        MissingFileError: There is no such bundled recipe.

    Example:
        >>> recipe_head("voc-lite")["command"]
        'pna train voc-lite -o runs/voc-lite --set data.root=PATH'
    """
    return read_head(name, folders, kind="recipe")


def load_recipe(
    source: str | Path,
    overrides: Sequence[str] = (),
    *,
    folders: Folders = (RECIPES,),
    presets: Mapping[str, Preset] = PRESETS,
) -> Recipe:
    """Read a recipe, and resolve it: the preset or a default fills all that its file leaves out.

    Args:
        source: Path of a YAML file, or the name of a bundled recipe.
        overrides: `section.key=value` strings, the value in YAML; later ones win.
        folders: The folders of the bundled recipes.
        presets: Where the recipe's preset is looked up.

    Raises:
        MissingFileError: There is no such file and no such bundled recipe.
        PnaError: The file is no mapping, a key or preset is unknown or a value doesn't fit.

    Example:
        >>> recipe = load_recipe("voc-lite", ["model.pna.window=9"])
        >>> recipe.model.pna.window, recipe.model.pna.widths
        (9, (32, 64, 96, 128))
    """
    label, tree = read_tree(source, folders, kind="recipe")
    return parse_recipe(tree, label=label, overrides=overrides, presets=presets)


def parse_recipe(
    tree: dict[str, Any],
    *,
    label: str = "recipe",
    overrides: Sequence[str] = (),
    presets: Mapping[str, Preset] = PRESETS,
) -> Recipe:
    """Check a tree of settings, `overrides` applied in place; errors begin with `label`.

    Raises:
        PnaError: A key or preset is unknown or a value doesn't fit; every problem has a line.

    Example:
        >>> settings = {
        ...     "model": {"preset": "lite", "pna": {"window": 5}},
        ...     "data": {"name": "voc2012", "root": "VOCdevkit"},
        ...     "schedule": {"steps": 100},
        ... }
        >>> parse_recipe(settings).model.pna.window
        5
    """
    context = {"presets": presets}
    return parse_tree(Recipe, tree, label=label, overrides=overrides, context=context)


def dump_recipe(recipe: Recipe) -> str:
    """Format the resolved recipe, every default spelled out, as YAML."""
    text: str = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
    return text


def all_settings() -> Iterator[Setting]:
    """Yield all settings of a recipe by dotted name, with default and meaning, for documentation.

    Example:
        >>> next(setting for setting in all_settings() if setting.name == "loss.stage").default
        '0.1'
    """
    return document(Recipe)
