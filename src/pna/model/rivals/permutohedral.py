"""Gaussian filtering in many dimensions, in time that grows with the points, not their square.

A value is splatted onto the corners of the lattice's simplex around its point, the vertices are
blurred along d + 1 directions, and each point reads back what is there. The result approximates
the Gaussian: a kernel of the right integral and variance, whose shape depends a little on where a
point lies in its simplex, and which does not cross gaps that no point's simplex touches.

Source: Adams, Baek, Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
Computer Graphics Forum 29(2), 2010.
"""

import math

import numpy as np
import numpy.typing as npt
import torch

from pna.model.rivals import permutohedral_kernels as kernels
from pna.ops.threads import run_in_threads

FloatArray = npt.NDArray[np.float32]

_FARTHEST = 2**24
"""Standard deviations from the origin; float32 is exact to whole ones there, keys to far more."""


class PermutohedralLattice:
    """The lattice around some points; built once, then filters any values at them.

    Args:
        features: (N, d) places of the points, in standard deviations of the Gaussian: N and d at
            least 1.

    Raises:
        ValueError: The features have another shape, are not finite, or lie too far away.
    """

    def __init__(self, features: npt.NDArray[np.floating]) -> None:
        features = np.ascontiguousarray(features, np.float32)
        _check_features(features)
        N, d = features.shape
        self._vertices = np.empty((N, d + 1), np.int32)
        self._weights = np.empty((N, d + 1), np.float32)
        # As many vertices as there can be; pages that are never touched take no memory.
        keys = np.empty((N * (d + 1) + 1, d), np.int32)
        table = np.zeros(1 << (2 * len(keys)).bit_length(), np.int32)
        count = kernels.embed(features, self._vertices, self._weights, keys, table)
        self._neighbours = np.zeros((d + 1, count, 2), np.int32)
        kernels.connect(keys, table, self._neighbours)
        self._factor = np.float32(_gain(d))

    @property
    def num_points(self) -> int:
        """Number of points N."""
        return len(self._vertices)

    @property
    def num_vertices(self) -> int:
        """Vertices that hold something: the work of blurring grows with them."""
        return int(self._neighbours.shape[1]) - 1

    def filter(self, values: FloatArray) -> FloatArray:
        """Sum the values of all points, weighted by a Gaussian of their distance.

        Args:
            values: (N, K) float32, K at least 1.

        Returns:
            (N, K) float32, about `sum_j exp(-|f_i - f_j|^2 / 2) * values[j]`, the point itself
            included.

        Raises:
            ValueError: The values have another shape.
        """
        if values.ndim != 2 or len(values) != self.num_points or values.shape[1] < 1:
            raise ValueError(
                f"expected values ({self.num_points}, K), K at least 1, got {values.shape}"
            )
        output = np.empty(values.shape, np.float32)
        workers = min(torch.get_num_threads(), values.shape[1])
        parts = np.array_split(np.arange(values.shape[1]), workers)

        def work(worker: int) -> None:  # some of the columns, so that no two write to one place
            part = slice(parts[worker][0], parts[worker][-1] + 1)
            own = np.ascontiguousarray(values[:, part], np.float32)
            found = np.empty_like(own)
            lattice = (self._vertices, self._weights, self._neighbours)
            kernels.splat_blur_slice(*lattice, own, self._factor, found)
            output[:, part] = found

        run_in_threads(work, workers)
        return output


def _gain(d: int) -> float:
    """What gives the blurred kernel the Gaussian's integral, (2 pi)^(d / 2).

    Blurring doubles the sum with each of d + 1 directions; a vertex stands for
    `1.5^(d / 2) / sqrt(d + 1)` of volume, in standard deviations.
    """
    volume = math.pow(1.5, d / 2) / math.sqrt(d + 1)
    return math.pow(2 * math.pi, d / 2) / (math.pow(2, d + 1) * volume)


def _check_features(features: FloatArray) -> None:
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"expected features (N, d), N and d at least 1, got {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError("expected finite features, got NaN or infinity")
    farthest = float(np.abs(features).max())
    if farthest > _FARTHEST:
        raise ValueError(
            f"expected features within {_FARTHEST} standard deviations of 0, got {farthest:.3g}; "
            "widen the Gaussian"
        )
