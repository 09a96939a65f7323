"""Images with accurate masks to train and score a mask refiner on.

A scene is an image and a map of its objects; a sample is a part of it at some scale, with the
accurate mask of one object or of several.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pna.data.pairs import files_by_stem
from pna.data.reading import read_color_mask, read_image, read_index_mask
from pna.errors import PnaError
from pna.lab.masks.fields import FloatArray
from pna.labels import IGNORE_INDEX, LabelSpace

UInt8Array = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

LEAST_PIXELS = 64
"""An object with fewer is no example of an outline."""
_HELD_OUT_EVERY = 10
_SHARES = 0.06, 1.3
"""Extents of a mask in a part, least and largest, as shares of the part's side."""
_ERRORS = 0.3
"""Share of the examples with a network's mask, of scenes that have some."""
_AROUND = 0.2
"""Share of a mask's sides, around it, in which a network's foreground may be part of it."""
_MOST_DRAWS = 1000
_LEAST_IOU = 0.5
"""A mask that agrees less is not this object's: nobody could refine it into that."""


@dataclass(frozen=True)
class Scene:
    """An image and the map of its objects.

    Attributes:
        image: File of the image.
        objects: File of the map.
        kind: Where it is from: "osie", "nuclei", ...
        labels: The classes of a map in colors; None for a map of numbers.
        errors: Files of masks of the foreground that networks predicted; see `network_errors`.
    """

    image: Path
    objects: Path
    kind: str
    labels: LabelSpace | None = None
    errors: tuple[Path, ...] = ()


class Example(NamedTuple):
    """A part of an image with an accurate mask.

    Attributes:
        image: (H, W, 3) RGB.
        mask: (H, W).
        given: (H, W) float32, what a network took for the mask; None where none is known.
    """

    image: UInt8Array
    mask: BoolArray
    given: FloatArray | None = None


def find_crisp(root: Path, kinds: Sequence[str], *, without: Sequence[str] = ()) -> list[Scene]:
    """Find scenes in a folder of `images`, `masks` and, where there are any, maps of `objects`.

    Args:
        root: The folder.
        kinds: Which images: those whose names begin so, up to the first underscore.
        without: Stems to leave out.

    Raises:
        PnaError: There is no such folder, or no image of a kind.
    """
    images = files_by_stem(root / "images", needed_for="the images")
    masks = files_by_stem(root / "masks", needed_for="their masks")
    objects = files_by_stem(root / "objects", needed_for="the maps of their objects")
    maps = {**masks, **objects}
    scenes = []
    for kind in kinds:
        stems = [stem for stem in sorted(images) if stem.partition("_")[0] == kind]
        if not stems:
            raise PnaError(f"{root / 'images'}: expected images named {kind}_..., got none")
        scenes += [
            Scene(images[stem], _partner(images[stem], maps), kind)
            for stem in stems
            if stem not in without
        ]
    return scenes


def find_colored(root: Path, kind: str, labels: LabelSpace) -> list[Scene]:
    """Find scenes in a folder of `images` and `masks` in colors."""
    images = files_by_stem(root / "images", needed_for="the images")
    masks = files_by_stem(root / "masks", needed_for="their masks")
    return [
        Scene(image, _partner(image, masks), kind, labels) for _, image in sorted(images.items())
    ]


def _partner(image: Path, files: Mapping[str, Path]) -> Path:
    """Return the file of an image's name.

    Raises:
        PnaError: There is none.
    """
    if image.stem not in files:
        raise PnaError(f"{image}: expected a mask of that name beside the images, got none")
    return files[image.stem]


def split(scenes: Sequence[Scene]) -> tuple[list[Scene], list[Scene]]:
    """Split scenes into those to train on and those to score on: every tenth of a kind."""
    train: list[Scene] = []
    held_out: list[Scene] = []
    for kind in dict.fromkeys(scene.kind for scene in scenes):
        for i, scene in enumerate(scene for scene in scenes if scene.kind == kind):
            (held_out if i % _HELD_OUT_EVERY == 0 else train).append(scene)
    return train, held_out


