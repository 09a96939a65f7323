"""The refinement head: coarse logits in, one finer prediction per level of features out."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from pna.errors import PnaError
from pna.labels import IGNORE_INDEX
from pna.model.pna.config import PNAConfig
from pna.model.pna.nam import LogitGathering, Neighborhood, NeighborhoodAggregation, Similarity
from pna.model.pna.stage import ImageStem, Stage
from pna.model.refiner import StagedRefiner
from pna.model.resize import average, resize

_LEAST_SHARE = 0.01
"""Of the affinity loss: what every class has at least, so that no logarithm is infinite."""


class PNAHead(StagedRefiner):
    """Progressive neighborhood aggregation (paper, section "Method"; figure 2a).

    Features go in fine to coarse, predictions come out coarse to fine; see `StagedRefiner.forward`.
    With `keep_detail` the last prediction has the size of P0 where P0 is finer.

    Args:
        in_channels: Channels of each level of features, fine to coarse, 1 to 5 levels. Levels may
            have equal strides.
        num_classes: Channels K of the logits.
        config: Options of the stages.
        image_channels: Channels of the images, for a stage on the image itself.

    Raises:
        PnaError: The numbers of levels differ.

    Example:
        >>> import torch, pna
        >>> head = pna.PNAHead([16, 32], num_classes=3, config=pna.PNAConfig(widths=(32, 64)))
        >>> features = [torch.rand(1, 16, 24, 32), torch.rand(1, 32, 12, 16)]  # fine to coarse
        >>> images = torch.rand(1, 3, 96, 128)
        >>> stages = head(features, coarse=torch.rand(1, 3, 6, 8), images=images)
        >>> [tuple(stage.shape) for stage in stages]
        [(1, 3, 12, 16), (1, 3, 24, 32)]
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        config: PNAConfig = PNAConfig(),
        *,
        image_channels: int = 3,
    ) -> None:
        levels = len(in_channels)
        if not 1 <= levels <= 5:
            raise PnaError(f"expected 1 to 5 levels of features, got {levels}: {in_channels=}")
        if num_classes < 1 or min(in_channels) < 1:
            raise PnaError(
                f"expected channels and classes from 1, got {in_channels=}, {num_classes=}"
            )
        stages: list[Stage] = []
        for i in reversed(range(levels)):
            handed_on = stages[-1].width if config.pass_features and stages else None
            stages.append(Stage(in_channels[i], num_classes, config.at_level(i, levels), handed_on))
        if config.image_width is not None:
            handed_on = stages[-1].width if config.pass_features else None
            stages.append(Stage(config.image_width, num_classes, config.at_image(), handed_on))
        super().__init__(in_channels, num_classes, stages)
        self.stem = None
        if config.image_width is not None:
            self.stem = ImageStem(image_channels, config.image_width)
        self.config = config

    def _levels(
        self, features: Sequence[Tensor], images: Tensor | None
    ) -> list[tuple[Tensor, Tensor | None]]:
        if self.config.residual != "gather" and self.stem is None:
            return super()._levels(features, images)
        if images is None:
            raise PnaError(
                'expected images, which residual="gather" and image_width use, got none: pass '
                "images=, (B, C, H, W) in [0, 1], of the extent of the features"
            )
        if self.stem is not None:
            stem = self.stem(images)
            if stem.shape[-2] <= features[0].shape[-2]:
                raise PnaError(
                    "expected features coarser than stride 2, where image_width adds a stage, got "
                    f"{features[0].shape[-2]} rows of {images.shape[-2]} pixels: leave image_width "
                    "out"
                )
            features = [stem, *features]
        levels: list[tuple[Tensor, Tensor | None]] = []
        for feature in features:
            # From the finer level's, which is smaller than the image.
            images = average(images, feature.shape[-2:])
            levels.insert(0, (feature, images))
        return levels

    def _start(
        self, previous: Tensor, coarse: Tensor, size: torch.Size
    ) -> tuple[Tensor, Tensor | None]:
        # Detail of P0 that the previous stage's grid could not hold is added again, so a stage
        # carries that stage's correction alone: if P is P0 resized, the result is P0 resized.
        is_lost = previous is not coarse
        if self.config.residual == "gather":  # a coarser P0 would come back with its blurred edges
            is_lost = coarse.shape[-2] > min(previous.shape[-2], size[0])
        if not self.config.keep_detail or not is_lost:
            return previous, None
        return previous - resize(coarse, previous.shape[-2:]), resize(coarse, size)

    def _finish(self, predictions: list[Tensor], coarse: Tensor) -> list[Tensor]:
        # Detail that the finest stage cannot hold is added last: P4 then has P0's size.
        if self.config.keep_detail and predictions[-1].shape[-2] < coarse.shape[-2]:
            correction, detail = self._start(predictions[-1], coarse, coarse.shape[-2:])
            predictions[-1] = resize(correction, coarse.shape[-2:]) + cast(Tensor, detail)
        return predictions

    def losses(self, aux: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """Compute the affinity loss: whether the truth, gathered like the logits, stays the truth.

        The shares of the classes in the cells that a stage gathers from are gathered with its own
        weights; the cross-entropy of the result against the shares in its finer cells says where
        it reaches across an edge. It is the mean over the pixels and the sum over the stages.
        """
        if "1.query" not in aux:  # nothing was gathered, or not in training
            return {}
        total = labels.new_zeros((), dtype=torch.float32)
        for m in range(1, self.num_stages + 1):
            query, key, bias = (aux[f"{m}.{name}"] for name in ("query", "key", "bias"))
            truth = _class_counts(labels, self.num_classes, query.shape[2:4])
            coarse = _class_counts(labels, self.num_classes, key.shape[2:4])
            shares = coarse / coarse.sum(-1, keepdim=True).clamp(min=1)
            found = Neighborhood(query, key, bias, scale=1.0).gather(shares.to(query.dtype))
            # Cells without a valid pixel hold no share: what is gathered from them does not count.
            found = found / found.sum(-1, keepdim=True).clamp(min=_LEAST_SHARE)
            found = (1 - _LEAST_SHARE) * found + _LEAST_SHARE / self.num_classes
            total = total - (truth * found.log()).sum() / truth.sum().clamp(min=1)
        return {"affinity": total}

    def similarity(
        self,
        features: Sequence[Tensor],
        coarse: Tensor,
        place: tuple[float, float],
        *,
        images: Tensor | None = None,
    ) -> list[Similarity | None]:
        """Return the attention weights of one place at each stage (paper, figure 1).

        Where logits are gathered these are the weights that gather them, otherwise those that
        gather the embedded prediction.

        Args:
            features: (B, C, H, W) per level, fine to coarse; only the first image is used.
            coarse: (B, K, h, w) logits P0.
            place: (y, x) as shares of the map's height and width, in [0, 1).
            images: (B, C, H, W) in [0, 1], for stages that use them.

        Returns:
            For each stage, coarse to fine, its weights; None for one without attention.
        """
        found: dict[nn.Module, Neighborhood] = {}

        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
            if isinstance(module, LogitGathering):
                _, found[module] = output
            else:  # a function of the features alone
                found[module] = cast(NeighborhoodAggregation, module).neighborhood(inputs[0])

        attentions = [cast(Stage, stage).attention for stage in self.stages]
        hooks = [module.register_forward_hook(keep) for module in attentions if module is not None]
        try:
            first = None if images is None else images[:1]
            self([feature[:1] for feature in features], coarse[:1], images=first)
        finally:
            for hook in hooks:
                hook.remove()
        similarities: list[Similarity | None] = []
        for module in attentions:
            if module is None:
                similarities.append(None)
                continue
            H, W = found[module].query.shape[2:4]
            similarities.append(found[module].similarity(int(place[0] * H), int(place[1] * W)))
        return similarities


def _class_counts(labels: Tensor, num_classes: int, size: Sequence[int]) -> Tensor:
    """Count the pixels of each class in each cell: labels (B, H, W) -> (B, *size, K) float32."""
    (B, H, W), (h, w) = labels.shape, size
    row = torch.arange(H, device=labels.device) * h // H
    col = torch.arange(W, device=labels.device) * w // W
    cell = row[:, None] * w + col  # (H, W)
    image = torch.arange(B, device=labels.device)[:, None, None]
    valid = labels != IGNORE_INDEX
    # One number for image, cell and class, counted at once; ignored pixels come last.
    index = ((image * h * w + cell) * num_classes + labels).where(valid, B * h * w * num_classes)
    counts = torch.bincount(index.flatten(), minlength=B * h * w * num_classes + 1)[:-1]
    return counts.view(B, h, w, num_classes).float()
