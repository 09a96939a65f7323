"""Losses of a progressive output: the coarse logits, every stage, the auxiliary head.

Each output is brought to the size of the image and scored against the labels there (paper, "Loss";
weights as released: coarse 1.0, every stage 0.1, auxiliary 0.4). Needs torch alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from pna.errors import PnaError
from pna.labels import IGNORE_INDEX
from pna.model.resize import resize

if TYPE_CHECKING:
    from pna.model.segmenter import BaseSegmenter, SegmenterOutput

LossKind = Literal["cross_entropy", "hard_pixels"]

# With this many classes or more, flatten the logits to (pixels, K) and take the softmax over the
# last axis: on a CPU that is twice as fast as over axis 1 of (B, K, H, W). With fewer it is up to
# 5x slower, because a row does not fill a vector register (16 floats with AVX-512, 8 with AVX2).
# Measurements: benchmarks/results/cross_entropy.md and cross_entropy_avx2.md.
FEWEST_AS_ROWS = 16


@dataclass(frozen=True)
class LossConfig:
    """Weight of each loss, and the pixels that count in it. Recipes embed it as `loss`.

    Attributes:
        coarse: Weight of P0, 0 or more.
        stage: Weight of each of P1, P2, ..., 0 or more.
        aux: Weight of the auxiliary head, 0 or more.
        affinity: Weight of the affinity loss of PNA's stages that gather logits, 0 or more.
        refiner: Weight of another refiner's own losses (baselines such as PointRend), 0 or more.
        coarse_kind: Loss of P0: "cross_entropy" is the mean over all valid pixels, "hard_pixels"
            the mean over those of the largest loss.
        stage_kind: The same for P1, P2, ...
        hard_share: Share of the valid pixels of a forward pass that "hard_pixels" keeps, in (0, 1].
        class_weights: One weight per class, 0 or more: the loss of a pixel counts by the weight of
            its class, and means are weighted means, as in `torch.nn.CrossEntropyLoss`. None weighs
            all classes alike.

    Raises:
        PnaError: A value is out of its range.

    Example:
        >>> LossConfig(stage=1.0).stage
        1.0
    """

    coarse: float = 1.0
    stage: float = 0.1
    aux: float = 0.4
    affinity: float = 0.5
    refiner: float = 1.0
    coarse_kind: LossKind = "cross_entropy"
    stage_kind: LossKind = "cross_entropy"
    hard_share: float = 0.2
    class_weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("coarse", "stage", "aux", "affinity", "refiner"):
            if not getattr(self, name) >= 0:
                raise PnaError(f"expected a weight {name} of 0 or more, got {getattr(self, name)}")
        for name in ("coarse_kind", "stage_kind"):
            if (kind := getattr(self, name)) not in get_args(LossKind):
                known = " or ".join(get_args(LossKind))
                raise PnaError(f"expected {name} to be {known}, got {kind!r}")
        if not 0 < self.hard_share <= 1:
            raise PnaError(f"expected hard_share in (0, 1], got {self.hard_share}")
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", tuple(self.class_weights))
            if not all(weight >= 0 for weight in self.class_weights) or not any(self.class_weights):
                raise PnaError(
                    "expected class_weights of 0 or more, one of them above 0, got "
                    f"{self.class_weights}"
                )


class LossOutput(NamedTuple):
    """A loss and its parts.

    Attributes:
        total: Weighted sum of the parts, a scalar with a graph, float32 or float64.
        parts: Each part without its weight, detached, by name: "P0", "P1", ..., "aux", and those of
            the refiner.
    """

    total: Tensor
    parts: dict[str, Tensor]


def segmentation_loss(
    output: "SegmenterOutput",
    labels: Tensor,
    model: "BaseSegmenter | None" = None,
    config: LossConfig = LossConfig(),
    *,
    num_valid: float | None = None,
) -> LossOutput:
    """Compute the weighted sum of all losses, in float32 (or float64) even under autocast.

    Args:
        output: A model's output in training mode, or a `pna.SegmenterOutput` of your own.
        labels: (B, H, W) int64, classes or 255 for ignored pixels.
        model: The model, which pads images and so cuts its outputs back, and whose refiner may have
            losses of its own. None resizes each output to the size of the labels.
        config: Weight and kind of each loss. The loss of an output of weight 0 is not computed; a
            refiner's own losses are, so that they can be watched.
        num_valid: Number of valid pixels that the means are taken over, where this batch is a part
            of a larger one (accumulation, several processes): losses and gradients of the parts
            then add up to those of the whole. With class weights their total weight, see
            `count_valid`. None is this batch.

    Returns:
        The total and its parts; 0 (with a graph) where no pixel is valid.

    Raises:
        PnaError: The logits have one channel, or labels or class weights do not fit them.

    Example:
        >>> import torch, pna
        >>> coarse, fine = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 8, 8)
        >>> output = pna.SegmenterOutput(logits=fine, coarse=coarse, stages=[fine], aux={})
        >>> labels = torch.randint(3, (1, 32, 32))
        >>> sorted(pna.segmentation_loss(output, labels).parts)
        ['P0', 'P1']
    """
    _check(output.coarse, labels, config)
    # A caller who counted has read the labels already; here it would hold up a GPU's stream.
    if num_valid is None:
        _check_range(labels, output.coarse.shape[1])
    size = labels.shape[-2:]
    here = count_valid(labels, config.class_weights)
    if num_valid is None:
        num_valid = float(here)
    share = here / num_valid if num_valid > 0 else 0.0  # of the whole, that this batch is
    terms = [("P0", output.coarse, config.coarse, config.coarse_kind)]
    for number, logits in enumerate(output.stages, start=1):
        terms.append((f"P{number}", logits, config.stage, config.stage_kind))
    if "aux" in output.aux:
        terms.append(("aux", output.aux["aux"], config.aux, "cross_entropy"))

    total = labels.new_zeros((), dtype=torch.float32)
    parts: dict[str, Tensor] = {}
    with torch.autocast(labels.device.type, enabled=False):
        for name, logits, weight, kind in terms:
            if weight == 0:
                continue
            full = _full_size(logits, output, model, size)  # (B, K, H, W)
            if kind == "cross_entropy":
                part = cross_entropy(full, labels, config.class_weights, num_valid=num_valid)
            else:
                hard = hard_pixel_cross_entropy(
                    full, labels, config.class_weights, share=config.hard_share
                )
                part = share * hard  # the hardest of this batch, not of the whole step
            total = total + weight * part
            parts[name] = part.detach()
        for name, mean in _refiner_losses(output, labels, model).items():
            weight = config.affinity if name == "affinity" else config.refiner
            total = total + weight * (share * mean)
            parts[name] = (share * mean).detach()
    return LossOutput(total, parts)


def count_valid(labels: Tensor, class_weights: Sequence[float] | None = None) -> Tensor:
    """Count the pixels that are not ignored, or add up their class weights; a scalar tensor.

    Args:
        labels: (B, H, W) int64, 255 ignored.
        class_weights: One weight per class; None counts pixels.

    Example:
        >>> import torch
        >>> int(count_valid(torch.tensor([[[0, 1, 255]]])))
        2
    """
    valid = labels != IGNORE_INDEX
    if class_weights is None:
        return valid.sum()
    # Counts are exact, so the parts of a batch add up to it; MPS has no float64.
    dtype = torch.float32 if labels.device.type == "mps" else torch.float64
    counts = torch.bincount(labels[valid], minlength=len(class_weights))
    return counts.to(dtype) @ labels.new_tensor(class_weights, dtype=dtype)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Sequence[float] | None = None,
    *,
    num_valid: float | None = None,
) -> Tensor:
    """Compute the mean cross-entropy of the valid pixels; 0 (with a graph) without any.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64, 255 ignored.
        class_weights: One weight per class; None weighs all alike.
        num_valid: Valid pixels (or their class weight) that the mean is taken over; None is this
            batch.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 4, 2, 2), torch.ones(1, 2, 2, dtype=torch.int64)
        >>> round(float(cross_entropy(logits, labels)), 4)  # log 4
        1.3863
    """
    if num_valid is None:
        num_valid = float(count_valid(labels, class_weights))
    total = _pixel_losses(logits, labels, class_weights, "sum")
    return total / num_valid if num_valid > 0 else total  # ignored pixels have loss 0


def hard_pixel_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Sequence[float] | None = None,
    *,
    share: float = 0.2,
) -> Tensor:
    """Compute the mean cross-entropy of the hardest valid pixels; 0 (with a graph) without any.

    Args:
        logits: (B, K, H, W).
        labels: (B, H, W) int64, 255 ignored.
        class_weights: One weight per class; None weighs all alike.
        share: Share of the *valid* pixels that is kept, in (0, 1]; at least one pixel.

    Example:
        >>> import torch
        >>> logits, labels = torch.zeros(1, 4, 2, 2), torch.ones(1, 2, 2, dtype=torch.int64)
        >>> round(float(hard_pixel_cross_entropy(logits, labels, share=0.5)), 4)
        1.3863
    """
    losses = _pixel_losses(logits, labels, class_weights, "none")
    valid = labels.flatten() != IGNORE_INDEX
    losses, classes = losses[valid], labels.flatten()[valid]  # (number of valid pixels,)
    if len(losses) == 0:
        return losses.sum()  # 0, with a graph
    hardest = losses.topk(max(1, int(share * len(losses))), sorted=False)
    if class_weights is None:
        return hardest.values.mean()
    # Weighted losses by their weights; all of them may be of classes of weight 0.
    weight = losses.new_tensor(class_weights)[classes[hardest.indices]].sum()
    return hardest.values.sum() / weight.clamp(min=torch.finfo(losses.dtype).tiny)


def _pixel_losses(
    logits: Tensor,
    labels: Tensor,
    class_weights: Sequence[float] | None,
    reduction: Literal["sum", "none"],
) -> Tensor:
    """Compute cross-entropy times class weight: the sum, or (B * H * W,) with 0 where ignored."""
    logits = _at_least_float32(logits)
    if logits.shape[1] >= FEWEST_AS_ROWS:
        # (B, K, H, W) -> (B * H * W, K); a stage's logits are channels-last: nothing is copied.
        logits = logits.permute(0, 2, 3, 1).flatten(end_dim=2)
        labels = labels.flatten()
    weight = None if class_weights is None else logits.new_tensor(class_weights)
    losses = F.cross_entropy(logits, labels, weight, ignore_index=IGNORE_INDEX, reduction=reduction)
    return losses.flatten() if reduction == "none" else losses


def _at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _full_size(
    logits: Tensor, output: "SegmenterOutput", model: "BaseSegmenter | None", size: Sequence[int]
) -> Tensor:
    # The finest output is at the size of the image already: `output.logits`. Resizing it again
    # costs a fifth of all the resizing; half-precision logits are resized once more, in float32.
    finest = output.stages[-1] if output.stages else output.coarse
    is_precise = output.logits.dtype in (torch.float32, torch.float64)
    if logits is finest and is_precise and output.logits.shape[-2:] == tuple(size):
        return output.logits
    logits = _at_least_float32(logits)
    return resize(logits, size) if model is None else model.upsample(logits, size)


def _refiner_losses(
    output: "SegmenterOutput", labels: Tensor, model: "BaseSegmenter | None"
) -> dict[str, Tensor]:
    if model is None or model.refiner is None:
        return {}
    # A refiner's outputs are at the size of the padded image; the padding holds no class.
    aux = {name: _at_least_float32(x) for name, x in output.aux.items()}
    H, W = labels.shape[-2:]
    height, width = model.padded_size((H, W))
    padded = F.pad(labels, (0, width - W, 0, height - H), value=IGNORE_INDEX)
    return model.refiner.losses(aux, padded)


def _check(coarse: Tensor, labels: Tensor, config: LossConfig) -> None:
    num_classes = coarse.shape[1]
    if num_classes == 1:
        raise PnaError(
            "expected logits of 2 classes or more, got 1 channel: its softmax is 1 everywhere, so "
            "nothing would be learned. Predict background and foreground as 2 classes; around one "
            "logit x of a sigmoid, torch.cat([torch.zeros_like(x), x], 1) are the two"
        )
    if labels.ndim != 3 or labels.shape[0] != coarse.shape[0] or labels.dtype != torch.int64:
        raise PnaError(
            f"expected labels ({coarse.shape[0]}, H, W) int64, got {tuple(labels.shape)} "
            f"{labels.dtype}"
        )
    if config.class_weights is not None and len(config.class_weights) != num_classes:
        raise PnaError(
            f"expected {num_classes} class_weights, one per class, got {len(config.class_weights)}"
        )


def _check_range(labels: Tensor, num_classes: int) -> None:
    wrong = labels[(labels != IGNORE_INDEX) & ((labels < 0) | (labels >= num_classes))]
    if len(wrong):
        raise PnaError(
            f"expected labels of 0 to {num_classes - 1}, or {IGNORE_INDEX} for ignored pixels, got "
            f"{sorted(set(wrong.tolist()))[:5]}; set ignored pixels to {IGNORE_INDEX}"
        )
