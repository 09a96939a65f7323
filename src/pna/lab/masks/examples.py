"""Examples to train a mask refiner on: parts of scenes as they are, and made ones.

Made are: several scenes joined into one, so that objects are small; an object pasted several times,
so that it touches others of its kind; and drawings.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pna.lab.masks.scenes import LEAST_PIXELS, Example, Scene, cut_scene

_DRAWINGS, _MOSAICS, _PASTED = 0.08, 0.35, 0.2
"""Shares of the examples that are drawn, joined of several scenes, or, of the rest, pasted."""


def draw_example(
    scenes: Sequence[Scene], size: tuple[int, int], rng: np.random.Generator
) -> Example:
    """Draw a part of a scene, of several side by side, of one with pasted objects, or a drawing.

    Args:
        scenes: To choose from, each kind alike often.
        size: (H, W) of the result.
        rng: The source of all randomness.
    """
    made = rng.random()
    if made < _DRAWINGS:
        return draw_shapes(size, rng)
    if made < _DRAWINGS + _MOSAICS:
        return join(scenes, size, rng)
    example = cut_scene(scenes, size, rng)
    is_free = example.given is None
    return paste_copies(example, rng) if is_free and rng.random() < _PASTED else example


def join(scenes: Sequence[Scene], size: tuple[int, int], rng: np.random.Generator) -> Example:
    """Join parts of several scenes, two or three a side, into one; the mask is in one of them.

    Most objects that people have masks of are small in their images. A network that saw large ones
    alone rounds small ones off.
    """
    number = int(rng.integers(2, 4))
    height, width = (-(-side // number) for side in size)
    parts = [cut_scene(scenes, (height, width), rng) for _ in range(number**2)]
    chosen = int(rng.integers(len(parts)))

    def lay(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        rows = [np.concatenate(arrays[i : i + number], 1) for i in range(0, len(arrays), number)]
        return np.ascontiguousarray(np.concatenate(rows)[: size[0], : size[1]])

    def lay_one(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        empty = np.zeros_like(array)
        return lay([array if i == chosen else empty for i in range(len(parts))])

    mask, given = lay_one(parts[chosen].mask), parts[chosen].given
    if mask.sum() < LEAST_PIXELS:
        return join(scenes, size, rng)
    image = lay([part.image for part in parts])
    return Example(image, mask, None if given is None else lay_one(given))


def paste_copies(example: Example, rng: np.random.Generator) -> Example:
    """Paste an object around itself several times: neighbors of one kind that touch.

    The mask stays that of the object, less what the copies cover: its outline towards a copy is
    one that colors hardly show.
    """
    image, mask = example.image.copy(), example.mask
    H, W = mask.shape
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    h, w = np.ptp(rows) + 1, np.ptp(cols) + 1
    if h * w > 0.4 * H * W or min(h, w) < 8:
        return example
    cutout = (slice(rows[0], rows[0] + h), slice(cols[0], cols[0] + w))
    object_image, object_mask = image[cutout].copy(), mask[cutout].copy()
    visible = mask.copy()
    for _ in range(rng.integers(2, 7)):
        if rng.random() < 0.5:
            object_image, object_mask = object_image[:, ::-1], object_mask[:, ::-1]
        angle = rng.uniform(0, 2 * np.pi)
        reach = rng.uniform(0.6, 1.0)
        top = int(rows[0] + reach * h * np.sin(angle))
        left = int(cols[0] + reach * w * np.cos(angle))
        # The part of the copy inside of the image.
        y0, y1, x0, x1 = max(top, 0), min(top + h, H), max(left, 0), min(left + w, W)
        if y0 >= y1 or x0 >= x1:
            continue
        inner = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        place = (slice(y0, y1), slice(x0, x1))
        is_copy = object_mask[inner]
        if rng.random() < 0.5:  # behind the object itself
            is_copy = is_copy & ~mask[place]
        image[place][is_copy] = object_image[inner][is_copy]
        visible[place] &= ~is_copy
    return Example(image, visible) if visible.sum() >= LEAST_PIXELS else example


def draw_shapes(size: tuple[int, int], rng: np.random.Generator) -> Example:
    """Draw several shapes of one kind on a plain or noisy ground; the mask is one of them."""
    H, W = size
    ground, color = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    canvas = Image.new("RGB", (2 * W, 2 * H), tuple(int(c) for c in ground))
    layer = Image.new("L", (2 * W, 2 * H))
    drawing, mask_drawing = ImageDraw.Draw(canvas), ImageDraw.Draw(layer)
    number, radius = rng.integers(1, 25), min(size) * rng.uniform(0.02, 0.35)
    is_thin = rng.random() < 0.3
    chosen = number - 1 if rng.random() < 0.5 else rng.integers(number)
    for i in range(number):
        tone = tuple(int(c) for c in np.clip(color + rng.normal(0, 12, 3), 0, 255))
        y, x = rng.uniform(0, 2 * H), rng.uniform(0, 2 * W)
        if is_thin:
            bends = np.add(rng.normal(0, 2 * radius, (4, 2)).cumsum(0), (x, y))
            line, width = [tuple(p) for p in bends], int(rng.integers(2, 14))
            drawing.line(line, fill=tone, width=width, joint="curve")
            mask_drawing.line(line, fill=255 if i == chosen else 0, width=width, joint="curve")
            continue
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 40)))
        reach = 2 * radius * rng.uniform(0.6, 1.1, angles.size)
        outline = np.stack([x + reach * np.cos(angles), y + reach * np.sin(angles)], 1)
        polygon = [tuple(p) for p in outline]
        drawing.polygon(polygon, fill=tone)
        mask_drawing.polygon(polygon, fill=255 if i == chosen else 0)
    half = (W, H)
    pixels = np.asarray(canvas.resize(half, Image.Resampling.BOX), np.float32)
    noise = rng.normal(0, rng.uniform(0, 25), (H, W, 1)) + rng.normal(0, 4, (H, W, 3))
    mask = np.asarray(layer.resize(half, Image.Resampling.BOX)) >= 128
    if not mask.any():
        return draw_shapes(size, rng)
    return Example(np.clip(pixels + noise, 0, 255).astype(np.uint8), mask)
