"""The dense CRF: mean field against sums over all pairs, edges, sizes, and bad parameters."""

import copy

import numpy as np
import pytest
import torch

import pna
from pna.model.counts import count
from pna.model.refiner import Scene
from pna.model.resize import resize
from pna.model.rivals.dense_crf import DenseCRF


def infer(crf, pictures, coarse):
    (stage,) = crf.eval().refine(Scene(pictures, [], coarse)).stages
    return stage


def oracle(pictures, logits, *, iterations, appearance, smoothness):
    """Algorithm 1 with dense (N, N) Gaussians, in float64: (3, H, W), (K, H, W) -> (K, H, W)."""
    K, H, W = logits.shape
    colors = 255 * pictures.double().reshape(3, -1).T.numpy()
    places = np.stack(np.indices((H, W)), -1).reshape(-1, 2).astype(np.float64)

    def gaussian(*scaled):
        features = np.concatenate(scaled, axis=1)
        kernel = np.exp(-((features[:, None] - features[None]) ** 2).sum(-1) / 2)
        norm = kernel.sum(1) ** -0.5
        return norm[:, None] * kernel * norm[None]

    (w1, a, b), (w2, g) = appearance, smoothness
    kernel = w1 * gaussian(places / a, colors / b) + w2 * gaussian(places / g)
    cost = np.ones((K, K)) - np.eye(K)  # Potts, written out
    energy = -logits.double().reshape(K, -1).T.log_softmax(1).numpy()
    q = np.exp(-energy)
    for _ in range(iterations):
        q = np.exp(-energy - kernel @ q @ cost)
        q /= q.sum(1, keepdims=True)
    return torch.from_numpy(q.T.reshape(K, H, W)).float()


def halves(height, width, column):
    """A dark and a bright half that meet at a column, with a little noise: (1, 3, H, W)."""
    picture = torch.full((1, 3, height, width), 0.25)
    picture[..., column:] = 0.75
    noise = torch.rand(picture.shape, generator=torch.Generator().manual_seed(0))
    return picture + 0.01 * (noise - 0.5)


class Dense:
    """The lattice's interface, all pairs summed in float64."""

    def __init__(self, features):
        squares = ((features[:, None] - features[None]).astype(np.float64) ** 2).sum(-1)
        self.kernel = np.exp(-squares / 2)

    def filter(self, values):
        return (self.kernel @ values).astype(np.float32)


def small_case(seed):
    """A CRF that moves a fifth of the labels of a 15x21 picture, and what is expected of it."""
    generator = torch.Generator().manual_seed(seed)
    picture = resize(torch.rand(1, 3, 3, 4, generator=generator), (15, 21))
    logits = resize(2 * torch.randn(1, 4, 5, 6, generator=generator), (15, 21))
    crf = DenseCRF(
        appearance_weight=3.0,
        appearance_distance=5.0,
        appearance_color=60.0,
        smoothness_weight=1.0,
        smoothness_distance=2.0,
        iterations=5,
    )
    options = {"appearance": (3.0, 5.0, 60.0), "smoothness": (1.0, 2.0)}
    expected = oracle(picture[0], logits[0], iterations=5, **options)
    before = logits[0].softmax(0)
    assert (before - expected).abs().mean() > 0.1
    assert 0.7 < (before.argmax(0) == expected.argmax(0)).float().mean() < 0.85
    return crf, picture, logits, expected


def test_mean_field_with_exact_sums_is_exact(monkeypatch):
    monkeypatch.setattr("pna.model.rivals.permutohedral.PermutohedralLattice", Dense)
    crf, picture, logits, expected = small_case(0)
    found = infer(crf, picture, logits)[0].exp()
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


# The lattice's filter is approximate (see its own tests), and the steps carry its error on: a
# probability is off by 0.007 on average and by 0.06 to 0.10 at most, over these seeds; 0.978 to
# 0.990 of the labels agree.
@pytest.mark.parametrize("seed", range(6))
def test_mean_field_on_the_lattice_is_close(seed):
    crf, picture, logits, expected = small_case(seed)
    found = infer(crf, picture, logits)[0].exp()
    assert (found - expected).abs().max() < 0.12
    assert (found - expected).abs().mean() < 0.01
    assert (found.argmax(0) == expected.argmax(0)).float().mean() > 0.97
    sure = expected.amax(0) > 0.6
    assert torch.equal(found.argmax(0)[sure], expected.argmax(0)[sure])


def test_snaps_to_an_edge():
    """A boundary that is blurred and six pixels off moves to where the colours change."""
    picture, labels = halves(48, 64, 30), torch.zeros(48, 64, dtype=torch.long)
    labels[:, 30:] = 1
    ramp = (torch.arange(64.0) - 35.5) / 6
    logits = torch.stack([-ramp, ramp]).reshape(1, 2, 1, 64).expand(1, 2, 48, 64)
    before = (logits[0].argmax(0) == labels).float().mean()
    after = (infer(DenseCRF(), picture, logits)[0].argmax(0) == labels).float().mean()
    assert before == pytest.approx(1 - 6 / 64)
    assert after > 0.999


def test_coarse_logits_are_brought_to_the_picture():
    picture = halves(64, 96, 40)
    coarse = torch.tensor([[2.0, 0, -2.0], [-2.0, 0, 2.0]]).reshape(1, 2, 1, 3).expand(1, 2, 2, 3)
    labels = infer(DenseCRF(), picture, coarse).argmax(1)[0]
    assert (labels[:, :40] == 0).all()
    assert (labels[:, 40:] == 1).all()


def test_a_uniform_picture_keeps_confident_labels():
    labels = torch.zeros(30, 40, dtype=torch.long)
    labels[:, 15:] = 1
    labels[20:] = 2
    logits = 10 * torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1)[None].float()
    found = infer(DenseCRF(), torch.full((1, 3, 30, 40), 0.5), logits)
    assert torch.equal(found.argmax(1)[0], labels)
    assert found.amax(1).exp().min() > 0.5


