"""The configuration of a model in plain values: all of a saved model but weights and classes."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self, get_args

from pna.bands import Band, read_bands
from pna.errors import PnaError
from pna.model.pna.config import PNAConfig

Library = Literal["smp", "torchvision", "transformers", "timm"]
Norm = Literal["batch", "group"]
Padding = Literal["replicate", "mean", "none"]


@dataclass(frozen=True)
class InferenceSize:
    """The size that images are resized to before they are segmented, aspect ratio kept.

    Attributes:
        short: Pixels of the shorter side, at least 1.
        long: Pixels that the longer side may have at most; the shorter is then shorter, too.
        antialias: Whether bilinear resizing smooths an image that shrinks (Pillow), or not
            (OpenCV).

    Raises:
        PnaError: A length is below 1, or the long one is the shorter.

    Example:
        >>> InferenceSize(512, 2048).of((375, 500))
        (512, 683)
    """

    short: int
    long: int
    antialias: bool = False

    def __post_init__(self) -> None:
        if not all(isinstance(x, int) and x >= 1 for x in (self.short, self.long)):
            raise PnaError(
                f"expected lengths of the short and long side from 1, got {self.short}, {self.long}"
            )
        if self.long < self.short:
            raise PnaError(
                f"expected the longer side to have at least the {self.short} pixels of the "
                f"shorter, got {self.long}"
            )
        if not isinstance(self.antialias, bool):
            raise PnaError(f"expected antialias as True or False, got {self.antialias!r}")

    def of(self, size: Sequence[int]) -> tuple[int, int]:
        """Return (H, W) that an image of `size` (H, W) is resized to."""
        H, W = size
        scale = min(self.short / min(H, W), self.long / max(H, W))
        return max(1, int(H * scale + 0.5)), max(1, int(W * scale + 0.5))

    def __str__(self) -> str:
        return f"shorter side {self.short} pixels, longer side at most {self.long}"


@dataclass(frozen=True)
class ModelOptions:
    """Options of encoder, coarse head and image size. None keeps the preset's value.

    Attributes:
        output_stride: Stride of the encoder's last level, 32, or 16 or 8 by dilation.
        multi_grid: Factors on the dilation of each block in the last stage of a ResNet.
        drop_path: Probability of skipping a residual block while training, in [0, 1).
        coarse_channels: Width of the coarse head.
        rates: Dilations of DeepLabV3's branches, in cells.
        aux: Whether an auxiliary FCN head is trained on the level before the last.
        dense_swin: Whether a Swin has the form of its authors for dense prediction: layer norm on
            each level, shifted windows at every size, padding before the shift.
        coarse_norm: Norm of semantic FPN's head, "batch" or "group" (32 groups).
        pool_window: Height and width, in cells, of the windows that DeepLabV3's pooled branch
            averages; by default it averages the whole map.
        pool_norm: Whether DeepLabV3's pooled branch has batch norm, or a bias instead.
        fuse_kernel: Side of the convolution that fuses DeepLabV3's branches, 3 or 1.
        padding: How images are padded to the encoder's strides, right and bottom: "replicate"
            repeats the edge, "mean" continues with the mean color (zeros after normalization),
            "none" leaves images as they are and rounds the sizes of levels up.
        inference_size: Size that `Predictor` and `evaluate` resize images to; their own by default.
        bands: The channels of images that are not red, green and blue, 1 to 20; or their number,
            where nothing else is known of them.

    Raises:
        PnaError: A value is out of its range.

    Example:
        >>> ModelOptions(output_stride=16).output_stride
        16
    """

    output_stride: Literal[8, 16, 32] | None = None
    multi_grid: tuple[int, ...] | None = None
    drop_path: float | None = None
    coarse_channels: int | None = None
    rates: tuple[int, ...] | None = None
    aux: bool | None = None
    dense_swin: bool | None = None
    coarse_norm: Norm | None = None
    pool_window: tuple[int, int] | None = None
    pool_norm: bool | None = None
    fuse_kernel: Literal[1, 3] | None = None
    padding: Padding | None = None
    inference_size: InferenceSize | None = None
    bands: tuple[Band, ...] | None = None

    def __post_init__(self) -> None:
        if self.bands is not None:
            object.__setattr__(self, "bands", read_bands(self.bands))
        # JSON and YAML have lists only. Tuples can be hashed and compared with the defaults.
        for name in ("multi_grid", "rates", "pool_window"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        size: Any = self.inference_size
        if isinstance(size, dict):
            object.__setattr__(self, "inference_size", read_fields(InferenceSize, size))
        # Checked here, for YAML and JSON: type checkers see Python callers alone.
        for name, choices in (
            ("coarse_norm", get_args(Norm)),
            ("fuse_kernel", (1, 3)),
            ("padding", get_args(Padding)),
            ("dense_swin", (True, False)),
            ("pool_norm", (True, False)),
        ):
            value = getattr(self, name)
            if value is not None and value not in choices:
                known = ", ".join(map(str, choices))
                raise PnaError(f"expected {name} as one of {known}, got {value!r}")
        channels: Any = self.coarse_channels
        if channels is not None and not (isinstance(channels, int) and channels >= 1):
            raise PnaError(f"expected coarse_channels from 1, got {channels!r}")
        for name in ("rates", "multi_grid"):
            value = getattr(self, name)
            if value is not None and not (
                isinstance(value, tuple)
                and value
                and all(isinstance(x, int) and x >= 1 for x in value)
            ):
                raise PnaError(f"expected {name} as whole numbers from 1, got {value!r}")
        window = self.pool_window
        if window is not None and not (
            isinstance(window, tuple)
            and len(window) == 2
            and all(isinstance(side, int) and side >= 1 for side in window)
        ):
            raise PnaError(
                f"expected pool_window as a height and a width in cells, each from 1, got {window}"
            )

    def over(self, defaults: "ModelOptions") -> "ModelOptions":
        """Return these options, and those of `defaults` where they are None."""
        # None means "not given", so no option has None as a value of its own.
        given = {key: value for key, value in vars(self).items() if value is not None}
        return replace(defaults, **given)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that rebuilds a model of a preset but its weights and classes.

    Attributes:
        preset: Its name.
        encoder: Name of a timm model.
        options: Options of encoder and coarse head.
        pna: Options of the refinement; None where the preset has none.
    """

    preset: str
    encoder: str
    options: ModelOptions = ModelOptions()
    pna: PNAConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read `to_dict` back.

        Raises:
            PnaError: A key is unknown or missing, or a value is out of its range.
        """
        # Every key must be there: a default of a later version must not change a saved model.
        _check_keys(cls, values)
        for name in ("preset", "encoder"):
            if not isinstance(values[name], str):
                raise PnaError(f"expected the name of {name}, got {values[name]!r}")
        options = read_fields(ModelOptions, values["options"])
        return cls(**values | {"options": options, "pna": _read_pna(values["pna"])})


@dataclass(frozen=True)
class SourceConfig:
    """A network of another library, by name.

    Attributes:
        library: "smp" is segmentation_models_pytorch; "timm" is a backbone under an FCN head.
        name: The library's name of the model.
        options: Its further arguments, plain values.
    """

    library: Library
    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class CascadeConfig:
    """Everything that rebuilds a cascade but weights and classes, and a network of one's own.

    Attributes:
        source: Where the wrapped network comes from; None is one of the user's own.
        module: Class of the wrapped network, for messages.
        features: Places of the levels, fine to coarse.
        coarse: Place of P0 ("" is the network's own output); None is a function of the output.
        divisor: Images are padded to multiples of this.
        normalization: Where mean and standard deviation come from, in words.
        freeze: Whether the wrapped network is fixed.
        pna: Options of the refinement; None leaves the network unrefined.
        bands: The channels of its images; None are red, green and blue, or unknown.
    """

    source: SourceConfig | None
    module: str
    features: tuple[str, ...]
    coarse: str | None
    divisor: int
    normalization: str
    freeze: bool
    pna: PNAConfig | None
    bands: tuple[Band, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read `to_dict` back.

        Raises:
            PnaError: A key is unknown or missing, or a value is out of its range.
        """
        _check_keys(cls, values)
        source = values["source"]
        return cls(
            **values
            | {
                "features": tuple(values["features"]),
                "source": None if source is None else read_fields(SourceConfig, source),
                "bands": None if values["bands"] is None else read_bands(values["bands"]),
                "pna": _read_pna(values["pna"]),
            }
        )


def read_fields(kind: type[Any], values: dict[str, Any]) -> Any:
    """Build a flat dataclass from JSON's values.

    Raises:
        PnaError: A key is unknown or missing, or a value is out of its range.
    """
    _check_keys(kind, values)
    return kind(**values)


def _read_pna(values: dict[str, Any] | None) -> PNAConfig | None:
    config: PNAConfig | None = None if values is None else read_fields(PNAConfig, values)
    return config


def _check_keys(kind: type[Any], values: dict[str, Any]) -> None:
    if not isinstance(values, dict):
        raise PnaError(f"expected the settings of {kind.__name__} by name, got {values!r}")
    known = {known.name for known in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise PnaError(
            f"unknown {', '.join(unknown)} in the model's configuration; known: "
            f"{', '.join(sorted(known))}. Was it written by a later version of pna?"
        )
    # Restored, not guessed: a default might build another model than the weights are of.
    if missing := sorted(known - values.keys()):
        raise PnaError(f"the model's configuration lacks {', '.join(missing)}: restore the file")
