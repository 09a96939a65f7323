"""The dense CRF: the authors' values, mean field against sums over all pairs, edges, bad input."""

import numpy as np
import pytest

import pna
from pna.errors import PnaError
from pna.refinement.dense_crf import dense_crf


def made_case(height, width, classes):
    """An image and probabilities of whole numbers, so that they can be made again anywhere."""
    y, x = np.indices((height, width))
    red = (37 * x + 22 * y) % 64 + 120 * (x > width // 2)
    green = (53 * y + 7 * x) % 64 + 90 * (y > height // 3)
    image = np.stack([red, green, (5 * x * y + 34) % 128], axis=-1).astype(np.uint8)
    shares = [1 + (3 * x + 5 * y + 7 * k * k + x * y * (k + 1)) % 11 for k in range(classes)]
    probabilities = np.stack(shares).astype(np.float64)
    return image, probabilities / probabilities.sum(0)


# Probabilities by the authors' C++ code (the one in pydensecrf 1.0rc3, compiled with g++ 12): unary
# energy -log p, `addPairwiseGaussian` and `addPairwiseBilateral` with Potts compatibility, 5
# iterations, weights 3 and 1, widths 5 pixels, 20 gray levels and 2 pixels. (Where the number of
# pixels is no multiple of 4, that code adds up to three points to the lattice.)
AUTHORS_SMALL = [
    [
        [0.08705, 0.44664, 0.81981, 0.76996, 0.03802, 0.04068],
        [0.96377, 0.91741, 0.77003, 0.50181, 0.41867, 0.08129],
        [0.81267, 0.71141, 0.40748, 0.16405, 0.26323, 0.06845],
        [0.24204, 0.78308, 0.62724, 0.03926, 0.91111, 0.02105],
    ],
    [
        [0.50481, 0.28968, 0.10712, 0.12259, 0.25534, 0.0072],
        [0.02468, 0.04147, 0.07099, 0.19396, 0.37684, 0.12901],
        [0.1184, 0.13287, 0.55705, 0.40543, 0.03027, 0.48461],
        [0.01855, 0.20555, 0.31548, 0.86512, 0.0423, 0.02],
    ],
    [
        [0.40814, 0.26368, 0.07307, 0.10745, 0.70664, 0.95213],
        [0.01155, 0.04111, 0.15898, 0.30423, 0.20449, 0.7897],
        [0.06893, 0.15571, 0.03547, 0.43052, 0.7065, 0.44694],
        [0.7394, 0.01138, 0.05728, 0.09562, 0.04659, 0.95895],
    ],
]
# The same code with the default options, 20x30 pixels and 4 classes: sums over the pixels, and the
# pixels of every 7th row from 3 and every 9th column from 4.
AUTHORS_SUMS = [216.43348, 86.5137, 127.00214, 170.05067]
AUTHORS_SOME = [
    [[0.00718, 0.00983, 0.00855], [0.01617, 0.99284, 0.99078], [0.00308, 0.0095, 0.97686]],
    [[0.00645, 0.01098, 0.00084], [0.01156, 0.00421, 0.00255], [0.01287, 0.00302, 0.00614]],
    [[0.00817, 0.00277, 0.98859], [0.00739, 0.00109, 0.00147], [0.97849, 0.00303, 0.00624]],
    [[0.97819, 0.97642, 0.00202], [0.96487, 0.00186, 0.0052], [0.00556, 0.98446, 0.01077]],
]


def test_values_are_those_of_the_authors_code():
    image, probabilities = made_case(4, 6, 3)
    found = dense_crf(
        image,
        probabilities,
        iterations=5,
        appearance_weight=3,
        appearance_distance=5,
        appearance_color=20,
        smoothness_weight=1,
        smoothness_distance=2,
    )
    assert np.abs(found - probabilities).mean() > 0.1
    np.testing.assert_allclose(found, AUTHORS_SMALL, atol=1e-5)


def test_values_with_default_options_are_those_of_the_authors_code():
    image, probabilities = made_case(20, 30, 4)
    found = dense_crf(image, probabilities)
    np.testing.assert_allclose(found.sum((1, 2)), AUTHORS_SUMS, atol=5e-3)
    np.testing.assert_allclose(found[:, 3::7, 4::9], AUTHORS_SOME, atol=1e-4)


def oracle(image, probabilities, *, iterations, appearance, smoothness):
    """Algorithm 1 with dense (N, N) Gaussians, in float64."""
    K, H, W = probabilities.shape
    colors = image.reshape(-1, 3).astype(np.float64)
    positions = np.stack(np.indices((H, W)), -1).reshape(-1, 2).astype(np.float64)

    def gaussian(*scaled):
        features = np.concatenate(scaled, axis=1)
        kernel = np.exp(-((features[:, None] - features[None]) ** 2).sum(-1) / 2)
        norm = kernel.sum(1) ** -0.5
        return norm[:, None] * kernel * norm[None]

    (w1, a, b), (w2, g) = appearance, smoothness
    kernel = w1 * gaussian(positions / a, colors / b) + w2 * gaussian(positions / g)
    cost = np.ones((K, K)) - np.eye(K)  # Potts, written out
    energy = -np.log(probabilities.reshape(K, -1).T)
    q = np.exp(-energy)
    for _ in range(iterations):
        q = np.exp(-energy - kernel @ q @ cost)
        q /= q.sum(1, keepdims=True)
    return q.T.reshape(K, H, W)


def smooth(rng, channels, grid, size):
    """Random values (channels, H, W), bilinear between the points of a coarse grid."""
    from PIL import Image

    coarse = rng.random((channels, *grid)).astype(np.float32)
    resized = [Image.fromarray(c).resize(size[::-1], Image.Resampling.BILINEAR) for c in coarse]
    return np.stack([np.asarray(one) for one in resized])


def softmax(logits):
    exponents = np.exp(logits - logits.max(0))
    return exponents / exponents.sum(0)


SMALL = {
    "iterations": 5,
    "appearance_weight": 3.0,
    "appearance_distance": 5.0,
    "appearance_color": 60.0,
    "smoothness_weight": 1.0,
    "smoothness_distance": 2.0,
}


def small_case(seed):
    """A CRF that moves a good part of the labels of a 15x21 image, and the oracle's result."""
    rng = np.random.default_rng(seed)
    image = np.rint(255 * smooth(rng, 3, (3, 4), (15, 21))).transpose(1, 2, 0).astype(np.uint8)
    probabilities = softmax(6 * smooth(rng, 4, (5, 6), (15, 21)))
    expected = oracle(
        image, probabilities, iterations=5, appearance=(3.0, 5.0, 60.0), smoothness=(1.0, 2.0)
    )
    assert np.abs(probabilities - expected).mean() > 0.1
    return image, probabilities, expected


class Dense:
    """The lattice's interface, all pairs summed in float64."""

    def __init__(self, features):
        squares = ((features[:, None] - features[None]).astype(np.float64) ** 2).sum(-1)
        self.kernel = np.exp(-squares / 2)

    def filter(self, values):
        return (self.kernel @ values).astype(np.float32)


def test_mean_field_with_exact_sums_is_exact(monkeypatch):
    monkeypatch.setattr("pna.refinement.permutohedral.PermutohedralLattice", Dense)
    image, probabilities, expected = small_case(0)
    np.testing.assert_allclose(dense_crf(image, probabilities, **SMALL), expected, atol=1e-4)


# The lattice's filter is approximate (see its own tests), and the steps carry its error on: a
# probability is off by 0.006 to 0.010 on average and by 0.07 to 0.12 at most, over these seeds.
@pytest.mark.parametrize("seed", range(6))
def test_mean_field_on_the_lattice_is_close(seed):
    image, probabilities, expected = small_case(seed)
    found = dense_crf(image, probabilities, **SMALL)
    assert np.abs(found - expected).max() < 0.12
    assert np.abs(found - expected).mean() < 0.01
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.97
    sure = expected.max(0) > 0.6
    assert np.array_equal(found.argmax(0)[sure], expected.argmax(0)[sure])


def halves(height, width, column):
    """A dark and a bright half that meet at a column, with a little noise."""
    noise = np.random.default_rng(0).integers(-1, 2, (height, width, 3))
    bright = np.where(np.arange(width) < column, 64, 191)[None, :, None]
    return (bright + noise).astype(np.uint8)


def test_snaps_to_an_edge():
    """A boundary that is blurred and six pixels off moves to where the colors change."""
    labels = np.zeros((48, 64), dtype=np.int64)
    labels[:, 30:] = 1
    ramp = (np.arange(64.0) - 35.5) / 6
    probabilities = np.broadcast_to(softmax(np.stack([-ramp, ramp]))[:, None], (2, 48, 64))
    found = dense_crf(halves(48, 64, 30), probabilities)
    assert (probabilities.argmax(0) == labels).mean() == pytest.approx(1 - 6 / 64)
    assert (found.argmax(0) == labels).mean() > 0.999


def test_a_uniform_image_keeps_confident_labels():
    labels = np.zeros((30, 40), dtype=np.int64)
    labels[:, 15:] = 1
    labels[20:] = 2
    probabilities = softmax(10.0 * (labels == np.arange(3)[:, None, None]))
    found = dense_crf(np.full((30, 40, 3), 128, np.uint8), probabilities)
    assert np.array_equal(found.argmax(0), labels)
    assert found.max(0).min() > 0.5


def test_smoothness_removes_a_speck():
    """One doubtful pixel among others of one color follows them."""
    logits = np.zeros((2, 9, 9))
    logits[0] = 2
    logits[:, 4, 4] = (0, 1)
    image = np.full((9, 9, 3), 128, np.uint8)
    assert dense_crf(image, softmax(logits), appearance_weight=0).argmax(0).sum() == 0


def test_without_weights_the_probabilities_stay():
    image, probabilities = made_case(8, 6, 5)
    found = dense_crf(image, 3 * probabilities, appearance_weight=0, smoothness_weight=0)
    np.testing.assert_allclose(found, probabilities, rtol=1e-5)


@pytest.mark.parametrize("classes", [1, 2, 21])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5)])
def test_any_size(size, classes):
    image, probabilities = made_case(*size, classes)
    found = dense_crf(image, probabilities)
    assert (found.shape, found.dtype) == ((classes, *size), np.float32)
    np.testing.assert_allclose(found.sum(0), np.ones(size), rtol=1e-5)


