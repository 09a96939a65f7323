"""The rules that make a label map coarse: all boundaries move together, the result is a label map.

Like `rules`: a rule draws its choices from a generator and returns a function of the labels and a
strength. Strengths are relative to the mean width of the segments. Label maps hold no ignored
pixels here.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pna.lab.masks import outlines
from pna.lab.masks.fields import bounds, draw_seed, perimeter, smooth_noise, through_grid
from pna.lab.masks.segments import Labels, cut_into_segments, fill_unknown

LabelCoarsening = Callable[[Labels, float], Labels]
"""Maps labels of at least two classes (H, W) and a strength to labels (H, W)."""

LabelRule = Callable[[np.random.Generator], LabelCoarsening]


def downsample(rng: np.random.Generator) -> LabelCoarsening:
    """Shares of the classes on a coarse grid, resized back bilinearly: the largest one wins."""
    phase = rng.random(), rng.random()

    def coarsen(labels: Labels, strength: float) -> Labels:
        cell = max(1.0, min(_reach(labels, strength), max(labels.shape) / 6))
        best = np.full(labels.shape, -1, np.float32)
        result = labels.copy()
        for label in np.unique(labels):  # one at a time: a map of 171 classes would not fit at once
            share = through_grid(labels == label, cell, phase)
            result[share > best] = label
            np.maximum(best, share, out=best)
        return result

    return coarsen


def warp(rng: np.random.Generator) -> LabelCoarsening:
    """Labels moved by a smooth random displacement."""
    num_cells = int(rng.integers(3, 17))
    seed = draw_seed(rng)

    def coarsen(labels: Labels, strength: float) -> Labels:
        noise = np.random.default_rng(seed)
        H, W = labels.shape
        distance = np.float32(_reach(labels, strength))
        rows = distance * smooth_noise((H, W), num_cells, noise) + np.arange(H)[:, None]
        columns = distance * smooth_noise((H, W), num_cells, noise) + np.arange(W)
        return labels[_whole(rows, H), _whole(columns, W)]

    return coarsen


def polygons(rng: np.random.Generator) -> LabelCoarsening:
    """Each class as polygons of few vertices, painted in random order; gaps take what is near."""
    order = rng.random(256)
    seed = draw_seed(rng)
    carelessness = rng.uniform(0, 0.3)

    def coarsen(labels: Labels, strength: float) -> Labels:
        tolerance = _reach(labels, strength)
        choice = np.random.default_rng(seed)
        # Beyond the border of the map the outlines go on: corners there must not be cut.
        margin = int(tolerance) + 2
        padded = np.pad(labels, margin, mode="edge")
        painted, is_painted = padded.copy(), np.zeros(padded.shape, bool)
        for label in sorted(np.unique(labels), key=lambda label: order[label]):
            is_label = padded == label
            window = bounds(is_label)
            loops = outlines.simplify(outlines.trace(is_label[window]), tolerance)
            loops = outlines.jitter(loops, carelessness * tolerance, choice)
            inside = outlines.fill(loops, is_label[window].shape)
            painted[window][inside] = label
            is_painted[window] |= inside
        return fill_unknown(painted, ~is_painted)[margin:-margin, margin:-margin]

    return coarsen


def wrong_neighbors(rng: np.random.Generator) -> LabelCoarsening:
    """Some segments, cut into pieces, take the class of a neighbor."""
    num_cuts = int(rng.integers(4, 25))
    seed = draw_seed(rng)

    def coarsen(labels: Labels, strength: float) -> Labels:
        choice = np.random.default_rng(seed)
        segments = cut_into_segments(labels, num_cuts, choice)
        wanted = strength / 8 * labels.size
        taken = np.array(segments.labels)
        to = segments.neighbors(choice)
        for segment in choice.permutation(len(to)):
            area = segments.areas[segment]
            if to[segment] >= 0 and area <= wanted:
                wanted -= area
                taken[segment] = to[segment]
        return taken[segments.ids]

    return coarsen


def small_lost(rng: np.random.Generator) -> LabelCoarsening:
    """Small segments are lost: what surrounds them takes their place."""
    share = rng.uniform(0.5, 1.0)
    seed = draw_seed(rng)

    def coarsen(labels: Labels, strength: float) -> Labels:
        segments = cut_into_segments(labels, 1, np.random.default_rng(seed))
        is_small = segments.areas < _reach(labels, strength) ** 2
        is_lost = is_small & (np.random.default_rng(seed).random(len(is_small)) < share)
        return fill_unknown(labels, is_lost[segments.ids])

    return coarsen


LABEL_RULES: dict[str, LabelRule] = {
    "downsample": downsample,
    "warp": warp,
    "polygons": polygons,
    "wrong_neighbors": wrong_neighbors,
    "small_lost": small_lost,
}


def _reach(labels: Labels, strength: float) -> float:
    """Return a strength in pixels: mean widths of the segments, at most half of the map."""
    width = float(labels.size) / perimeter(labels)
    return min(strength * width, float(max(labels.shape)) / 2)


def _whole(coordinates: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.int64]:
    """Round coordinates to pixels; outside the map the border continues."""
    return np.rint(coordinates).astype(np.int64).clip(0, size - 1)
