"""The configuration of a model in plain values: all of a saved model but weights and classes."""

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal, Self

from pna.errors import PnaError
from pna.model.pna.config import PNAConfig

Library = Literal["smp", "torchvision", "transformers", "timm"]


@dataclass(frozen=True)
class ModelOptions:
    """Options of encoder and coarse head. None keeps the preset's value.

    Attributes:
        output_stride: Stride of the encoder's last level, 32, or 16 or 8 by dilation.
        multi_grid: Factors on the dilation in the last stage of a dilated ResNet.
        drop_path: Probability of skipping a residual block while training, in [0, 1).
        coarse_channels: Width of the coarse head.
        rates: Dilations of DeepLabV3's branches, in cells.
        aux: Whether an auxiliary FCN head is trained on the level before the last.

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

    def __post_init__(self) -> None:
        # JSON and YAML have lists only. Tuples can be hashed and compared with the defaults.
        for name in ("multi_grid", "rates"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))

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
    """

    source: SourceConfig | None
    module: str
    features: tuple[str, ...]
    coarse: str | None
    divisor: int
    normalization: str
    freeze: bool
    pna: PNAConfig | None

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
