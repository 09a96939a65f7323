"""Masks of any kind as probabilities of classes, and what a refinement may change of them."""

import operator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pna.data.masks.arrays import MaskArray, check_floats, check_labels, is_binary
from pna.errors import PnaError
from pna.labels import IGNORE_INDEX
from pna.refinement.arrays import FloatArray, check_image

Place = tuple[slice, slice]
"""Rows and columns of an image."""

LEAST_SHARE = 0.02
"""A class occurs where its probability is above this."""


@dataclass(frozen=True)
class RefineConfig:
    """How masks are refined.

    Attributes:
        strength: Between 0, where nothing changes, and 1, where every pixel gets its most probable
            class. In between a pixel changes where the probability of its new class exceeds that of
            its old one by more than `1 - strength`.
        radius: Pixels that an edge may move, along rows and columns; None for any distance.
        classes: Only pixels that are, or become, one of these change; None for all.
        core: Side of the part of an image that is kept of each run, in pixels.
        margin: Pixels around it that the network sees too.

    Raises:
        PnaError: A value is out of its range.
    """

    strength: float = 0.2
    radius: int | None = None
    classes: tuple[int, ...] | None = None
    core: int = 512
    margin: int = 64

    def __post_init__(self) -> None:
        for name in ("radius", "core", "margin"):
            value = getattr(self, name)
            if value is None and name == "radius":
                continue
            try:
                object.__setattr__(self, name, operator.index(value))
            except TypeError:
                raise PnaError(f"expected whole pixels, got {name}={value!r}") from None
        if not 0 <= self.strength <= 1:
            raise PnaError(f"expected a strength in [0, 1], got {self.strength}")
        if self.radius is not None and self.radius < 0:
            raise PnaError(f"expected a radius of at least 0 pixels, got {self.radius}")
        if self.core < 1 or self.margin < 0:
            raise PnaError(
                f"expected a core of at least 1 pixel and a margin of at least 0, got {self.core} "
                f"and {self.margin}"
            )


Kind = Literal["binary", "labels", "soft", "probabilities"]
"""Bool, or integers 0 and 255; other integers; floats of one foreground; floats of K classes."""


def check_mask(image: npt.NDArray[np.uint8], mask: MaskArray) -> Kind:
    """Find the kind of a mask and check that it fits its image.

    Raises:
        PnaError: It does not, or one of them is no such array.
    """
    check_image(image)
    if not isinstance(mask, np.ndarray):  # of a tensor the rest would fail in words of its own
        raise PnaError(
            f"expected an array of numpy, got {type(mask).__name__}: a tensor becomes one by "
            "mask.cpu().numpy(), an image by np.asarray(mask)"
        )
    if mask.ndim not in (2, 3) or mask.shape[-2:] != image.shape[:2]:
        H, W = image.shape[:2]
        if mask.shape == (W, H):
            remedy = "the mask lies on its side: turn one of the two (np.rot90), as EXIF may do"
        elif mask.ndim == 3 and mask.shape[:2] == (H, W):
            remedy = "the classes come first: mask.transpose(2, 0, 1)"
        else:
            remedy = "resize the mask to the image, labels by nearest, probabilities bilinearly"
        raise PnaError(
            f"expected a mask ({H}, {W}) or probabilities (K, {H}, {W}), as the image has, got "
            f"{mask.shape}: {remedy}"
        )
    if mask.ndim == 2 and is_binary(mask):
        return "binary"
    if mask.ndim == 2 and np.issubdtype(mask.dtype, np.integer):
        check_labels(mask, "the mask")
        if mask.max() > IGNORE_INDEX:
            raise PnaError(f"expected labels up to 255, got {mask.max()}: number them anew")
        return "labels"
    if not np.issubdtype(mask.dtype, np.floating):
        raise PnaError(
            "expected labels (H, W) as bool or integers, or probabilities (K, H, W) as floats, got "
            f"{mask.shape} {mask.dtype}: pass one label map, or one mask after the other"
        )
    if mask.ndim == 3 and len(mask) < 2:
        raise PnaError(
            f"expected probabilities of 2 classes or more, got {len(mask)}: pass one as (H, W)"
        )
    check_floats(mask, "the mask")
    return "soft" if mask.ndim == 2 else "probabilities"


