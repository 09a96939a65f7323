"""Refinement of masks of any kind and size: arrays in, arrays of the same kind out.

A large image is refined twice: once as a whole, reduced, for errors that are wider than a part; and
then part by part at its own size. Parts overlap, and of each only the core is kept, so networks see
no more at once whatever the size; beside that some arrays of the image's size are held.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pna.data.masks.arrays import MaskArray
from pna.labels import IGNORE_INDEX
from pna.model.resize import average
from pna.refinement.arrays import FloatArray
from pna.refinement.masks import (
    LEAST_SHARE,
    Decision,
    Kind,
    Part,
    Place,
    RefineConfig,
    check_mask,
    decide,
)
from pna.refinement.network import Box, RefinesMasks


class RefinedMask(NamedTuple):
    """A refined mask.

    Attributes:
        mask: The kind, shape and type of the mask that was given.
        wrong: (H, W) float32, the probability that a pixel of the given mask is wrong; 0 where it
            is ignored.
    """

    mask: MaskArray
    wrong: FloatArray


def refine_mask(
    network: RefinesMasks,
    image: npt.NDArray[np.uint8],
    mask: MaskArray,
    config: RefineConfig = RefineConfig(),
) -> RefinedMask:
    """Sharpen a mask of any source along the edges of its image.

    Args:
        network: In evaluation mode; it runs on the device that it is on.
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) bool; (H, W) integers from 0 to 255, labels of which 255 is ignored, or a mask
            of 0 and 255 alone; (H, W) floats in [0, 1], the probability of the foreground; or
            (K, H, W) floats, the probabilities of K classes, which sum to 1.
        config: Strength, radius, classes and the size of parts.

    Returns:
        The refined mask, of the kind, shape and type of `mask`, and where that is probably wrong.
        Ignored pixels stay.

    Raises:
        PnaError: Image and mask have different sizes, or are no such arrays.
    """
    kind = check_mask(image, mask)
    refined = np.array(mask)
    wrong = np.zeros(image.shape[:2], np.float32)
    with torch.inference_mode():
        change = _change_of_whole(network, image, mask, kind, config)
        for core, seen in plan_parts(image.shape[:2], config):
            part = Part.of(mask[..., *seen], kind)
            masks = part.masks
            if change is not None:
                part = change.add_classes(part, seen)
                masks = change.apply(part, seen)
            decision = refine_part(network, image[seen], part, masks, config)
            if decision is not None:
                inner = inside(core, seen)
                decision.write(mask[..., *core], kind, inner, refined[..., *core])
                wrong[core] = decision.wrong[inner]
    return RefinedMask(refined, wrong)


def refine_part(
    network: RefinesMasks,
    image: npt.NDArray[np.uint8],
    part: Part,
    masks: Tensor,
    config: RefineConfig,
) -> Decision | None:
    """Refine a part of an image by one run of the network, without recording gradients.

    Args:
        network: In evaluation mode.
        image: (h, w, 3) of the part.
        part: Its mask as it was given, which `config` compares with.
        masks: (n, h, w) what the network gets for it.
        config: What may change.

    Returns:
        What becomes of the part; None where it has one class, and so no edge to move.
    """
    if len(part.classes) < 2:
        return None
    return decide(part, _run(network, _to_tensor(image), masks), config)


class _WholeChange(NamedTuple):
    """The change of a whole image, reduced.

    Attributes:
        classes: Labels, ascending.
        change: (n, h, w) of their probabilities.
        size: (H, W) of the image.
    """

    classes: list[int]
    change: Tensor
    size: tuple[int, int]

    def add_classes(self, part: Part, place: Place) -> Part:
        """Add the classes that the change brings to a part."""
        cells = tuple(
            slice(s.start * n // length, -(-s.stop * n // length) + 1)
            for s, n, length in zip(place, self.change.shape[1:], self.size, strict=True)
        )
        gains = self.change[:, *cells].amax((1, 2))
        new = [k for k, gain in zip(self.classes, gains, strict=True) if gain > LEAST_SHARE]
        classes = sorted({*part.classes, *new})
        masks = torch.zeros(len(classes), *part.ignored.shape)
        masks[[classes.index(k) for k in part.classes]] = part.masks
        return Part(classes, masks, part.ignored)

    def apply(self, part: Part, place: Place) -> Tensor:
        """Return the masks of a part with the change."""
        # Pixel centers of the part in [-1, 1], the whole image.
        y, x = (
            (torch.arange(s.start, s.stop) + 0.5) / length * 2 - 1
            for s, length in zip(place, self.size, strict=True)
        )
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None]
        rows = [self.classes.index(k) for k in part.classes]
        change = F.grid_sample(
            self.change[rows][None], grid, padding_mode="border", align_corners=False
        )[0]
        return (part.masks + change).clamp(0, 1)


def _change_of_whole(
    network: RefinesMasks,
    image: npt.NDArray[np.uint8],
    mask: MaskArray,
    kind: Kind,
    config: RefineConfig,
) -> _WholeChange | None:
    """Refine an image that is larger than a part, reduced to one; None for a smaller one."""
    H, W = image.shape[:2]
    longest = config.core + 2 * config.margin
    if max(H, W) <= longest:
        return None
    size = [max(1, round(side * longest / max(H, W))) for side in (H, W)]
    classes, masks = [], []
    # One class after the other: all of them at full size may not fit into memory.
    for label, foreground in _foregrounds(mask, kind):
        classes.append(label)
        masks.append(average(torch.from_numpy(foreground)[None, None], size)[0])
    if len(classes) < 2:
        return None
    given = torch.cat(masks)
    known = given.sum(0)  # 0 where all of a cell is ignored: nothing is known there to change
    given = given / known.clamp(min=LEAST_SHARE)
    # One channel after the other: the whole image in floats would take eight times its memory.
    small = torch.cat([average(_to_tensor(image[..., c, None]), size) for c in range(3)], 1)
    change = (_run(network, small, given) - given) * (known > LEAST_SHARE)
    return _WholeChange(classes, change, (H, W))


def _foregrounds(mask: MaskArray, kind: Kind) -> Iterator[tuple[int, FloatArray]]:
    """Go through the classes of a mask: label, and probability (H, W)."""
    if kind == "probabilities":
        for k in range(mask.shape[0]):
            if mask[k].max() > LEAST_SHARE:
                yield k, np.array(mask[k], np.float32)
    elif kind == "labels":
        for label in np.unique(mask):
            if label != IGNORE_INDEX:
                yield int(label), (mask == label).astype(np.float32)
    else:
        foreground = np.array(mask if kind == "soft" else mask != 0, np.float32)
        if foreground.min() < 1 - LEAST_SHARE and foreground.max() > LEAST_SHARE:
            yield 0, 1 - foreground
            yield 1, foreground


def plan_parts(size: tuple[int, int], config: RefineConfig) -> Iterator[tuple[Place, Place]]:
    """Go through the parts of an image: what is kept of each, and what the network sees."""
    H, W = size
    # An image that fits into what a part sees is one part.
    seen = config.core + 2 * config.margin
    rows, cols = (
        [(0, n)] if n <= seen else [(i, min(i + config.core, n)) for i in range(0, n, config.core)]
        for n in (H, W)
    )
    for top, bottom in rows:
        for left, right in cols:
            core = (slice(top, bottom), slice(left, right))
            yield (
                core,
                (
                    slice(max(0, top - config.margin), min(H, bottom + config.margin)),
                    slice(max(0, left - config.margin), min(W, right + config.margin)),
                ),
            )


def inside(place: Place, seen: Place) -> Place:
    """Return where a place lies in what is seen around it.

    Example:
        >>> inside((slice(512, 700), slice(0, 90)), (slice(448, 764), slice(0, 154)))
        (slice(64, 252, None), slice(0, 90, None))
    """
    rows, cols = (
        slice(a.start - b.start, a.stop - b.start) for a, b in zip(place, seen, strict=True)
    )
    return rows, cols


def _run(network: RefinesMasks, images: Tensor, masks: Tensor) -> Tensor:
    """Refine the masks (n, h, w) of images (1, 3, h, w), n >= 2: probabilities that sum to 1."""
    h, w = masks.shape[1:]
    d = network.divisor
    padding = (0, -w % d, 0, -h % d)
    # Of two classes what one gains the other loses. Of more, the one with the largest area, most
    # often the background, is what the others leave: a network of objects knows no outline of it.
    rest = 0 if len(masks) == 2 else int(masks.sum((1, 2)).argmax())
    others = [k for k in range(len(masks)) if k != rest]
    own = masks[others]
    padded = F.pad(own[None], padding, mode="replicate")
    found_boxes = [_box_of(mask, d) for mask in padded[0]]
    boxes = {k: box for k, box in enumerate(found_boxes) if box is not None}
    refined = own.clone()  # outside of its box a mask stays
    if boxes:
        values = network.refine(
            F.pad(images, padding, mode="replicate").to(network.device),
            padded[:, list(boxes)].to(network.device),
            list(boxes.values()),
        )[0, :, :h, :w].cpu()
        for value, (k, box) in zip(values, boxes.items(), strict=True):
            rows, cols = (slice(cells.start * d, cells.stop * d) for cells in box)
            refined[k, rows, cols] = value[rows, cols]
    left = (1 - refined.sum(0, keepdim=True)).clamp(min=0)
    shares = torch.cat([refined[:rest], left, refined[rest:]])
    return shares / shares.sum(0).clamp(min=1e-6)


def _box_of(mask: Tensor, divisor: int) -> Box | None:
    """Find the cells that a mask (h, w) lies in, and one around; None where there are none."""
    cells = F.max_pool2d(mask[None, None], divisor)[0, 0] > LEAST_SHARE
    rows, cols = cells.any(1).nonzero().flatten(), cells.any(0).nonzero().flatten()
    if not len(rows):
        return None
    h, w = cells.shape
    return (
        slice(max(0, int(rows[0]) - 1), min(h, int(rows[-1]) + 2)),
        slice(max(0, int(cols[0]) - 1), min(w, int(cols[-1]) + 2)),
    )


def _to_tensor(image: npt.NDArray[np.uint8]) -> Tensor:
    """Turn an image (H, W, C) into (1, C, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
