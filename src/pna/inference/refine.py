"""Refinement of masks of any kind and size: arrays in, arrays of the same kind out.

A large image is refined twice: once as a whole, reduced, for errors that are wider than a part; and
then part by part at its own size. Parts overlap, and of each only the core is kept, so memory does
not grow with the image beyond its own arrays.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from pna.data.masks.arrays import MaskArray
from pna.labels import IGNORE_INDEX
from pna.model.resize import average
from pna.model.state import fill, read_weights
from pna.refinement.masks import (
    LEAST_SHARE,
    FloatArray,
    Kind,
    Part,
    Place,
    RefineConfig,
    check_mask,
    decide,
)
from pna.refinement.network import Box, MaskRefiner, create_mask_refiner


class RefinedMask(NamedTuple):
    """A refined mask.

    Attributes:
        mask: The kind, shape and type of the mask that was given.
        wrong: (H, W) float32, the probability that a pixel of the given mask is wrong; 0 where it
            is ignored.
    """

    mask: MaskArray
    wrong: FloatArray


def load_mask_refiner(file: Path) -> MaskRefiner:
    """Read the weights of a mask refiner, in evaluation mode and float32.

    Raises:
        PnaError: The file does not hold them.
    """
    network = create_mask_refiner(encoder_weights=None)
    fill(network, read_weights(file), str(file))
    return network.float().eval()


def refine_mask(
    network: MaskRefiner,
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
        for core, seen in _parts(image.shape[:2], config):
            part = Part.of(mask[..., *seen], kind)
            masks = part.masks
            if change is not None:
                part = change.add_classes(part, seen)
                masks = change.apply(part, seen)
            if len(part.classes) < 2:
                continue  # no edge, and so nothing to move
            inner = (_inside(core[0], seen[0]), _inside(core[1], seen[1]))
            decision = decide(part, _run(network, image[seen], masks), config)
            decision.write(mask[..., *core], kind, inner, refined[..., *core])
            wrong[core] = decision.wrong[inner]
    return RefinedMask(refined, wrong)


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
    network: MaskRefiner,
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
    given = given / given.sum(0).clamp(min=LEAST_SHARE)
    small = average(_to_tensor(image), size)
    return _WholeChange(classes, _run(network, small, given) - given, (H, W))


def _foregrounds(mask: MaskArray, kind: Kind) -> Iterator[tuple[int, FloatArray]]:
    """Go through the classes of a mask: label, and probability (H, W)."""
    if kind == "probabilities":
        for k in range(mask.shape[0]):
            if mask[k].max() > LEAST_SHARE:
                yield k, np.asarray(mask[k], np.float32)
    elif kind == "labels":
        for label in np.unique(mask):
            if label != IGNORE_INDEX:
                yield int(label), (mask == label).astype(np.float32)
    else:
        foreground = np.asarray(mask if kind == "soft" else mask != 0, np.float32)
        if foreground.min() < 1 - LEAST_SHARE and foreground.max() > LEAST_SHARE:
            yield 0, 1 - foreground
            yield 1, foreground


def _parts(size: tuple[int, int], config: RefineConfig) -> Iterator[tuple[Place, Place]]:
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


def _inside(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def _run(network: MaskRefiner, image: npt.NDArray[np.uint8] | Tensor, masks: Tensor) -> Tensor:
    """Refine the masks (n, h, w) of an image, n >= 2: probabilities (n, h, w) that sum to 1."""
    images = image if isinstance(image, Tensor) else _to_tensor(image)
    h, w = masks.shape[1:]
    d = network.divisor
    padding = (0, -w % d, 0, -h % d)
    # Two classes are one mask: what one gains the other loses.
    own = masks[1:] if len(masks) == 2 else masks
    padded = F.pad(own[None], padding, mode="replicate")
    boxes = [_box_of(mask, d) for mask in padded[0]]
    present = [k for k, box in enumerate(boxes) if box is not None]
    results = network(
        F.pad(images, padding, mode="replicate").to(network.mean.device),
        padded[:, present].to(network.mean.device),
        [box for box in boxes if box is not None],
    )
    refined = torch.zeros_like(own)
    logits = results[-1].logits[0, :, :h, :w].cpu() / network.temperature.cpu()
    refined[present] = logits.sigmoid()
    if len(masks) == 2:
        return torch.cat([1 - refined, refined])
    return refined / refined.sum(0).clamp(min=1e-6)


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
    """Turn an image (H, W, 3) into (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
