import pytest
import torch
from torch.nn import functional as F

from pna.errors import PnaError
from pna.inference import upsample as module
from pna.inference.upsample import upsample
from pna.refinement.upsampler import FeatureUpsampler


@pytest.fixture
def network(monkeypatch):
    """An upsampler at random, in place of the bundled one."""
    torch.manual_seed(0)
    network = FeatureUpsampler().eval()
    for parameter in network.gather.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    monkeypatch.setattr(module, "bundled_upsampler", lambda device: network)
    return network


def test_gradients_after_a_first_call_in_inference_mode():
    module.bundled_upsampler.cache_clear()
    images, features = torch.rand(1, 3, 32, 32), torch.rand(1, 2, 4, 4, requires_grad=True)
    with torch.inference_mode():
        upsample(images, features)
    upsample(images, features).sum().backward()
    # Weights sum to 1, so the gradients add up to the number of results.
    assert features.grad.sum().item() == pytest.approx(2 * 32 * 32, rel=1e-4)


def two_halves(H, W):
    """A dark and a bright half, with a boundary inside of a coarse cell."""
    image = torch.full((1, 3, H, W), 0.1)
    image[..., W // 2 + 3 :] = 0.9
    return image


@pytest.mark.parametrize("size", [(64, 96), (16, 24), (5, 7), (4, 6), (150, 100)])
@pytest.mark.parametrize("channels", [1, 3, 130])
@pytest.mark.usefixtures("network")
def test_weights_sum_to_1_at_any_ratio(size, channels):
    torch.manual_seed(1)
    images = torch.rand(2, 3, 64, 96)
    out = upsample(images, torch.ones(2, channels, 4, 6), size)
    assert out.shape == (2, channels, *size)
    torch.testing.assert_close(out, torch.ones_like(out), atol=1e-5, rtol=0)
    features = torch.randn(2, channels, 4, 6)
    out = upsample(images, features, size)
    assert out.max() <= features.max() + 1e-5
    assert out.min() >= features.min() - 1e-5


@pytest.mark.usefixtures("network")
def test_it_is_linear_in_the_features():
    images, (a, b) = torch.rand(1, 3, 40, 52), torch.randn(2, 1, 9, 10, 13)
    whole = upsample(images, 2 * a - 3 * b)
    torch.testing.assert_close(
        whole, 2 * upsample(images, a) - 3 * upsample(images, b), atol=1e-4, rtol=1e-4
    )
    assert whole.shape == (1, 9, 40, 52)


def test_untrained_it_follows_the_colors():
    """Before training it is a joint bilateral filter: the edge is the image's, not the cells'."""
    torch.manual_seed(0)
    network = FeatureUpsampler().eval()
    images = two_halves(32, 64)
    truth = (images[:, :1] > 0.5).float()
    coarse = F.avg_pool2d(truth, 8)
    with torch.no_grad():
        ours = network(images, coarse, (32, 64))
    bilinear = F.interpolate(coarse, size=(32, 64), mode="bilinear")
    errors = [(x - truth).abs().mean().item() for x in (ours, bilinear)]
    assert errors[0] < 0.5 * errors[1]


@pytest.mark.usefixtures("network")
def test_gradients_reach_the_features():
    features = torch.randn(1, 5, 4, 6, requires_grad=True)
    upsample(torch.rand(1, 3, 64, 96), features).sum().backward()
    # Each feature is used with weights that sum to the number of output cells.
    torch.testing.assert_close(features.grad.sum(), torch.tensor(5.0 * 64 * 96), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.usefixtures("network")
def test_the_type_is_that_of_the_features(dtype):
    features = torch.randn(1, 5, 4, 6)
    out = upsample(torch.rand(1, 3, 64, 96, generator=torch.Generator()), features.to(dtype))
    assert out.dtype == dtype


IMAGES, FEATURES = torch.full((2, 3, 64, 96), 0.5), torch.zeros(2, 5, 4, 6)


@pytest.mark.parametrize(
    ("images", "features", "size", "message"),
    [
        (IMAGES[0], FEATURES, None, r"expected images \(B, 3, H, W\), got \(3, 64, 96\)"),
        (IMAGES.byte(), FEATURES, None, "in floating point, got torch.uint8"),
        (IMAGES, FEATURES.flatten(2), None, r"features \(B, C, h, w\), got \(2, 5, 24\)"),
        (IMAGES, FEATURES[:1], None, "expected one batch size, got 2 images and 1 maps"),
        (IMAGES * 255, FEATURES, None, r"in \[0, 1\], got values in \[128, 128\]: divide"),
        (IMAGES * torch.nan, FEATURES, None, r"expected images in \[0, 1\]"),
        (IMAGES, FEATURES, (3, 6), r"expected a size of at least \(4, 6\).*got \(3, 6\)"),
        (IMAGES, FEATURES.mT, None, "expected features that span their images of 64x96, got 6x4"),
    ],
)
@pytest.mark.usefixtures("network")
def test_what_does_not_fit_is_refused(images, features, size, message):
    with pytest.raises(PnaError, match=message):
        upsample(images, features, size)
