"""The fully connected conditional random field, for arrays: K classes, no training, no compiler.

Its energy is `sum_i -log p_i(x_i) + sum_{i<j} [x_i != x_j] * k(f_i, f_j)` over the labeling x: the
given probabilities, and for each pair of pixels with different labels a cost that is the higher,
the closer and the more alike the two are,

    k = w1 * exp(-|p_i - p_j|^2 / 2 a^2 - |I_i - I_j|^2 / 2 b^2) + w2 * exp(-|p_i - p_j|^2 / 2 g^2)

for positions p and colors I. Mean-field inference approximates its distribution by one that is
independent for each pixel. A step of it filters the probabilities with both Gaussians, which the
permutohedral lattice does in time linear in the pixels.

Source: Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NeurIPS 2011, equations 1 to 3 and algorithm 1; after a network as in Chen et al.,
"DeepLab", TPAMI 40(4), 2018, section 3.3. Values agree with the authors' C++ code, on which
pydensecrf is built.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pna.errors import PnaError
from pna.refinement.arrays import FloatArray, check_arrays, normalize


def dense_crf(
    image: npt.NDArray[np.uint8],
    probabilities: npt.NDArray[Any],
    *,
    iterations: int = 10,
    appearance_weight: float = 4.0,
    appearance_distance: float = 67.0,
    appearance_color: float = 3.0,
    smoothness_weight: float = 3.0,
    smoothness_distance: float = 1.0,
) -> FloatArray:
    """Sharpen a prediction along the edges of the image, without training.

    The defaults are those of DeepLab with a ResNet-101 on VOC 2012 (section 4.1.1 of its paper
    describes the search). In terms of pydensecrf: `addPairwiseBilateral(sxy=appearance_distance,
    srgb=appearance_color, compat=appearance_weight)` and `addPairwiseGaussian(
    sxy=smoothness_distance, compat=smoothness_weight)`, both with symmetric normalization.

    Args:
        image: (H, W, 3) uint8 RGB.
        probabilities: (K, H, W) floats, at least 0, each pixel's with a positive sum; they are
            normalized. K = 1 gives ones: pass a foreground p as `np.stack([1 - p, p])`.
        iterations: Steps of mean-field inference.
        appearance_weight: w1, for pairs that are close and alike; 0 leaves the term out.
        appearance_distance: a, standard deviation of the positions in pixels.
        appearance_color: b, standard deviation of the colors in gray levels, 0 to 255.
        smoothness_weight: w2, for pairs that are close; 0 leaves the term out.
        smoothness_distance: g, standard deviation of the positions in pixels.

    Returns:
        (K, H, W) float32 probabilities; they sum to 1 over the classes.

    Raises:
        PnaError: Shapes or types do not fit, a value is negative or not finite, or an option is out
            of range.

    Example:
        A boundary that is four pixels off moves to where the colors change.

        >>> import numpy as np
        >>> image = np.zeros((20, 30, 3), np.uint8)
        >>> image[:, 12:] = 200
        >>> right = np.clip((np.arange(30) - 15.5) / 12 + 0.5, 0.01, 0.99)  # 0.5 at column 16
        >>> probabilities = np.broadcast_to(np.stack([1 - right, right])[:, None], (2, 20, 30))
        >>> refined = dense_crf(image, probabilities)
        >>> int((probabilities.argmax(0) == 1)[0].argmax()), int(refined.argmax(0)[0].argmax())
        (16, 12)
    """
    image, given = check_arrays(image, probabilities)
    given = normalize(given)
    if iterations < 1:
        raise PnaError(f"expected at least 1 iteration, got {iterations=}")
    for name, weight in (("appearance", appearance_weight), ("smoothness", smoothness_weight)):
        if not 0 <= weight < math.inf:
            raise PnaError(f"expected {name}_weight of at least 0, and finite, got {weight}")
    for name, width in (
        ("appearance_distance", appearance_distance),
        ("appearance_color", appearance_color),
        ("smoothness_distance", smoothness_distance),
    ):
        if not 0 < width < math.inf:
            raise PnaError(f"expected {name} above 0, and finite, got {width}")

    K, H, W = given.shape
    # x before y, as in the authors' code: the lattice's error depends on the order of the axes.
    y, x = np.indices((H, W), dtype=np.float32)
    positions = np.stack([x, y], axis=-1).reshape(-1, 2)  # (N, 2), N = H * W
    terms = []
    if appearance_weight > 0:
        colors = image.reshape(-1, 3).astype(np.float32)
        features = [positions / appearance_distance, colors / appearance_color]
        terms.append(_Term(np.concatenate(features, axis=1), appearance_weight))  # (N, 5)
    if smoothness_weight > 0:
        terms.append(_Term(positions / smoothness_distance, smoothness_weight))

    # A probability of 0 would forbid a class whatever its neighbors are.
    unary = np.log(np.maximum(given.reshape(K, -1).T, 1e-20))  # (N, K)
    scores = unary
    for _ in range(iterations):
        q = _softmax(scores)  # (N, K)
        # Potts: the cost of different labels is the gain of equal ones, up to a constant of the
        # pixel, which the softmax removes.
        scores = unary + sum(term.message(q) for term in terms)
    return np.ascontiguousarray(_softmax(scores).T).reshape(K, H, W)


class _Term:
    """One Gaussian of the energy, with symmetric normalization.

    A message is `w * D^(-1/2) G D^(-1/2) q`, D the row sums of G, so pixels of common and of rare
    colors have the same influence. G includes the pixel itself, as in the authors' code; the
    paper's sum leaves it out.

    Args:
        features: (N, d) in standard deviations.
        weight: Of the term.
    """

    def __init__(self, features: FloatArray, weight: float) -> None:
        from pna.refinement.permutohedral import PermutohedralLattice  # compiles, so only when used

        self._lattice = PermutohedralLattice(features)
        sums = self._lattice.filter(np.ones((len(features), 1), np.float32))  # D: (N, 1)
        self._norm: FloatArray = np.reciprocal(np.sqrt(sums))
        self._weight = np.float32(weight)

    def message(self, q: FloatArray) -> FloatArray:
        """Filter probabilities (N, K) with the normalized Gaussian."""
        normalized: FloatArray = self._norm * q
        message: FloatArray = self._weight * self._norm * self._lattice.filter(normalized)
        return message


def _softmax(scores: FloatArray) -> FloatArray:
    # Less the maximum: exp overflows float32 beyond 88.
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: FloatArray = exponents / exponents.sum(axis=1, keepdims=True)
    return shares
