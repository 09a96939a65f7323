"""The rules that make a mask coarse.

A rule draws its choices (where, which side, soft or cut) from a generator and returns a function of
the mask and a strength. Strengths are relative to the mean width of the foreground, and one choice
acts alike at every resolution, so the strength for a given IoU can be searched on a small copy
(`strength`).
"""

import io
import math
from collections.abc import Callable

import numpy as np
from PIL import Image

from pna.lab.masks import outlines
from pna.lab.masks.fields import (
    BoolArray,
    FloatArray,
    blur,
    bounds,
    distance_to,
    draw_seed,
    extent,
    has_boundary,
    mean_width,
    resize,
    shrink,
    signed_distance,
    smooth_noise,
    through_grid,
)

Coarsening = Callable[[BoolArray, float], FloatArray]
"""Maps a mask with a boundary (H, W) and a strength to foreground probabilities (H, W)."""

Rule = Callable[[np.random.Generator], Coarsening]


def downsample(rng: np.random.Generator) -> Coarsening:
    """Averages of areas, resized back bilinearly: a network that predicts on a coarse grid."""
    phase = rng.random(), rng.random()
    is_soft = rng.random() < 0.5
    contrast = math.exp(rng.uniform(-0.2, 1.2))  # factor of the logits

    def coarsen(mask: BoolArray, strength: float) -> FloatArray:
        coarse = through_grid(mask, _cell(mask, strength, fewest=6), phase)
        return _raise_contrast(coarse, contrast) if is_soft else _cut(coarse)

    return coarsen


def morphology(rng: np.random.Generator) -> Coarsening:
    """Dilation and erosion with a radius that varies smoothly: here too large, there too small."""
    num_cells = int(rng.integers(2, 9))
    bias = rng.normal(0, 0.4)  # loose or tight on the whole
    seed = draw_seed(rng)
    soften = _softening(rng)

    def coarsen(mask: BoolArray, strength: float) -> FloatArray:
        largest = 0.1 * extent(mask)
        noise = smooth_noise(mask.shape, num_cells, np.random.default_rng(seed)) + bias
        radius = np.clip(noise * _reach(mask, strength), -largest, largest)
        distance = signed_distance(mask, float(np.abs(radius).max()))
        return soften(distance + radius > 0)

    return coarsen


def polygon(rng: np.random.Generator) -> Coarsening:
    """The outline as a polygon of few vertices, set a little carelessly: a person in a hurry."""
    carelessness = rng.uniform(0, 0.5)
    seed = draw_seed(rng)

    def coarsen(mask: BoolArray, strength: float) -> FloatArray:
        tolerance = _reach(mask, strength)
        # Beyond the border of the image the outline goes on: corners there must not be cut.
        margin = math.ceil(tolerance) + 1
        loops = outlines.simplify(outlines.trace(np.pad(mask, margin, mode="edge")), tolerance)
        loops = outlines.jitter(loops, carelessness * tolerance, np.random.default_rng(seed))
        filled = outlines.fill(loops, (mask.shape[0] + 2 * margin, mask.shape[1] + 2 * margin))
        return filled[margin:-margin, margin:-margin].astype(np.float32)

    return coarsen


def blobs(rng: np.random.Generator) -> Coarsening:
    """Smooth blobs added near the object and bitten out of it: confused with its surroundings."""
    number = int(rng.integers(1, 9))
    is_bite = rng.random(number) < 0.5
    sizes = np.exp(rng.normal(0, 0.5, number))
    sizes /= math.sqrt(np.square(sizes).sum())
    places = rng.random(number)  # along the boundary
    offsets = rng.normal(0, 0.7, (number, 2))  # from the boundary, in radii
    shapes = [outlines.blob(rng) for _ in range(number)]  # of radius 1
    # A network is often unsure of such parts: they stay gray, on the wrong side of 0.5, and fade.
    is_unsure = rng.random() < 0.6
    confidences = rng.uniform(0.55, 1.0, number) if is_unsure else np.ones(number)
    fading = rng.uniform(0.05, 0.4) if is_unsure else 0.0  # in radii
    soften = _softening(rng)

    def coarsen(mask: BoolArray, strength: float) -> FloatArray:
        radius = 2 * _reach(mask, strength)
        boundary = np.concatenate(outlines.trace(mask))
        added, bitten = np.zeros((2, *mask.shape), np.float32)
        for blob in range(number):
            size = sizes[blob] * radius
            at = boundary[int(places[blob] * len(boundary))] + offsets[blob] * size
            inside = outlines.fill([at + size * shapes[blob]], mask.shape)
            field = bitten if is_bite[blob] else added
            field[inside] = np.maximum(field[inside], np.float32(confidences[blob]))
        if fading > 0:
            # The narrowest blob bounds the blur: it would sink below 0.5.
            sigma = fading * sizes.min() * radius
            added, bitten = blur(added, sigma), blur(bitten, sigma)
        return soften(np.minimum(np.maximum(mask, added), 1 - bitten))

    return coarsen


def thin(rng: np.random.Generator) -> Coarsening:
    """Thin parts lost, everywhere or in places: an opening; then some dilation or erosion."""
    num_cells = int(rng.integers(2, 5))
    is_everywhere = rng.random() < 0.5
    growth = rng.uniform(-0.25, 0.25)  # of the radius
    seed = draw_seed(rng)
    soften = _softening(rng)

    def coarsen(mask: BoolArray, strength: float) -> FloatArray:
        radius = _reach(mask, strength)
        eroded = distance_to(~mask, radius) > radius
        opened = distance_to(eroded, radius) <= radius
        if not is_everywhere:
            noise = smooth_noise(mask.shape, num_cells, np.random.default_rng(seed))
            opened |= mask & (noise > 0)
        if growth > 0:
            return soften(distance_to(opened, growth * radius) <= growth * radius)
        return soften(distance_to(~opened, -growth * radius) > -growth * radius)

    return coarsen


