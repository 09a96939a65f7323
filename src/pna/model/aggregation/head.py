"""The refinement head: coarse logits in, one finer prediction per level of features out."""

from collections.abc import Sequence
from typing import TypeVar, get_args

from torch import Tensor

from pna.model.aggregation.neighborhood import Similarity
from pna.model.aggregation.stage import Residual, Stage, Variant
from pna.model.refiner import StagedRefiner
from pna.model.resize import ResizeMode, resize

_HEAD_WIDTH = 32

_T = TypeVar("_T")


class PNAHead(StagedRefiner):
    """Progressive neighborhood aggregation (paper, section "Method"; figure 2a).

    Args:
        in_channels: Channels of each level of features, fine to coarse, 1 to 5 levels. Levels may
            have equal strides.
        num_classes: Channels K of the logits.
        widths: Channels D of each stage, fine to coarse, multiples of 32; 96, 192, 384, ... by
            default, as released.
        window: Cells per side of the neighborhood, odd; one for all levels or one each.
        self_aggregation: Use the self-aggregation module (SAM) beside the neighborhood's (NAM).
        upsample: How a prediction is resized before the next stage embeds it.
        variant: "released" (what the authors ran), "paper" (what the equations say) or "prenorm"
            (the released one without its last norm, for logits that are carried).
        residual: How a stage carries the logits it was given: "none", "add" or "aggregate".
        embedding_bias: Whether the 1x1 embeddings have a bias; one for all levels or one each.
        mlp_ratio: Hidden channels of the feed-forward networks per channel.
        centre: Bias at the start with which `residual="aggregate"` gathers a cell's own logits.
        keep_detail: What P0 loses by being resized to a stage is added again at the next one, and
            what the finest stage loses at the end: P_m = A(resize(P_{m-1}) + detail_m) + ..., where
            detail_m = resize(P0) - resize(resize_{m-1}(P0)). For logits that are carried, and a P0
            that is finer than the coarsest stage.

    Raises:
        ValueError: The numbers of levels differ, or an option is out of range.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        widths: Sequence[int] | None = None,
        window: int | Sequence[int] = 9,
        self_aggregation: bool = True,
        upsample: ResizeMode = "nearest",
        variant: Variant = "released",
        residual: Residual = "none",
        embedding_bias: bool | Sequence[bool] = True,
        mlp_ratio: float = 1.0,
        centre: float = 5.0,
        keep_detail: bool = False,
    ) -> None:
        levels = len(in_channels)
        if not 1 <= levels <= 5:
            raise ValueError(f"expected 1 to 5 levels of features, got {levels}: {in_channels=}")
        _check_choice("upsample", upsample, get_args(ResizeMode))
        _check_choice("variant", variant, get_args(Variant))
        _check_choice("residual", residual, get_args(Residual))
        widths = [96 * 2**i for i in range(levels)] if widths is None else widths
        windows = _per_level("window", window, levels)
        biases = _per_level("embedding_bias", embedding_bias, levels)
        _check_choices_of_levels(levels, widths, windows)
        if keep_detail and residual == "none":
            raise ValueError("keep_detail is for carried logits, got residual='none'; leave it out")
        stages = (
            Stage(
                in_channels[i],
                num_classes,
                width=widths[i],
                window=windows[i],
                self_aggregation=self_aggregation,
                upsample=upsample,
                variant=variant,
                residual=residual,
                embedding_bias=biases[i],
                mlp_ratio=mlp_ratio,
                centre=centre,
            )
            for i in reversed(range(levels))
        )
        super().__init__(in_channels, num_classes, stages)
        self.keep_detail = keep_detail

    def _refine(self, features: list[Tensor], coarse: Tensor, stop_at: int | None) -> list[Tensor]:
        predictions = super()._refine(features, coarse, stop_at)
        # What the finest stage cannot hold of P0 is given back too.
        if self.keep_detail and predictions[-1].shape[-2] < coarse.shape[-2]:
            predictions[-1] = _with_detail(predictions[-1], coarse, coarse.shape[-2:])
        return predictions

    def _start(self, previous: Tensor, coarse: Tensor, size: Sequence[int]) -> Tensor:
        return _with_detail(previous, coarse, size) if self.keep_detail else previous

    def similarity(
        self, features: Sequence[Tensor], points: Sequence[tuple[int, int]]
    ) -> list[Similarity]:
        """Say which cells a cell gathers the embedded prediction from, at each stage (figure 1).

        Args:
            features: (B, C, H, W) per level, fine to coarse; the first picture is read.
            points: (row, col) of the cell per level, fine to coarse.

        Returns:
            One `Similarity` per stage, coarse to fine.
        """
        found: list[Similarity] = []
        for stage, feature, (row, col) in zip(
            self.stages, reversed(features), reversed(points), strict=True
        ):
            assert isinstance(stage, Stage)
            neighborhood = stage.carry or stage.fusion.neighborhood
            found.append(neighborhood.similarity(stage.embed(feature[:1]), row, col))  # type: ignore[operator, union-attr]
        return found


def _with_detail(previous: Tensor, coarse: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a prediction, and add what `coarse` has at `size` and has lost at its size.

    Of predictions that are `coarse` resized, this makes `coarse` resized: nothing is lost.
    """
    if previous is coarse:
        return resize(coarse, size)
    kept = resize(coarse, previous.shape[-2:])
    return resize(previous - kept, size) + resize(coarse, size)


def _per_level(name: str, value: _T | Sequence[_T], levels: int) -> list[_T]:
    values = list(value) if isinstance(value, Sequence) else [value] * levels
    if len(values) != levels:
        raise ValueError(f"expected one {name} for each of {levels} levels, got {value}")
    return values


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"expected {name} to be one of {', '.join(known)}, got {value!r}")


def _check_choices_of_levels(levels: int, widths: Sequence[int], windows: Sequence[int]) -> None:
    if len(widths) != levels:
        raise ValueError(f"expected one width for each of {levels} levels, got {tuple(widths)}")
    if any(width < _HEAD_WIDTH or width % _HEAD_WIDTH for width in widths):
        raise ValueError(f"expected widths in multiples of {_HEAD_WIDTH}, got {tuple(widths)}")
    if any(window < 1 or window % 2 == 0 for window in windows):
        raise ValueError(f"expected odd windows >= 1, got {tuple(windows)}")
