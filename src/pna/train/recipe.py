"""What a training run is: one frozen, typed section per concern.

Defaults are the paper's settings where it gives any (its Experimental Settings) and the authors'
released ones elsewhere. A recipe file holds only what differs; `pna.train.recipes` reads it.
The sentence under each field is its documentation, in `docs/training.md` too.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Weight = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0)]


def _yaml_no(value: Any) -> Any:
    """YAML 1.1 reads a bare `no` as False; here it is the name of a precision."""
    return "no" if value is False else value


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys refused, documented by attribute docstrings."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelOverrides(Section):
    """Settings of the preset to change; whatever is left out stays as the preset has it."""

    output_stride: Literal[8, 16, 32] | None = None
    """Stride of the encoder's last level; below 32 its last stages are dilated."""
    multi_grid: tuple[Positive, ...] | None = None
    """Factors on the dilation in the last stage of a dilated ResNet."""
    coarse_channels: Positive | None = None
    """Width of the coarse head."""
    rates: tuple[Positive, ...] | None = None
    """Dilations of DeepLabV3's branches, in cells."""
    aux: bool | None = None
    """Whether an auxiliary FCN head is trained on the stride-16 level."""
    widths: tuple[Positive, ...] | None = None
    """Widths of the aggregation stages for strides 4, 8, 16, 32."""
    window: Positive | None = None
    """Side of the neighborhood, an odd number of cells."""
    self_aggregation: bool | None = None
    """Whether the stages carry the self-aggregation module (SAM)."""
    variant: Literal["released", "paper", "prenorm"] | None = None
    """Which stage to build: the released code's, the paper's equations, or ours, "prenorm"."""
    residual: Literal["none", "add", "aggregate"] | None = None
    """How a stage carries on the logits of the stage before."""
    centre: float | None = None
    """Bias with which a cell keeps its own logits at the start; cascades have 8, presets 5."""
    embedding_bias: bool | None = None
    """Whether the 1x1 embeddings of the stages have a bias."""
    upsample: Literal["nearest", "bilinear"] | None = None
    """How the logits of the stage before are brought to a stage's size."""
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Stochastic depth of the encoder."""


CASCADE_OVERRIDES = {"widths", "window", "self_aggregation", "variant", "residual", "centre"}


class CascadeSection(Section):
    """A network of another library, refined by PNA (`pna.cascade`) or trained alone."""

    library: Literal["smp", "torchvision", "transformers", "timm"]
    """Its library: `smp` is segmentation_models_pytorch, `timm` a backbone with an FCN head."""
    name: str
    """The library's name of it: `Unet`, `fcn_resnet50`, `SegformerForSemanticSegmentation`."""
    options: dict[str, Any] = {}
    """Its further arguments, such as `encoder_name`."""
    weights: str | None = None
    """Weights to start from: a run's `model/` around the same network, or a state dict's file."""
    freeze: bool = False
    """Whether its weights and the statistics of its batch norm are fixed."""
    refine: bool = True
    """Whether it is refined by PNA."""
    features: tuple[str, ...] | None = None
    """Names of the modules whose outputs are the features, fine to coarse; none: found."""
    coarse: str | None = None
    """Name of the module whose output is P0; none: found."""
    mean: tuple[float, float, float] | None = None
    """Mean per RGB channel that pictures in [0, 1] are normalised with; none: not normalised."""
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """Standard deviation per RGB channel, likewise."""

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if self.freeze and not self.refine:
            raise ValueError("expected something to train, got freeze and no refinement")
        return self


class ModelSection(Section):
    """The network to train: a preset, or a network of another library."""

    preset: str | None = None
    """Name of a preset (`pna.create_model` lists them)."""
    cascade: CascadeSection | None = None
    """A network of another library, instead of a preset."""
    encoder: str | None = None
    """timm name of the encoder; none takes the preset's."""
    pretrained: bool = True
    """Whether the encoder starts from ImageNet weights."""
    overrides: ModelOverrides = ModelOverrides()
    """Settings of the preset, or of a cascade's refinement, to change."""

    @property
    def title(self) -> str:
        """What to call the network."""
        if self.cascade is not None:
            refined = " + PNA" if self.cascade.refine else ""
            return f"{self.cascade.name} ({self.cascade.library}){refined}"
        on_encoder = "" if self.encoder is None else f" on {self.encoder}"
        return f"{self.preset}{on_encoder}"

    @model_validator(mode="after")
    def _one_network(self) -> Self:
        if (self.preset is None) == (self.cascade is None):
            got = "neither" if self.preset is None else "both"
            raise ValueError(f"expected a preset or a cascade, got {got}")
        if self.cascade is None:
            return self
        given = self.overrides.model_dump(exclude_none=True)  # a saved recipe spells out the rest
        of_presets = sorted(given.keys() - CASCADE_OVERRIDES)
        of_presets += ["encoder"] if self.encoder is not None else []
        if of_presets:
            raise ValueError(
                f"{', '.join(of_presets)}: for presets; a cascade's network takes model.cascade."
                "options instead"
            )
        return self


