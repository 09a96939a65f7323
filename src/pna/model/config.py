"""What a model is built from, in plain values: the part of a checkpoint that is not weights."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from pna.model.aggregation.stage import Residual, Variant
from pna.model.resize import ResizeMode

CoarseName = Literal["fcn", "psp", "deeplabv3", "deeplabv3plus", "fpn", "fapn", "upernet"]
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
        pna = values.get("pna")
        if pna is not None:
            _check_keys(PNAConfig, pna)
            pna = PNAConfig(**_with_tuples(pna))
        return cls(**{**_with_tuples(values), "pna": pna})


def _check_keys(kind: type[Any], values: dict[str, Any]) -> None:
    known = {field.name for field in fields(kind)}
    if unknown := sorted(values.keys() - known):
        raise ValueError(
            f"unknown {', '.join(unknown)} in the model's configuration; known: "
            f"{', '.join(sorted(known))}. Was it written by a later version of pna?"
        )


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
