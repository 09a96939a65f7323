"""What a model is built from, in plain values: the part of a checkpoint that is not weights."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from pna.model.aggregation.stage import Residual, Variant
from pna.model.resize import ResizeMode

CoarseName = Literal["fcn", "psp", "deeplabv3", "deeplabv3plus", "fpn", "fapn", "upernet"]
Library = Literal["smp", "torchvision", "transformers", "timm"]
RivalName = Literal["decoder", "pointrend", "segfix", "eblnet", "crf"]


@dataclass(frozen=True)
class PNAConfig:
    """Arguments of `pna.PNAHead`, which documents them; `None` widths are 96, 192, 384, ..."""

    widths: tuple[int, ...] | None = None
    window: int = 9
    self_aggregation: bool = True
    upsample: ResizeMode = "nearest"
    variant: Variant = "released"
    residual: Residual = "none"
    embedding_bias: bool = True
    centre: float = 5.0
    keep_detail: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """Everything that rebuilds a model but its weights and classes.

    Attributes:
        encoder: Name of a timm model.
        coarse: Which coarse head.
        coarse_channels: Width of the coarse head; its own default if None.
        rates: Dilations of DeepLabV3's and DeepLabV3+'s branches; its own default if None.
        output_stride: 32, or 16 or 8 by dilation.
        multi_grid: Factors on the dilation in the encoder's last stage.
        drop_path: Probability of skipping a residual block while training.
        aux: Add the auxiliary FCN head on the level before the last.
        pna: The refinement by PNA, if any; with the rival "decoder", the PNA head that it stands
            beside.
        rival: The refinement by another method, if any; its arguments are its own defaults.
    """

    encoder: str
    coarse: CoarseName = "fcn"
    coarse_channels: int | None = None
    rates: tuple[int, ...] | None = None
    output_stride: int = 32
    multi_grid: tuple[int, ...] | None = None
    drop_path: float = 0.0
    aux: bool = True
    pna: PNAConfig | None = None
    rival: RivalName | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """Read `to_dict` back.

        Raises:
            ValueError: There is a key that no model has, or the encoder is missing.
        """
        _check_keys(cls, values)
        if "encoder" not in values:
            raise ValueError("expected an encoder in the model's configuration, got none")
        return cls(**{**_with_tuples(values), "pna": _read_pna(values.get("pna"))})


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
        divisor: What pictures are padded to.
        freeze: Whether the wrapped network is fixed.
        pna: The refinement, if any.
    """

    source: SourceConfig | None
    module: str
    features: tuple[str, ...]
    coarse: str | None
    divisor: int
    freeze: bool
    pna: PNAConfig | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "CascadeConfig":
        """Read `to_dict` back.

        Raises:
            ValueError: There is a key that no cascade has.
        """
        _check_keys(cls, values)
        source, pna = values["source"], _read_pna(values["pna"])
        if source is not None:
            _check_keys(SourceConfig, source)
            source = SourceConfig(**source)
        return cls(**{**_with_tuples(values), "source": source, "pna": pna})


def _read_pna(values: dict[str, Any] | None) -> PNAConfig | None:
    if values is None:
        return None
    _check_keys(PNAConfig, values)
    return PNAConfig(**_with_tuples(values))


def _check_keys(kind: type[Any], values: dict[str, Any]) -> None:
    known = {known.name for known in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(
            f"unknown {', '.join(unknown)} in the model's configuration; known: "
            f"{', '.join(sorted(known))}. Was it written by a later version of pna?"
        )


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
