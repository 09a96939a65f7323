"""Smoothing of probabilities over frames, and the flicker that it is to remove.

Let I be the colors of a frame in levels of 0 to 255, p its probabilities and q the smoothed ones.
For each pixel x of frame t, with y in the 5x5 pixels around x that lie in the frame,

    d(x)^2 = mean over y and the channels of (I_t(y) - I_{t-1}(y))^2
    w(x) = share * exp(-d(x)^2 / (2 * 10^2))
    q_t(x) = (1 - w(x)) p_t(x) + w(x) q_{t-1}(x),    q_0 = p_0

Where nothing moves this is an exponential average with the weight `share` of the past. Where
something moves the color changes, and the past is left behind: d = 30 leaves 1 % of its weight.
Colors are compared over a window, as in non-local means (Buades et al., CVPR 2005): a single pixel
of another object often has the same color by chance, and would keep a speckle of the past. An
object that moves over a background of its own color still ghosts.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from pna.data.images import UInt8Array

FloatArray = npt.NDArray[np.float32]

SIGMA = 10.0
"""Levels of 255: above the noise of a compressed video, below the contrast of most outlines."""

WINDOW = 5
"""Side in pixels of the window over which colors are compared; odd."""

STEADY = 8
"""Largest difference in any channel, in levels of 255, of a color that hardly changes."""


def past_weight(image: UInt8Array, before: UInt8Array, share: float) -> FloatArray:
    """Return the weight w of the past.

    Args:
        image: (H, W, 3) uint8 RGB.
        before: The frame before it, likewise.
        share: Weight where the color has not changed, in [0, 1).

    Returns:
        (H, W) float32 in [0, share].

    Example:
        >>> still, moved = np.zeros((1, 1, 3), np.uint8), np.full((1, 1, 3), 30, np.uint8)
        >>> past_weight(still, still, 0.8).round(3), past_weight(moved, still, 0.8).round(3)
        (array([[0.8]], dtype=float32), array([[0.009]], dtype=float32))
    """
    difference = image.astype(np.float32) - before  # (H, W, 3)
    squared = torch.from_numpy(np.einsum("hwc,hwc->hw", difference, difference) / 3)
    mean = F.avg_pool2d(squared[None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[0]
    weight: FloatArray = (share * torch.exp(mean / (-2 * SIGMA**2))).numpy()
    return weight


def is_steady(image: UInt8Array, before: UInt8Array) -> npt.NDArray[np.bool_]:
    """Return where (H, W) the color hardly changes between two frames (H, W, 3) uint8."""
    difference = np.maximum(image, before) - np.minimum(image, before)  # bytes do not go below 0
    steady: npt.NDArray[np.bool_] = difference.max(axis=2) <= STEADY
    return steady


class Smoother:
    """Smoothed label maps of a video, frame after frame.

    Holds the probabilities and the colors of one frame, 4 K + 3 bytes a pixel.

    Args:
        share: Weight of the past where the color has not changed, in [0, 1).
    """

    def __init__(self, share: float) -> None:
        self._share = share
        self._before: UInt8Array | None = None
        self._past: FloatArray

    def __call__(self, image: UInt8Array, scores: FloatArray) -> UInt8Array:
        """Return the labels (H, W) of the next frame.

        Args:
            image: (H, W, 3) uint8 RGB.
            scores: (K, H, W) float32 probabilities; overwritten by the smoothed ones.
        """
        if self._before is not None:
            weight = past_weight(image, self._before, self._share)
            # One class at a time: no third array of K H W numbers.
            for new, old in zip(scores, self._past, strict=True):
                new += weight * (old - new)
        self._before, self._past = image, scores
        labels: UInt8Array = scores.argmax(axis=0).astype(np.uint8)
        return labels


@dataclass
class Flicker:
    """Counts pixels whose class changes although their color hardly does.

    Attributes:
        changed: Pixels with another class than in the frame before, of the steady ones.
        steady: Pixels whose color hardly changes between two frames, over all pairs of frames.
    """

    changed: int = 0
    steady: int = 0

    def add(self, labels: UInt8Array, before: UInt8Array, steady: npt.NDArray[np.bool_]) -> None:
        """Count a pair of label maps (H, W), and where (H, W) the color hardly changes."""
        self.changed += int(np.count_nonzero((labels != before) & steady))
        self.steady += int(np.count_nonzero(steady))

    @property
    def share(self) -> float:
        """Share of the steady pixels that change their class; 0 where there is none."""
        return self.changed / max(1, self.steady)