@lru_cache(maxsize=1000)
def read_scene(scene: Scene) -> tuple[UInt8Array, npt.NDArray[np.integer]]:
    """Read an image (H, W, 3) and its map of objects (H, W): 0 is background.

    Raises:
        PnaError: A file cannot be read, or the two have different sizes.
    """
    image = read_image(scene.image)
    if scene.labels is not None:
        classes = read_color_mask(scene.objects, scene.labels)
        # Ignored pixels are no object.
        objects: npt.NDArray[np.integer] = np.where(classes == IGNORE_INDEX, 0, classes)
    else:
        objects = read_index_mask(scene.objects)
    if objects.shape != image.shape[:2]:
        raise PnaError(
            f"{scene.objects}: expected a map of {image.shape[:2]}, as the image has, got "
            f"{objects.shape}"
        )
    return image, objects


def choose_mask(objects: npt.NDArray[np.integer], rng: np.random.Generator) -> BoolArray | None:
    """Choose one object of a map, or now and then all; None if none is large enough."""
    ids, counts = np.unique(objects, return_counts=True)
    ids = ids[(counts >= LEAST_PIXELS) & (ids > 0)]
    if ids.size == 0:
        return None
    if ids.size > 1 and rng.random() < 0.3:
        return objects > 0
    chosen: BoolArray = objects == rng.choice(ids)
    return chosen


def choose_error(
    scene: Scene,
    objects: npt.NDArray[np.integer],
    mask: BoolArray,
    rng: np.random.Generator,
) -> FloatArray | None:
    """Choose what a network took for a mask, (H, W) in [0, 1]; None if it took it for another.

    Of a network's foreground that is the part near the mask, without other objects.

    Args:
        scene: With errors.
        objects: (H, W) its map of objects.
        mask: (H, W) one of them, or all.
        rng: Source of the choice.
    """
    path = scene.errors[int(rng.integers(len(scene.errors)))]
    predicted = read_index_mask(path).astype(np.float32) / 255
    if predicted.shape != mask.shape:
        raise PnaError(
            f"{path}: expected a mask of {mask.shape}, as the image has, got {predicted.shape}"
        )
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    around = np.zeros_like(mask)
    margins = [int(_AROUND * (np.ptp(where) + 1)) for where in (rows, cols)]
    around[
        max(0, rows[0] - margins[0]) : rows[-1] + margins[0] + 1,
        max(0, cols[0] - margins[1]) : cols[-1] + margins[1] + 1,
    ] = True
    is_other = (objects > 0) & ~mask
    given = np.where(around & ~is_other, predicted, np.float32(0))
    is_given = given > 0.5
    overlap = (is_given & mask).sum() / (is_given | mask).sum()
    return given if overlap >= _LEAST_IOU else None


def cut_scene(scenes: Sequence[Scene], size: tuple[int, int], rng: np.random.Generator) -> Example:
    """Cut a part of a scene, as it is.

    Args:
        scenes: To choose from, each kind alike often.
        size: (H, W) of the result.
        rng: The source of all randomness.

    Raises:
        PnaError: The scenes hold no object that is large enough.
    """
    kinds = sorted({scene.kind for scene in scenes})
    # The square root of their number: between all images and all kinds alike.
    weights = np.sqrt([sum(scene.kind == kind for scene in scenes) for kind in kinds])
    for _ in range(_MOST_DRAWS):
        kind = rng.choice(kinds, p=weights / weights.sum())
        candidates = [scene for scene in scenes if scene.kind == kind]
        scene = candidates[int(rng.integers(len(candidates)))]
        image, objects = read_scene(scene)
        mask = choose_mask(objects, rng)
        if mask is None:
            continue
        has_error = bool(scene.errors) and rng.random() < _ERRORS
        given = choose_error(scene, objects, mask, rng) if has_error else None
        example = cut(image, mask, size, rng, given=given)
        if example.mask.any():
            return example
    raise PnaError(
        f"expected scenes with objects of {LEAST_PIXELS} pixels or more, got none in "
        f"{_MOST_DRAWS} draws"
    )