class DataSection(Section):
    """The data set and how its pictures are augmented."""

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
    masks: Literal["index", "color"] | None = None
    """Only for `folder`: whether its masks hold class indices or colours."""
    ratio: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Only for `folder`: share of the pairs in `val`."""
    train_list: str | None = None
    """Only for `folder`: file of the stems to train on, one a line, instead of `train_split`."""
    val_list: str | None = None
    """Only for `folder`: the same for evaluation, instead of `val_split`."""
    crop: tuple[Positive, Positive] = (512, 512)
    """Height and width of a training crop, in pixels."""
    scale: tuple[PositiveFloat, PositiveFloat] = (0.5, 2.0)
    """Range of the random scale."""
    base_size: tuple[Positive, Positive] | None = None
    """Long and short side a picture is fitted into before the random scale."""
    short_sides: tuple[Positive, ...] | None = None
    """Short sides to draw from instead of `scale`, in pixels."""
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Probability of a horizontal flip."""
    jitter: bool = True
    """Whether colours are jittered."""
    label_cache: str | None = None
    """Folder to keep converted masks in; changes speed, never a picture."""
    picture_cache: str | None = None
    """Folder to keep decoded pictures in; changes speed, never a picture."""
    picture_cache_gb: PositiveFloat = 20.0
    """Most that `picture_cache` holds, in 10^9 bytes."""
    skip_bad: bool = False
    """Whether what can't be read is replaced or left out, and listed at the end."""
    num_workers: NonNegative = 4
    """Processes per rank that prepare pictures; changes speed, never a picture."""
    limit: Positive | None = None
    """Train on the first so many pictures only."""

    @model_validator(mode="after")
    def _one_way_to_scale(self) -> Self:
        if self.base_size is not None and self.short_sides is not None:
            raise ValueError("expected base_size or short_sides, got both: remove one")
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"expected scale as [low, high], got {list(self.scale)}: swap them")
        return self


class LossSection(Section):
    """Weights of the cross-entropies and which pixels count in them."""

    coarse: Weight = 1.0
    """Weight of P0."""
    stage: Weight = 0.1
    """Weight of each of P1, P2, ..."""
    aux: Weight = 0.4
    """Weight of the auxiliary head."""
    own: Weight = 1.0
    """Weight of a refiner's own losses (PointRend, SegFix, EBLNet)."""
    coarse_kind: Literal["cross_entropy", "hard_pixels"] = "cross_entropy"
    """Loss of P0: the mean over all valid pixels, or over the hardest."""
    stage_kind: Literal["cross_entropy", "hard_pixels"] = "cross_entropy"
    """The same for P1, P2, ..."""
    hard_share: Share = 0.2
    """Share of the valid pixels that `hard_pixels` keeps."""


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
    """Pictures per optimizer step, over all processes and accumulated parts."""
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
    """Evaluate on the first so many pictures only (the final evaluation takes all)."""
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
            raise ValueError(
                f"expected batch_size ({self.batch_size}) to be a multiple of accumulation "
                f"({self.accumulation}): change one of them"
            )
        return self


class Recipe(Section):
    """A whole training run."""

    model: ModelSection
    data: DataSection
    loss: LossSection = LossSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection
    run: RunSection = RunSection()

    def flat(self) -> dict[str, Any]:
        """All settings by dotted name, e.g. `{"loss.coarse": 1.0, ...}`."""
        return dict(_flatten(self.model_dump(mode="json")))


def _flatten(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    leaves: list[tuple[str, Any]] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves += _flatten(value, f"{prefix}{key}.")
        else:
            leaves.append((f"{prefix}{key}", value))
    return leaves
