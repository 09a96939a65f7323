"""The options of PNA: the only list of them.

`PNAHead`, `create_model`, `cascade`, recipes and saved models all take or hold a `PNAConfig`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal, Self, get_args

from pna.errors import PnaError
from pna.model.resize import ResizeMode

Variant = Literal["released", "paper", "mixer"]
Residual = Literal["none", "add", "gather"]

HEAD_WIDTH = 32
"""Channels of one head of NAM and SAM."""


@dataclass(frozen=True)
class PNAConfig:
    """Options of progressive neighborhood aggregation.

    The defaults are our own stage, which gathers the logits themselves from their own grid.
    `PNAConfig.released()` is the head that the authors released, `PNAConfig.paper()` that of the
    paper's equations.

    Attributes:
        widths: Channels D of each stage, fine to coarse; None is 96, 192, 384, ... as released.
            Multiples of 32 where stages have heads, so but for the "mixer" without SAM.
        window: Side of the neighborhood that the neighborhood aggregation module (NAM) gathers the
            embedded prediction from, in cells, odd; one for all stages, or one each, fine to
            coarse. The "mixer" has no NAM.
        self_aggregation: Whether stages use the self-aggregation module (SAM); one for all stages,
            or one each.
        upsample: How a prediction is resized before the next stage embeds it.
        variant: "released" (the authors' code), "paper" (the equations) or "mixer" (a depth-wise
            convolution in place of the neighborhood aggregation module, NAM).
        residual: How a stage carries the logits it was given: "none" (as released), "add" (resized
            and added) or "gather" (gathered from their own grid by features and colors, and added).
            Without carried logits stages learn slowly.
        carry_window: Side of the neighborhood that `residual="gather"` gathers from, in cells of
            the logits, odd.
        depth: Blocks of `variant="mixer"`, 1 or more.
        image_width: Channels of one more stage, at stride 2, on features of the image itself, with
            one block of the "mixer" and no SAM; None leaves it out.
        pass_features: Whether a stage hands its features on to the next finer one.
        embedding_bias: Whether the 1x1 embeddings have a bias; one for all stages, or one each.
        mlp_ratio: Hidden channels of the feed-forward networks per channel, above 0.
        keep_detail: Whether detail of P0 that is lost when P0 is resized to a coarse stage is added
            again at the next finer one. Needs carried logits.

    Raises:
        PnaError: A value is out of its range, or two do not fit together.

    Example:
        >>> from pna import PNAConfig
        >>> PNAConfig(carry_window=7).carry_window
        7
        >>> PNAConfig.released().residual
        'none'
    """

    widths: tuple[int, ...] | None = None
    window: int | tuple[int, ...] = 9
    self_aggregation: bool | tuple[bool, ...] = False
    upsample: ResizeMode = "bilinear"
    variant: Variant = "mixer"
    residual: Residual = "gather"
    carry_window: int = 5
    depth: int = 1
    image_width: int | None = None
    pass_features: bool = True
    embedding_bias: bool | tuple[bool, ...] = True
    mlp_ratio: float = 2.0
    keep_detail: bool = False

    def __post_init__(self) -> None:
        # Lists of JSON and YAML become tuples, numpy's numbers Python's: the configuration is
        # hashable and can be saved.
        for name, kind in (
            ("widths", int),
            ("window", int),
            ("carry_window", int),
            ("depth", int),
            ("image_width", int),
            ("embedding_bias", bool),
            ("self_aggregation", bool),
        ):
            object.__setattr__(self, name, _plain(name, getattr(self, name), kind))
        # Checked here, for YAML and JSON: type checkers see Python callers alone.
        _check_choice("upsample", self.upsample, get_args(ResizeMode))
        _check_choice("variant", self.variant, get_args(Variant))
        _check_choice("residual", self.residual, get_args(Residual))
        if self.widths is not None and not (isinstance(self.widths, tuple) and self.widths):
            raise PnaError(f"expected widths, one for each stage, got {self.widths}")
        widths = self.widths or ()
        # Heads of NAM and SAM are this wide; the "mixer" without SAM has none.
        unit = HEAD_WIDTH if self.variant != "mixer" or self._has_sam else 1
        if any(width < unit or width % unit for width in widths):
            raise PnaError(f"expected widths in multiples of {unit}, got {widths}")
        windows = self.window if isinstance(self.window, tuple) else (self.window,)
        if any(window < 1 or window % 2 == 0 for window in windows):
            raise PnaError(f"expected odd windows >= 1, got {self.window}")
        for name in ("carry_window", "depth", "image_width"):
            value = getattr(self, name)
            is_left_out = name == "image_width" and value is None
            if not is_left_out and not (isinstance(value, int) and value >= 1):
                raise PnaError(f"expected {name} as a whole number >= 1, got {value!r}")
        if self.carry_window % 2 == 0:
            raise PnaError(f"expected an odd carry_window, got {self.carry_window}")
        ratio = self.mlp_ratio
        if not isinstance(ratio, int | float) or not (isfinite(ratio) and ratio > 0):
            raise PnaError(f"expected mlp_ratio as a finite number above 0, got {ratio!r}")
        # A text such as "no" would count as true.
        for name in ("pass_features", "keep_detail"):
            if not isinstance(value := getattr(self, name), bool):
                raise PnaError(f"expected {name} as True or False, got {value!r}")
        if self.keep_detail and self.residual == "none":
            raise PnaError(
                "keep_detail needs carried logits, got residual='none': choose residual='gather' "
                "or 'add', or leave keep_detail out"
            )

    @property
    def _has_sam(self) -> bool:
        sam = self.self_aggregation
        return any(sam) if isinstance(sam, tuple) else sam

    @classmethod
    def released(cls) -> Self:
        """Return the head that the authors released: no carried logits, nearest resizing."""
        return cls(
            self_aggregation=True,
            upsample="nearest",
            variant="released",
            residual="none",
            pass_features=False,
            mlp_ratio=1.0,
        )

    @classmethod
    def paper(cls) -> Self:
        """Return the head of the paper's equations, where they differ from the released one."""
        return replace(cls.released(), variant="paper", upsample="bilinear")

    @classmethod
    def for_cascade(cls) -> Self:
        """Return the head around a trained network, which keeps the detail of a finer P0."""
        return cls(keep_detail=True)

    def at_level(self, level: int, num_levels: int) -> Self:
        """Return the options of one stage, with one width, window and bias.

        Args:
            level: Index of the stage's features, fine to coarse.
            num_levels: Number of levels.

        Raises:
            PnaError: An option that is given per level has another number of values.
        """
        # As released, and as wide as Swin-T's levels.
        widths = [96 * 2**i for i in range(num_levels)] if self.widths is None else self.widths
        return replace(
            self,
            widths=(_choose("widths", widths, level, num_levels),),
            window=_choose("window", self.window, level, num_levels),
            embedding_bias=_choose("embedding_bias", self.embedding_bias, level, num_levels),
            self_aggregation=_choose("self_aggregation", self.self_aggregation, level, num_levels),
        )

    def at_image(self) -> Self:
        """Return the options of the stage on the image itself."""
        assert self.image_width is not None
        return replace(
            self,
            widths=(self.image_width,),
            variant="mixer",
            carry_window=3,
            depth=1,
            embedding_bias=True,
            self_aggregation=False,
        )


def _plain(name: str, value: Any, kind: type[int]) -> Any:
    """Return a number, or a sequence of them as a tuple, in Python's own type; None stays."""
    if value is None:
        return None
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(name, item, kind) for item in value)
    # 7.0 is a window of 7 cells, 7.5 is none: the conversion must not change the value.
    is_mixed_up = isinstance(value, bool) and kind is int  # True is 1 otherwise
    if isinstance(value, str) or is_mixed_up or kind(value) != value:
        expected = "whole numbers" if kind is int else "True or False"
        raise PnaError(f"expected {name} as {expected}, got {value!r}")
    return kind(value)


def _choose(name: str, value: Any, level: int, num_levels: int) -> Any:
    if not isinstance(value, Sequence):
        return value
    if len(value) != num_levels:
        raise PnaError(f"expected {num_levels} {name}, one for each level, got {tuple(value)}")
    return value[level]


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise PnaError(f"expected {name} to be one of {', '.join(known)}, got {value!r}")