def cut(
    image: UInt8Array,
    mask: BoolArray,
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    given: FloatArray | None = None,
) -> Example:
    """Cut a part of an image around some of a mask, scaled so that the mask fills a share of it.

    Args:
        image: (H, W, 3).
        mask: (H, W).
        size: Of the part.
        rng: Source of place and scale.
        given: (H, W) what a network took for the mask, cut alike.
    """
    H, W = size
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    extent = max(np.ptp(rows) + 1, np.ptp(cols) + 1)
    share = np.exp(rng.uniform(*np.log(_SHARES)))
    scale = np.clip(min(size) * share / extent, 0.3, 2.5)
    # Large enough that the image fills the part, if that is not too large.
    fitting = max(H / mask.shape[0], W / mask.shape[1])
    scale = max(scale, min(fitting, 2.5))
    # A pixel of the mask comes to lie anywhere in the part.
    y, x = np.argwhere(mask)[rng.integers(mask.sum())]
    h, w = H / scale, W / scale
    top = np.clip(y - rng.uniform(0.1, 0.9) * h, 0, max(0, mask.shape[0] - h))
    left = np.clip(x - rng.uniform(0.1, 0.9) * w, 0, max(0, mask.shape[1] - w))
    box = (left, top, min(left + w, mask.shape[1]), min(top + h, mask.shape[0]))
    # Smaller than the part where the image is too small: padded by its edge below.
    target = (
        max(1, round((box[2] - box[0]) * scale)),
        max(1, round((box[3] - box[1]) * scale)),
    )
    part = Image.fromarray(image).resize(target, Image.Resampling.BILINEAR, box)
    # Smoothly, and cut at a half: an enlarged mask keeps smooth outlines.
    soft = Image.fromarray(mask.astype(np.uint8) * 255)
    small = np.asarray(soft.resize(target, Image.Resampling.BILINEAR, box)) >= 128
    missing = ((0, max(0, H - target[1])), (0, max(0, W - target[0])))
    pixels = np.pad(np.asarray(part), (*missing, (0, 0)), mode="edge")[:H, :W]
    inside = np.pad(small, missing, mode="edge")[:H, :W]
    predicted = None
    if given is not None:
        shares = Image.fromarray(given).resize(target, Image.Resampling.BILINEAR, box)
        predicted = np.pad(np.asarray(shares), missing, mode="edge")[:H, :W]
    if rng.random() < 0.5:
        pixels, inside = pixels[:, ::-1], inside[:, ::-1]
        predicted = None if predicted is None else predicted[:, ::-1]
    if predicted is not None:
        predicted = np.ascontiguousarray(predicted)
    return Example(np.ascontiguousarray(pixels), np.ascontiguousarray(inside), predicted)


def cut_part(
    image: UInt8Array, objects: npt.NDArray[np.integer], side: int, rng: np.random.Generator
) -> tuple[UInt8Array, npt.NDArray[np.integer]]:
    """Cut a square part of an image and of its map, at a random scale and mirrored or not."""
    H, W = objects.shape
    scale = max(side / min(H, W), rng.uniform(0.5, 1.2))
    reach = side / scale
    top, left = rng.uniform(0, max(0, H - reach)), rng.uniform(0, max(0, W - reach))
    box = (left, top, min(left + reach, W), min(top + reach, H))
    size = (side, side)
    pixels = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box))
    ids = Image.fromarray(objects.astype(np.int32))
    parts = np.asarray(ids.resize(size, Image.Resampling.NEAREST, box))
    if rng.random() < 0.5:
        pixels, parts = pixels[:, ::-1], parts[:, ::-1]
    return pixels.copy(), parts.copy()
