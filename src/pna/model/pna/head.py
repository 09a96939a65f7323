"""The refinement head: coarse logits in, one finer prediction per level of features out."""

from collections.abc import Sequence
from typing import cast

from torch import Tensor

from pna.errors import PnaError
from pna.model.pna.config import PNAConfig
from pna.model.pna.nam import Similarity
from pna.model.pna.stage import Stage
from pna.model.refiner import StagedRefiner
from pna.model.resize import resize


class PNAHead(StagedRefiner):
    """Progressive neighborhood aggregation (paper, section "Method"; figure 2a).

    Features go in fine to coarse, predictions come out coarse to fine; see `StagedRefiner.forward`.
    With `keep_detail` the last prediction has the size of P0 where P0 is finer.

    Args:
        in_channels: Channels of each level of features, fine to coarse, 1 to 5 levels. Levels may
            have equal strides.
        num_classes: Channels K of the logits.
        config: Options of the stages.

    Raises:
        PnaError: The numbers of levels differ.

    Example:
        >>> import torch, pna
        >>> head = pna.PNAHead([16, 32], num_classes=3, config=pna.PNAConfig(widths=(32, 64)))
        >>> features = [torch.rand(1, 16, 24, 32), torch.rand(1, 32, 12, 16)]  # fine to coarse
        >>> stages = head(features, coarse=torch.rand(1, 3, 6, 8))
        >>> [tuple(stage.shape) for stage in stages]
        [(1, 3, 12, 16), (1, 3, 24, 32)]
    """

    def __init__(
        self, in_channels: Sequence[int], num_classes: int, config: PNAConfig = PNAConfig()
    ) -> None:
        levels = len(in_channels)
        if not 1 <= levels <= 5:
            raise PnaError(f"expected 1 to 5 levels of features, got {levels}: {in_channels=}")
        if num_classes < 1 or min(in_channels) < 1:
            raise PnaError(
                f"expected channels and classes from 1, got {in_channels=}, {num_classes=}"
            )
        stages = (
            Stage(in_channels[i], num_classes, config.at_level(i, levels))
            for i in reversed(range(levels))
        )
        super().__init__(in_channels, num_classes, stages)
        self.config = config

    def _start(self, previous: Tensor, coarse: Tensor, size: Sequence[int]) -> Tensor:
        return _with_detail(previous, coarse, size) if self.config.keep_detail else previous

    def _finish(self, predictions: list[Tensor], coarse: Tensor) -> list[Tensor]:
        # Detail that the finest stage cannot hold is added last: P4 then has P0's size.
        if self.config.keep_detail and predictions[-1].shape[-2] < coarse.shape[-2]:
            predictions[-1] = _with_detail(predictions[-1], coarse, coarse.shape[-2:])
        return predictions

    def similarity(
        self, features: Sequence[Tensor], points: Sequence[tuple[int, int]]
    ) -> list[Similarity]:
        """Return the attention weights of one cell at each stage (paper, figure 1).

        With `residual="aggregate"` these are the weights that gather the logits, otherwise those
        that gather the embedded prediction.

        Args:
            features: (B, C, H, W) per level, fine to coarse; only the first image is used.
            points: (row, column) of the cell per level, fine to coarse.

        Returns:
            One `Similarity` per stage, coarse to fine.
        """
        levels = zip(self.stages, reversed(features), reversed(points), strict=True)
        similarities = []
        for module, feature, (row, col) in levels:
            stage = cast(Stage, module)
            embedded = stage.embed(feature[:1])  # (1, H, W, D)
            similarities.append(stage.neighborhood.similarity(embedded, row, col))
        return similarities


def _with_detail(previous: Tensor, coarse: Tensor, size: Sequence[int]) -> Tensor:
    """Resize a prediction, and add the detail of `coarse` that its own size could not hold.

    `resize(P) + (resize(P0) - resize(resize(P0 to P's size)))`: if P is P0 resized, the result is
    P0 resized to `size`, and no detail is lost.
    """
    if previous is coarse:
        return resize(coarse, size)
    kept = resize(coarse, previous.shape[-2:])  # of P0, as much as the previous stage was given
    # The stage's correction is resized, P0 itself comes in full: (B, K, *size).
    return resize(previous - kept, size) + resize(coarse, size)
