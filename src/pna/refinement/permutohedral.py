"""Gaussian filtering in many dimensions, in time that grows with the points, not their square.

A value is splatted onto the corners of the lattice's simplex around its point, the vertices are
blurred along d + 1 directions, and each point reads the blurred values back. The result
approximates the Gaussian: a kernel of the right integral and variance, whose shape depends a little
on where a point lies in its simplex, and which does not cross gaps that no point's simplex touches.

Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Computer Graphics Forum 29(2), 2010.
"""

import math

import numpy as np
import numpy.typing as npt
import torch

from pna.errors import PnaError
from pna.ops.threads import run_in_threads
from pna.refinement import permutohedral_kernels as kernels
from pna.refinement.arrays import FloatArray

_FARTHEST = 2**24
"""Standard deviations from the origin; float32 is exact to whole ones there, keys to far more."""


class PermutohedralLattice:
    """The lattice around some points; built once, then filters any values at them.

    Args:
        features: (N, d) positions of the points, in standard deviations of the Gaussian: N and d at
            least 1.

    Raises:
        PnaError: The features have another shape, are not finite, or lie too far away.

    Example:
        Two points at one position and one that is far away:

        >>> lattice = PermutohedralLattice(np.array([[0.0, 0.0], [0.0, 0.0], [30.0, 0.0]]))
        >>> ones, sums = np.ones((3, 1), np.float32), np.float32([[1], [3], [5]])
        >>> (lattice.filter(sums) / lattice.filter(ones)).round(3).ravel().tolist()
        [2.0, 2.0, 5.0]
    """

    def __init__(self, features: npt.NDArray[np.floating]) -> None:
        features = np.ascontiguousarray(features, np.float32)
        _check_features(features)
        N, d = features.shape
        self._vertices = np.empty((N, d + 1), np.int32)
        self._weights = np.empty((N, d + 1), np.float32)
        # Room for as many vertices as there can be, d + 1 a point. Neighboring pixels share most
        # of theirs, and the pages of memory that are never touched are never taken.
        keys = np.empty((N * (d + 1) + 1, d), np.int32)
        # A power of two for the mask of the hash, at most half full, so that runs stay short.
        table = np.zeros(1 << (2 * len(keys)).bit_length(), np.int32)
        count = kernels.embed(features, self._vertices, self._weights, keys, table)
        self._neighbors = np.zeros((d + 1, count, 2), np.int32)
        kernels.connect(keys, table, self._neighbors)
        self._factor = np.float32(_gain(d))

    @property
    def num_points(self) -> int:
        """Number of points N."""
        return len(self._vertices)

    def filter(self, values: FloatArray) -> FloatArray:
        """Sum the values of all points, weighted by a Gaussian of their distance.

        Args:
            values: (N, K) float32, K at least 1.

        Returns:
            (N, K) float32, about `sum_j exp(-|f_i - f_j|^2 / 2) * values[j]`, the point itself
            included.

        Raises:
            PnaError: The values have another shape.
        """
        if values.ndim != 2 or len(values) != self.num_points or values.shape[1] < 1:
            raise PnaError(
                f"expected values ({self.num_points}, K), K at least 1, got {values.shape}"
            )
        output = np.empty(values.shape, np.float32)
        workers = min(torch.get_num_threads(), values.shape[1])
        # Threads share the columns, not the points: two points may add to one vertex.
        parts = np.array_split(np.arange(values.shape[1]), workers)

        def work(worker: int) -> None:
            part = slice(parts[worker][0], parts[worker][-1] + 1)
            own = np.ascontiguousarray(values[:, part], np.float32)
            filtered = np.empty_like(own)
            lattice = (self._vertices, self._weights, self._neighbors)
            kernels.splat_blur_slice(*lattice, own, self._factor, filtered)
            output[:, part] = filtered

        run_in_threads(work, workers)
        return output


def _gain(d: int) -> float:
    """Return factor by which the blurred kernel gets the Gaussian's integral, (2 pi)^(d / 2).

    Blurring doubles the sum with each of d + 1 directions; a vertex stands for
    `1.5^(d / 2) / sqrt(d + 1)` of volume, in standard deviations.
    """
    volume = math.pow(1.5, d / 2) / math.sqrt(d + 1)
    return math.pow(2 * math.pi, d / 2) / (math.pow(2, d + 1) * volume)


def _check_features(features: FloatArray) -> None:
    if features.ndim != 2 or 0 in features.shape:
        raise PnaError(f"expected features (N, d), N and d at least 1, got {features.shape}")
    if not np.isfinite(features).all():
        raise PnaError("expected finite features, got NaN or infinity")
    farthest = float(np.abs(features).max())
    if farthest > _FARTHEST:
        raise PnaError(
            f"expected features within {_FARTHEST} standard deviations of 0, got {farthest:.3g}; "
            "widen the Gaussian"
        )