def test_arguments_are_left_as_they_were():
    image, probabilities = made_case(7, 5, 3)
    before = image.copy(), probabilities.copy()
    pna.dense_crf(image, probabilities)
    assert np.array_equal(image, before[0])
    assert np.array_equal(probabilities, before[1])


def test_zeros_are_probabilities():
    labels = np.zeros((6, 8), dtype=np.int64)
    labels[:, 4:] = 1
    one_hot = (labels == np.arange(2)[:, None, None]).astype(np.float16)
    found = dense_crf(halves(6, 8, 4), one_hot)
    assert np.isfinite(found).all()
    assert np.array_equal(found.argmax(0), labels)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "expected at least 1 iteration, got iterations=0"),
        ({"appearance_weight": -1.0}, "expected appearance_weight of at least 0, .* got -1.0"),
        ({"smoothness_weight": float("nan")}, "expected smoothness_weight of at least 0.* got nan"),
        ({"appearance_distance": 0.0}, "expected appearance_distance above 0, .* got 0.0"),
        ({"appearance_color": float("inf")}, "expected appearance_color above 0, .* got inf"),
        ({"smoothness_distance": -3.0}, "expected smoothness_distance above 0, .* got -3.0"),
        ({"smoothness_distance": 1e-9}, "expected features within .*; widen the Gaussian"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(PnaError, match=rf"^{message}"):
        dense_crf(*made_case(8, 8, 2), **options)


@pytest.mark.parametrize(
    ("image", "probabilities", "message"),
    [
        (
            np.zeros((4, 5), np.uint8),
            np.ones((2, 4, 5)),
            r"an image \(H, W, 3\) uint8, got \(4, 5\)",
        ),
        (np.zeros((4, 5, 3)), np.ones((2, 4, 5)), r"an image \(H, W, 3\) uint8, got .* float64"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((2, 5, 4)), r"probabilities \(K, 4, 5\) at the"),
        (np.zeros((4, 5, 3), np.uint8), np.ones((4, 5)), r"probabilities \(K, 4, 5\) at the size"),
        (
            np.zeros((4, 5, 3), np.uint8),
            np.ones((2, 4, 5), int),
            "probabilities as floats, got int",
        ),
        (
            np.zeros((1, 1, 3), np.uint8),
            np.array([[[-1.5]], [[2.0]]]),
            r"probabilities of at least 0 .* got values in \[-1.5, 2\]; take the softmax",
        ),
        (
            np.zeros((1, 1, 3), np.uint8),
            np.zeros((2, 1, 1)),
            "probabilities of at least 0 with a po",
        ),
        (np.zeros((1, 1, 3), np.uint8), np.full((2, 1, 1), np.nan), "probabilities of at least 0"),
    ],
)
def test_bad_arrays(image, probabilities, message):
    with pytest.raises(PnaError, match=rf"^expected {message}"):
        dense_crf(image, probabilities)