def shift(rng: np.random.Generator) -> Coarsening:
    """Moved by some pixels, slightly scaled and rotated: a mask of the frame before."""
    direction = rng.uniform(0, 2 * math.pi)
    by_shift, by_scale, by_angle = rng.dirichlet((2, 1, 1)) * rng.choice((-1, 1), 3)
    soften = _softening(rng)

    def coarsen(mask: BoolArray, strength: float) -> FloatArray:
        distance = _reach(mask, strength)
        radius = max(extent(mask) / 2, 1.0)
        # Scale and angle move the ends of the object by their share of the distance.
        scale = math.exp(by_scale * min(distance / radius, 0.5))
        angle = by_angle * min(distance / radius, 0.5)
        rows, columns = bounds(mask)
        y, x = (rows.start + rows.stop) / 2, (columns.start + columns.stop) / 2
        margin = math.ceil(3 * distance) + 1
        matrix = np.array([(math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))])
        matrix /= scale
        to = np.array([math.cos(direction), math.sin(direction)]) * by_shift * distance
        # Pillow wants the map from the new (x, y) to the old: center, turn, and back.
        center = np.array([x + margin, y + margin])
        rest = center - matrix @ (center + to)
        coefficients = (*matrix[0], rest[0], *matrix[1], rest[1])
        padded = Image.fromarray(np.pad(mask, margin, mode="edge").astype(np.uint8))
        moved = padded.transform(padded.size, Image.Transform.AFFINE, coefficients)
        return soften(np.array(moved)[margin:-margin, margin:-margin] > 0)

    return coarsen


def jpeg(rng: np.random.Generator) -> Coarsening:
    """A small mask, saved as a JPEG of low quality: ringing, blocks, gray."""
    quality = int(rng.integers(4, 40))
    is_small = rng.random() < 0.5  # saved small, or at full size
    is_cut = rng.random() < 0.5

    def coarsen(mask: BoolArray, strength: float) -> FloatArray:
        small = shrink(mask, _cell(mask, strength, fewest=10))
        if is_small:
            coarse = resize(_as_jpeg(small, quality), mask.shape)
        else:
            coarse = _as_jpeg(resize(small, mask.shape), quality)
        return _cut(coarse) if is_cut else coarse

    return coarsen


def smooth(rng: np.random.Generator) -> Coarsening:
    """Gaussian blur, soft or cut: corners rounded, gaps closed, thin parts lost."""
    is_soft = rng.random() < 0.5
    contrast = math.exp(rng.uniform(0.3, 1.8))
    threshold = rng.uniform(0.35, 0.65)

    def coarsen(mask: BoolArray, strength: float) -> FloatArray:
        # A wider Gaussian leaves a fog in which nothing is seen.
        coarse = blur(mask, min(_reach(mask, strength), extent(mask) / 5))
        coarse = _raise_contrast(coarse, contrast, threshold)
        return coarse if is_soft else _cut(coarse)

    return coarsen


RULES: dict[str, Rule] = {
    "downsample": downsample,
    "morphology": morphology,
    "polygon": polygon,
    "blobs": blobs,
    "thin": thin,
    "shift": shift,
    "jpeg": jpeg,
    "smooth": smooth,
}


def _reach(mask: BoolArray, strength: float) -> float:
    """Return a strength in pixels. Farther than the object is long, nothing is left to change."""
    return min(strength * mean_width(mask), float(extent(mask)))


def _cell(mask: BoolArray, strength: float, fewest: int) -> float:
    """Return the pixels per cell of a coarse grid, with at least some cells along the object."""
    return max(1.0, min(_reach(mask, strength), extent(mask) / fewest))


def _as_jpeg(probabilities: FloatArray, quality: int) -> FloatArray:
    gray = (probabilities * 255 + 0.5).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(gray).save(file, "JPEG", quality=quality)
    with Image.open(file) as image:
        return np.asarray(image, dtype=np.float32) / np.float32(255)


def _cut(probabilities: FloatArray) -> FloatArray:
    return (probabilities > 0.5).astype(np.float32)


def _raise_contrast(probabilities: FloatArray, factor: float, threshold: float = 0.5) -> FloatArray:
    """Multiply the logits by a factor, after a shift that takes the threshold to 0.5."""
    foreground = np.power((1 - threshold) * probabilities, np.float32(factor))
    background = np.power(threshold * (1 - probabilities), np.float32(factor))
    raised: FloatArray = foreground / (foreground + background)
    return raised


def _softening(rng: np.random.Generator) -> Callable[[BoolArray | FloatArray], FloatArray]:
    """Return a function that blurs edges a little, or, half of the time, leaves them hard."""
    share = rng.uniform(0.002, 0.02) if rng.random() < 0.5 else 0.0

    def soften(coarse: BoolArray | FloatArray) -> FloatArray:
        foreground = coarse > 0.5
        if share == 0 or not has_boundary(foreground):
            return coarse.astype(np.float32)
        # A third of the width: a thin line would sink below 0.5.
        return blur(coarse, min(share * max(coarse.shape), mean_width(foreground) / 3))

    return soften