def test_smoothness_removes_a_speck():
    """One doubtful pixel among others of one colour follows them."""
    logits = torch.zeros(1, 2, 9, 9)
    logits[:, 0] = 2
    logits[:, :, 4, 4] = torch.tensor([0.0, 1.0])
    crf = DenseCRF(appearance_weight=0)
    assert infer(crf, torch.full((1, 3, 9, 9), 0.5), logits).argmax(1).sum() == 0


def test_without_weights_it_is_the_softmax():
    logits = torch.randn(1, 5, 8, 6)
    crf = DenseCRF(appearance_weight=0, smoothness_weight=0, iterations=1)
    torch.testing.assert_close(infer(crf, torch.rand(1, 3, 8, 6), logits), logits.log_softmax(1))


@pytest.mark.parametrize("classes", [1, 21])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5)])
def test_any_size(size, classes):
    pictures, coarse = torch.rand(2, 3, *size), torch.randn(2, classes, 1, 2)
    found = infer(DenseCRF(), pictures, coarse)
    assert found.shape == (2, classes, *size)
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2, *size))
    for n in range(2):  # pictures of a batch do not meet
        alone = infer(DenseCRF(), pictures[n : n + 1], coarse[n : n + 1])
        torch.testing.assert_close(found[n : n + 1], alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype):
    pictures, coarse = torch.rand(1, 3, 8, 8), torch.randn(1, 3, 4, 4)
    found = infer(DenseCRF(), pictures.to(dtype), coarse.to(dtype))
    assert found.dtype == dtype
    expected = infer(DenseCRF(), pictures.to(dtype).float(), coarse.to(dtype).float())
    torch.testing.assert_close(found.float(), expected, atol=0.1, rtol=0.1)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_goes_there_and_back():
    pictures, coarse = torch.rand(1, 3, 16, 16), torch.randn(1, 3, 4, 4)
    found = infer(DenseCRF(), pictures.cuda(), coarse.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), infer(DenseCRF(), pictures, coarse), atol=1e-3, rtol=0)


def test_no_stage_and_no_work_while_training(monkeypatch):
    monkeypatch.setattr("pna.model.rivals.dense_crf._infer", None)
    crf = DenseCRF().train()
    assert crf.refine(Scene(torch.rand(1, 3, 8, 8), [], torch.randn(1, 2, 1, 1))) == ([], {})


def test_no_gradients():
    coarse = torch.randn(1, 2, 4, 4, requires_grad=True)
    assert not infer(DenseCRF(), torch.rand(1, 3, 8, 8), coarse).requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "at least 1 iteration, got iterations=0"),
        ({"appearance_weight": -1.0}, "appearance_weight of at least 0, and finite, got -1.0"),
        ({"smoothness_weight": float("nan")}, "smoothness_weight of at least 0.* got nan"),
        ({"appearance_distance": 0.0}, "appearance_distance above 0, and finite, got 0.0"),
        ({"appearance_color": float("inf")}, "appearance_color above 0, and finite, got inf"),
        ({"smoothness_distance": -3.0}, "smoothness_distance above 0, and finite, got -3.0"),
    ],
)
def test_bad_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        DenseCRF(**options)


def test_bad_scenes():
    pictures, coarse = torch.rand(1, 3, 8, 8), torch.randn(1, 2, 1, 1)
    with pytest.raises(ValueError, match="expected stop_at from 1 to 1, got 2"):
        DenseCRF().eval().refine(Scene(pictures, [], coarse), stop_at=2)
    with pytest.raises(ValueError, match="finite features"):
        infer(DenseCRF(), pictures * torch.nan, coarse)
    with pytest.raises(ValueError, match="widen the Gaussian"):
        infer(DenseCRF(smoothness_distance=1e-9), pictures, coarse)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return pna.create_model(
        "fcn-crf", encoder="resnet18", num_classes=3, pretrained=False, coarse_channels=8, aux=False
    )


class TestPreset:
    def test_trains_as_the_coarse_head_alone(self, model):
        output = model.train()(torch.rand(2, 3, 64, 64))
        assert output.stages == []
        torch.testing.assert_close(output.logits, model.upsample(output.coarse, (64, 64)))
        output.logits.sum().backward()

    def test_infers_at_the_size_of_the_picture(self, model):
        with torch.inference_mode():
            output = model.eval()(torch.rand(1, 3, 41, 33), stages=True)
        assert output.logits.shape == (1, 3, 41, 33)
        assert [tuple(stage.shape) for stage in output.stages] == [(1, 3, 64, 64)]
        sums = output.logits.exp().sum(1)
        torch.testing.assert_close(sums, torch.ones_like(sums))

    def test_saves_and_loads(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = pna.load(tmp_path)
        picture = torch.rand(1, 3, 32, 32)
        with torch.inference_mode():
            torch.testing.assert_close(loaded(picture).logits, model.eval()(picture).logits)

    def test_counts_nothing(self, model):
        (part,) = [part for part in count(model, (64, 64)) if part.part == "refinement"]
        assert (part.parameters, part.macs) == (0, 0)

    @pytest.mark.slow
    def test_compiles(self, model):
        picture = torch.rand(1, 3, 64, 64)
        model = copy.deepcopy(model).eval()
        with torch.inference_mode():
            expected = model(picture).logits
            found = torch.compile(model, fullgraph=True, backend="aot_eager")(picture).logits
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)

    def test_does_not_export(self, model):
        with pytest.raises(Exception, match="export the model without it"):
            torch.export.export(model.eval(), (torch.rand(1, 3, 64, 64),))