class Part(NamedTuple):
    """A part of a mask as probabilities of the classes that occur in it.

    Attributes:
        classes: Their labels, ascending; 0 and 1 for background and foreground.
        masks: (n, h, w), one for each; sums are 1, and equal shares where the mask is ignored.
        ignored: (h, w).
    """

    classes: list[int]
    masks: Tensor
    ignored: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, mask: MaskArray, kind: Kind) -> Self:
        """Read a part of a mask."""
        ignored = np.zeros(mask.shape[-2:], np.bool_)
        if kind == "probabilities":
            present = np.flatnonzero(mask.max(axis=(1, 2)) > LEAST_SHARE)
            masks = torch.from_numpy(mask[present].astype(np.float32))
            return cls([int(k) for k in present], masks, ignored)
        if kind == "soft":
            foreground = mask.astype(np.float32)
        elif kind == "binary":
            foreground = (mask != 0).astype(np.float32)
        else:
            ignored = mask == IGNORE_INDEX
            classes = [int(k) for k in np.unique(mask) if k != IGNORE_INDEX]
            shares = np.zeros((len(classes), *mask.shape), np.float32)
            for share, k in zip(shares, classes, strict=True):
                share[mask == k] = 1
            shares[:, ignored] = 1 / max(1, len(classes))
            return cls(classes, torch.from_numpy(shares), ignored)
        low, high = foreground.min(), foreground.max()
        if high <= LEAST_SHARE or low >= 1 - LEAST_SHARE:
            is_foreground = bool(low > 0.5)
            only = foreground if is_foreground else 1 - foreground
            return cls([int(is_foreground)], torch.from_numpy(only)[None], ignored)
        return cls([0, 1], torch.from_numpy(np.stack([1 - foreground, foreground])), ignored)


class Decision(NamedTuple):
    """What becomes of a part.

    Attributes:
        classes: The labels of the part.
        best: (h, w) index of the class with the highest probability, where it is taken; of the
            class that was given elsewhere.
        is_changed: (h, w).
        is_kept: (h, w), where the given values stay: beyond the limits, or where another class
            leads by too little.
        probabilities: (n, h, w) of the classes, refined.
        wrong: (h, w), the probability that the given class is wrong.
    """

    classes: list[int]
    best: npt.NDArray[np.intp]
    is_changed: npt.NDArray[np.bool_]
    is_kept: npt.NDArray[np.bool_]
    probabilities: FloatArray
    wrong: FloatArray

    def write(self, given: MaskArray, kind: Kind, inner: Place, refined: MaskArray) -> None:
        """Write the inner place of the part to `refined`, which is a copy of `given`."""
        is_changed, is_kept = self.is_changed[inner], self.is_kept[inner]
        if kind in ("labels", "binary"):
            labels = np.array(self.classes, np.int64)
            if kind == "binary" and given.dtype != np.bool_:
                labels = labels * 255
            refined[is_changed] = labels[self.best[inner]][is_changed]
        elif kind == "soft":
            refined[~is_kept] = self.probabilities[1][inner][~is_kept]
        else:
            values = np.zeros_like(given)
            values[self.classes] = self.probabilities[:, *inner]
            refined[:, ~is_kept] = values[:, ~is_kept]


def decide(part: Part, probabilities: Tensor, config: RefineConfig) -> Decision:
    """Decide which pixels of a part change.

    Args:
        part: As it was given.
        probabilities: (n, h, w) of its classes, refined.
        config: How sure a change must be, and how far an edge may move.
    """
    given = part.masks.argmax(0)  # (h, w)
    surest, best = probabilities.max(0)
    old = probabilities.gather(0, given[None])[0]
    is_ignored = torch.from_numpy(part.ignored)
    # Here values may change, those of soft masks also where the most probable class stays.
    is_open = ~is_ignored & (config.strength > 0)
    if config.radius is not None:
        # Ignored pixels are a side of their own: which class argmax gives them says nothing.
        is_open &= near_edge(given.masked_fill(is_ignored, -1), config.radius)
    if config.classes is not None:
        chosen = torch.tensor([label in config.classes for label in part.classes])
        is_open &= chosen[given] | chosen[best]
    is_other = best != given
    is_changed = is_other & is_open & (surest - old > 1 - config.strength)
    return Decision(
        part.classes,
        torch.where(is_changed, best, given).numpy(),
        is_changed.numpy(),
        (~is_open | (is_other & ~is_changed)).numpy(),
        probabilities.numpy(),
        (1 - old).masked_fill(is_ignored, 0).numpy(),
    )


def near_edge(labels: Tensor, radius: int) -> Tensor:
    """Mark pixels of a map (h, w) with another label at most `radius` rows and columns away.

    Example:
        >>> near_edge(torch.tensor([[0, 0, 0, 1, 1, 1]]), 2).int().tolist()
        [[0, 1, 1, 1, 1, 0]]
    """
    x = labels[None, None].float()
    sides = [2 * min(radius, length) + 1 for length in labels.shape]

    def highest(x: Tensor) -> Tensor:
        # One axis after the other: a square's maximum is that of its rows' maxima.
        for axis, side in enumerate(sides):
            kernel, padding = [1, 1], [0, 0]
            kernel[axis], padding[axis] = side, side // 2
            x = F.max_pool2d(x, kernel, stride=1, padding=padding)
        return x

    return (highest(x) != -highest(-x))[0, 0]
