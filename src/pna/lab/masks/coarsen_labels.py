"""Coarse versions of an accurate label map, at a chosen degree."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pna.errors import PnaError
from pna.lab.masks.fields import has_boundary
from pna.lab.masks.label_rules import LABEL_RULES, LabelCoarsening
from pna.lab.masks.segments import Labels, fill_unknown, resize_nearest
from pna.lab.masks.strength import find_strength
from pna.labels import IGNORE_INDEX

_LOSSES = (0.03, 0.40)  # 1 - `label_degree` at amounts 0 and 1
_COMBINED = 0.5  # share of the draws that combine two rules
_SMALL = 160  # pixels along the longer side of the map on which the strength is searched
_MOST_PIXELS = 1e6  # larger maps are changed on a coarser grid


def coarsen_labels(
    labels: npt.NDArray[Any],
    rng: np.random.Generator,
    *,
    rule: str | None = None,
    amount: float | None = None,
    ignore: int = IGNORE_INDEX,
) -> Labels:
    """Make an accurate label map coarse: no class overlaps another, and none is added.

    The strength of the rule is chosen so that `label_degree` falls about linearly with the amount:
    0.97 at amount 0, 0.6 at amount 1, or as near to it as the rule can come. A map of one class
    comes back as it is.

    Args:
        labels: (H, W) integers, 0 to 255.
        rng: Source of all choices.
        rule: A key of `LABEL_RULES`; by default one is drawn, or two that act one after the other.
        amount: Degree of coarseness in [0, 1]; drawn by default.
        ignore: The label of ignored pixels. They stay where they were, and nowhere else.

    Returns:
        (H, W) uint8.

    Raises:
        PnaError: The labels aren't a map of integers from 0 to 255, or rule or amount is out of
            range.

    Example:
        >>> labels = np.zeros((60, 80), np.uint8)
        >>> labels[:, 40:], labels[0] = 7, 255
        >>> coarse = coarsen_labels(labels, np.random.default_rng(0), rule="warp", amount=0.5)
        >>> np.unique(coarse).tolist(), 0.7 < label_degree(coarse, labels) < 0.85
        ([0, 7, 255], True)
    """
    labels = _check(labels)
    if rule is not None and rule not in LABEL_RULES:
        raise PnaError(f"expected a rule of {', '.join(LABEL_RULES)}; got {rule!r}")
    if amount is not None and not 0 <= amount <= 1:
        raise PnaError(f"expected an amount in [0, 1], got {amount}")
    if amount is None:
        amount = rng.random()
    loss = _LOSSES[0] + amount * (_LOSSES[1] - _LOSSES[0])
    is_ignored = labels == ignore
    # What is moved over an ignored pixel's border is the class beside it, never `ignore`.
    filled = fill_unknown(labels, is_ignored)
    if not has_boundary(filled):
        return labels.copy()
    coarse = _to_loss(filled, _draw(rule, rng), loss)
    return np.where(is_ignored, np.uint8(ignore), coarse)


def label_degree(coarse: Labels, labels: Labels, *, ignore: int = IGNORE_INDEX) -> float:
    """Measure how coarse a label map is: mean IoU, weighted by the square roots of the areas.

    Between the plain mean, in which a class of ten pixels counts like the road, and the mean by
    area, in which nothing but the road counts.

    Args:
        coarse: (H, W) uint8.
        labels: (H, W) uint8, accurate.
        ignore: The label of ignored pixels.

    Returns:
        A mean of the IoUs of the classes in `labels`, in [0, 1]; 1 if all pixels are ignored.

    Example:
        >>> labels = np.array([[0, 0, 0, 0, 1, 255]], np.uint8)
        >>> round(label_degree(np.array([[0, 0, 0, 1, 1, 1]], np.uint8), labels), 3)  # 3/4, 1/2
        0.667
    """
    is_valid = labels != ignore
    pairs = labels[is_valid].astype(np.int64) * 256 + coarse[is_valid]
    counts = np.bincount(pairs, minlength=256 * 256).reshape(256, 256)
    areas = counts.sum(axis=1)
    weights = np.sqrt(areas)
    if not weights.any():
        return 1.0
    intersections = counts.diagonal()
    unions = np.maximum(areas + counts.sum(axis=0) - intersections, 1)
    return float((weights * intersections / unions).sum() / weights.sum())


def _check(labels: npt.NDArray[Any]) -> Labels:
    if labels.ndim != 2 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise PnaError(
            f"expected labels (H, W) of integers, at least 1 x 1; got {labels.shape} of "
            f"{labels.dtype}"
        )
    if labels.min() < 0 or labels.max() > 255:
        raise PnaError(
            f"expected labels from 0 to 255, got {labels.min()} to {labels.max()}; renumber the "
            "classes, and give ignored pixels 255"
        )
    return labels.astype(np.uint8)


def _draw(rule: str | None, rng: np.random.Generator) -> LabelCoarsening:
    if rule is not None:
        return LABEL_RULES[rule](rng)
    names = list(LABEL_RULES)
    if rng.random() >= _COMBINED:
        return LABEL_RULES[names[rng.integers(len(names))]](rng)
    first, second = (LABEL_RULES[names[at]](rng) for at in rng.choice(len(names), 2, replace=False))

    def combined(labels: Labels, strength: float) -> Labels:
        between = first(labels, strength)
        return second(between, strength) if has_boundary(between) else between

    return combined


def _to_loss(labels: Labels, coarsening: LabelCoarsening, loss: float) -> Labels:
    """Apply a rule at the strength that costs `loss` of `label_degree`."""
    small = _every(labels, max(labels.shape) / _SMALL)
    if not has_boundary(small):
        return labels
    strength, _ = find_strength(
        lambda tried: 1 - label_degree(coarsening(small, tried), small), loss
    )
    before = _every(labels, math.sqrt(labels.size / _MOST_PIXELS))
    after = coarsening(before, strength)
    if before is labels:
        return after
    # What didn't change keeps the full resolution.
    is_changed = resize_nearest(after != before, labels.shape)
    return np.where(is_changed, resize_nearest(after, labels.shape), labels)


def _every(labels: Labels, factor: float) -> Labels:
    """Take every `factor`-th pixel; the same map for factors up to 1."""
    if factor <= 1:
        return labels
    H, W = labels.shape
    return resize_nearest(labels, (max(1, round(H / factor)), max(1, round(W / factor))))
