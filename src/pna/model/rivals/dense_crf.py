"""The fully connected conditional random field: every pixel talks to every other one.

Its energy is `sum_i -log p_i(x_i) + sum_{i<j} [x_i != x_j] * k(f_i, f_j)` over the labelling x: the
network's own probabilities, and for each pair of pixels with unlike labels a cost that is the
higher, the closer and the more alike the two are,

    k = w1 * exp(-|p_i - p_j|^2 / 2 a^2 - |I_i - I_j|^2 / 2 b^2) + w2 * exp(-|p_i - p_j|^2 / 2 g^2)

for places p and colours I. Mean-field inference approximates its distribution by one that is
independent for each pixel; a step of it filters the probabilities with both Gaussians, which the
permutohedral lattice does in time that grows with the pixels. Nothing is trained.

Source: Krähenbühl, Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NeurIPS 2011, equations 1 to 3 and algorithm 1; behind a network as in Chen et al.,
"DeepLab", TPAMI 40(4), 2018, section 3.3.
"""

import math

import numpy as np
import torch
from torch import Tensor

from pna.model.refiner import Refined, Refiner, Scene
from pna.model.resize import resize


class DenseCRF(Refiner):
    """Sharpens a prediction along the picture's edges, without training.

    The defaults are those that DeepLab with a ResNet-101 is run with on VOC 2012: w1 = 4, a = 67,
    b = 3, w2 = 3, g = 1, ten iterations (its paper, section 4.1.1, gives how they were searched).

    Distances are in pixels and colours in grey levels, 0 to 255, as in the papers. It computes on
    the CPU wherever the model is, and gives no gradients; while training it makes no stage.

    Args:
        iterations: Steps of mean-field inference.
        appearance_weight: w1, for pixels that are close and alike.
        appearance_distance: a, in pixels.
        appearance_color: b, in grey levels.
        smoothness_weight: w2, for pixels that are close.
        smoothness_distance: g, in pixels.

    Raises:
        ValueError: There are no iterations, a weight is negative, or a width not positive.
    """

    def __init__(
        self,
        *,
        iterations: int = 10,
        appearance_weight: float = 4.0,
        appearance_distance: float = 67.0,
        appearance_color: float = 3.0,
        smoothness_weight: float = 3.0,
        smoothness_distance: float = 1.0,
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"expected at least 1 iteration, got {iterations=}")
        _check_weight("appearance_weight", appearance_weight)
        _check_width("appearance_distance", appearance_distance)
        _check_width("appearance_color", appearance_color)
        _check_weight("smoothness_weight", smoothness_weight)
        _check_width("smoothness_distance", smoothness_distance)
        self.iterations = iterations
        self.appearance = [appearance_weight, appearance_distance, appearance_color]
        self.smoothness = [smoothness_weight, smoothness_distance]

    def forward(self, scene: Scene) -> Refined:
        """Infer: log-probabilities of the padded pictures' size, as one stage."""
        if self.training:
            return Refined([], {})
        if torch.compiler.is_exporting():
            raise ValueError(
                "the dense CRF is compiled by numba, so an exported graph can't hold it; export "
                "the model without it"
            )
        logits = resize(scene.coarse.detach(), scene.pictures.shape[-2:])
        options = (self.appearance, self.smoothness, self.iterations)
        return Refined([_infer(logits, scene.pictures.detach(), *options)], {})

    def extra_repr(self) -> str:
        """Its numbers, in the order of the energy."""
        return (
            f"iterations={self.iterations}, appearance={self.appearance}, "
            f"smoothness={self.smoothness}"
        )


# An operator of its own, so that compiling and counting take it as one opaque step.
@torch.library.custom_op("pna::dense_crf", mutates_args=())
def _infer(
    logits: Tensor,
    pictures: Tensor,
    appearance: list[float],
    smoothness: list[float],
    iterations: int,
) -> Tensor:
    found = torch.empty_like(logits, memory_format=torch.contiguous_format)
    for n, picture in enumerate(pictures.float().cpu()):
        terms = _terms(picture, appearance, smoothness)
        found[n] = _mean_field(logits[n].float().cpu(), terms, iterations)
    return found


@_infer.register_fake
def _(logits: Tensor, *_: object) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


class _Term:
    """One Gaussian of the energy, with symmetric normalisation.

    A message is `w * D^(-1/2) G D^(-1/2) q`, D the row sums of G: pixels of common colours and
    those of rare ones are heard alike. G holds the pixel itself too, as in the authors' code; the
    paper's sum leaves it out.

    Args:
        features: (N, d) in standard deviations.
        weight: Of the term.
    """

    def __init__(self, features: Tensor, weight: float) -> None:
        from pna.model.rivals.permutohedral import PermutohedralLattice

        self._lattice = PermutohedralLattice(features.numpy())
        sums = self._lattice.filter(np.ones((len(features), 1), np.float32))
        self._norm = torch.from_numpy(sums).rsqrt()
        self._weight = weight

    def message(self, q: Tensor) -> Tensor:
        """What all pixels tell each one: (N, K) probabilities -> (N, K)."""
        filtered = self._lattice.filter((self._norm * q).numpy())
        return self._weight * self._norm * torch.from_numpy(filtered)


def _terms(picture: Tensor, appearance: list[float], smoothness: list[float]) -> list[_Term]:
    """Appearance and smoothness for a picture (3, H, W); a term of weight 0 is left out."""
    height, width = picture.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns], dim=-1).reshape(-1, 2).float()
    colors = 255 * picture.permute(1, 2, 0).reshape(-1, 3)
    (w1, a, b), (w2, g) = appearance, smoothness
    terms = []
    if w1 > 0:
        terms.append(_Term(torch.cat([places / a, colors / b], dim=1), w1))
    if w2 > 0:
        terms.append(_Term(places / g, w2))
    return terms


def _mean_field(logits: Tensor, terms: list[_Term], iterations: int) -> Tensor:
    """Log-probabilities (K, H, W) of the CRF whose unary terms are those of logits (K, H, W)."""
    unary = logits.flatten(1).T.log_softmax(dim=1)  # (N, K)
    scores = unary
    for _ in range(iterations):
        q = scores.softmax(dim=1)
        # Potts: what unlike labels cost is what like ones gain, up to a constant of the pixel.
        scores = unary + sum(term.message(q) for term in terms)
    return scores.log_softmax(dim=1).T.reshape(logits.shape)


def _check_weight(name: str, value: float) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"expected {name} of at least 0, and finite, got {value}")


def _check_width(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"expected {name} above 0, and finite, got {value}")
