"""`pna.refine`: the bundled network in one call."""

import numpy as np
import pytest
import torch
from PIL import Image

import pna
from pna.errors import MissingFileError, PnaError
from pna.inference.masks import refine_mask
from pna.inference.refine import bundled_mask_refiner, load_mask_refiner
from pna.refinement.masks import RefineConfig
from pna.refinement.network import create_mask_refiner


@pytest.fixture(scope="module")
def scene():
    """A gray disk on dark, noisy ground, and a mask of it that is 4 pixels off."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:160, :200]
    truth = (y - 80) ** 2 + (x - 95) ** 2 < 45**2
    image = np.where(truth[..., None], (180, 120, 90), (60, 70, 80)) + rng.normal(
        0, 6, (160, 200, 3)
    )
    return image.clip(0, 255).astype(np.uint8), truth, np.roll(truth, (3, 3), (0, 1))


def test_a_shifted_mask_comes_nearer(scene):
    image, truth, mask = scene
    refined = pna.refine(image, mask, strength=1)
    assert refined.dtype == bool
    assert (refined != truth).sum() < 0.4 * (mask != truth).sum()


def test_a_right_mask_stays(scene):
    image, truth, _ = scene
    assert (pna.refine(image, truth) != truth).mean() < 0.002


@pytest.mark.parametrize("kind", ["path", "bytes", "pillow"])
def test_images_of_other_forms(scene, kind, tmp_path):
    image, _, mask = scene
    file = tmp_path / "photo.png"
    Image.fromarray(image).save(file)
    given = {"path": file, "bytes": file.read_bytes(), "pillow": Image.fromarray(image)}[kind]
    np.testing.assert_array_equal(pna.refine(given, mask), pna.refine(image, mask))


def test_settings_reach_the_refinement(scene):
    image, _, mask = scene
    labels = np.where(mask, 3, 1).astype(np.uint8)
    labels[:20] = 2
    np.testing.assert_array_equal(pna.refine(image, labels, strength=0), labels)
    np.testing.assert_array_equal(pna.refine(image, labels, radius=0), labels)
    np.testing.assert_array_equal(pna.refine(image, labels, classes=[2])[40:], labels[40:])
    config = RefineConfig(strength=0.9, radius=2)
    np.testing.assert_array_equal(
        pna.refine(image, labels, strength=0.9, radius=2),
        refine_mask(bundled_mask_refiner(torch.device("cpu")), image, labels, config).mask,
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strength": 2}, r"expected a strength in \[0, 1\], got 2"),
        ({"device": "cuda:99"}, "no device 'cuda:99' here"),
        ({"mask": np.zeros((20, 20), bool)}, r"expected a mask \(160, 200\)"),
        ({"mask": torch.zeros(160, 200)}, r"expected an array of numpy, got Tensor: .*numpy\(\)"),
        ({"mask": None}, "expected an array of numpy, got NoneType"),
        ({"image": "none.jpg"}, "none.jpg"),
    ],
)
def test_bad_input(scene, given, message):
    values = {"image": scene[0], "mask": scene[2], **given}
    with pytest.raises(PnaError, match=message):
        pna.refine(values.pop("image"), values.pop("mask"), **values)


def test_weights_are_read_from_a_file(tmp_path):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    network = create_mask_refiner(encoder_weights=None)
    network.temperature.fill_(1.5)
    file = tmp_path / "model.safetensors"
    save_file(network.state_dict(), file)
    loaded = load_mask_refiner(file)
    assert not loaded.training
    assert all(map(torch.equal, loaded.state_dict().values(), network.state_dict().values()))
    save_file({"temperature": torch.ones(())}, file)
    with pytest.raises(PnaError, match=r"model\.safetensors does not fit MaskRefiner"):
        load_mask_refiner(file)


def test_weights_that_are_none(tmp_path):
    file = tmp_path / "model.safetensors"
    with pytest.raises(MissingFileError, match=r"no weights at .*model\.safetensors"):
        load_mask_refiner(file)
    file.write_bytes(b"no weights, but a text")
    with pytest.raises(PnaError, match=r"model\.safetensors: expected a file of safetensors"):
        load_mask_refiner(file)
