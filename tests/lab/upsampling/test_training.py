"""Training and probing of the feature upsampler, on drawings."""

import numpy as np
import pytest
import torch
from PIL import Image

from pna.data.folder import Folder
from pna.lab.masks.scenes import find_crisp
from pna.lab.upsampling.probe import ProbeSettings, encode, score_probe, train_probe, upsampled
from pna.lab.upsampling.training import affinity_loss, draw_images, upsampling_losses
from pna.labels import generic
from pna.model.encoder import create_encoder
from pna.model.resize import resize
from pna.refinement.upsampler import FeatureUpsampler


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp("crisp")
    for name in ("images", "masks"):
        (root / name).mkdir()
    (root / "objects").mkdir()
    y, x = np.mgrid[:150, :160]
    for i in range(4):
        mask = ((y - 70) ** 2 + (x - 70 - 5 * i) ** 2 < 40**2).astype(np.uint8)
        image = np.where(mask[..., None] > 0, (220, 200, 40), (20, 40, 60)).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"disk_{i}.png")
        Image.fromarray(mask * 255).save(root / "masks" / f"disk_{i}.png")
    return find_crisp(root, ["disk"])


@pytest.fixture(scope="module")
def encoder():
    return create_encoder("resnet18", weights=None).eval().requires_grad_(False)


def bilinear(images, features, size):
    return resize(features, size)


def test_a_batch_is_images_and_shares(scenes):
    batch = draw_images(scenes, 3, side=64, batch_size=2, seed=0)
    assert batch.images.shape == (2, 3, 64, 64)
    assert torch.equal(batch.objects.sum(1), torch.ones(2, 64, 64))
    again = draw_images(scenes, 3, side=64, batch_size=2, seed=0)
    assert torch.equal(batch.images, again.images)


def test_losses_reach_every_parameter(scenes, encoder):
    torch.manual_seed(0)
    network = FeatureUpsampler()
    batch = draw_images(scenes, 0, side=128, batch_size=2, seed=0)
    losses = upsampling_losses(network, encoder, batch, 1)
    assert losses.keys() == {"features", "affinity"}
    sum(losses.values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("ratio", [4, 8])
def test_the_affinity_loss_prefers_edges_of_the_image(scenes, ratio):
    """Before training the upsampler is a joint bilateral filter, and the disks are flat."""
    torch.manual_seed(0)
    batch = draw_images(scenes, 0, side=128, batch_size=4, seed=0)
    with torch.no_grad():
        ours = affinity_loss(FeatureUpsampler(), batch, ratio)
        assert ours < 0.6 * affinity_loss(bilinear, batch, ratio)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """Images whose class is their brightness."""
    root = tmp_path_factory.mktemp("bright")
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir()
    for i in range(8):
        mask = np.zeros((70, 100), np.uint8)
        top, left = rng.integers(5, 30, 2)
        mask[top : top + 32, left : left + 45] = 1
        image = np.where(mask[..., None] > 0, 230, 25).repeat(3, 2).astype(np.uint8)
        Image.fromarray(image).save(root / "images" / f"{i}.png")
        Image.fromarray(mask).save(root / "masks" / f"{i}.png")
    return Folder(root, labels=generic(2))


def test_a_probe_learns_and_an_upsampler_that_sees_edges_helps(dataset, encoder):
    coarse = list(encode(encoder, dataset, 16))
    assert coarse[0].features.shape == (256, 6, 8)
    assert coarse[0].labels.shape == (96, 128)
    assert (coarse[0].labels[70:] == 255).all()
    torch.manual_seed(0)
    scores = []
    for upsample in (bilinear, FeatureUpsampler().eval().requires_grad_(False)):
        samples = [upsampled(sample, upsample) for sample in coarse]
        assert samples[0].features.shape == (256, 24, 32)
        probe = train_probe(samples, 2, ProbeSettings(epochs=40, batch_size=2, lr=3e-2))
        scores.append(score_probe(probe, samples, 2))
    assert scores[0] > 0.6
    assert scores[1] > scores[0] + 0.03
