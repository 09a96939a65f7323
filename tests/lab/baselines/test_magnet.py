"""MagNet: scales, the pixels that are refined, and what trains what."""

import copy

import pytest
import torch

import pna
from pna.lab.baselines import PRESETS
from pna.lab.baselines.magnet import (
    RefinementModule,
    certainty,
    choose_pixels,
    crop_labels,
    hard_cross_entropy,
    median,
)
from pna.lab.baselines.reduced import Box
from pna.labels import IGNORE_INDEX
from pna.model.config import ModelOptions


@pytest.fixture
def model():
    torch.manual_seed(0)
    return pna.create_model(
        "magnet",
        3,
        encoder="resnet18",
        encoder_weights=None,
        options=ModelOptions(coarse_channels=8),
        presets=PRESETS,
    )


def test_patches_of_every_scale_have_the_size_of_the_reduced_image(model):
    sizes = []
    model.encoder.encoder.register_forward_pre_hook(
        lambda _, args: sizes.append(tuple(args[0].shape[-2:]))
    )
    with torch.inference_mode():
        output = model.eval()(torch.rand(1, 3, 128, 256), stages=True)
    assert sizes == [(32, 64)] * (1 + 4 + 16)
    assert [tuple(s.shape[-2:]) for s in output.stages] == [(64, 128), (128, 256)]
    # They are the logarithms of probabilities.
    torch.testing.assert_close(output.stages[1].exp().sum(1), torch.ones(1, 128, 256))


def test_the_module_takes_its_inputs_in_one_order(model):
    """In training and at inference: the coarse prediction first, which knows the whole image."""
    taken = []
    refiner = model.refiner
    refiner.module.register_forward_pre_hook(lambda _, args: taken.append(args))
    images, features = torch.rand(1, 3, 128, 128), []
    coarse = torch.zeros(1, 3, 8, 8)
    coarse[:, 2] = 50  # surely class 2
    refiner.eval()
    model.encoder.encoder.eval()
    model.coarse.eval()
    with torch.inference_mode():
        refiner(features, coarse, images=images)
        refiner.forward_training(features, coarse, images=images)
    first_scale, training = taken[:4], taken[-1:]
    for before, fine in (*first_scale, *training):
        assert before[:, 2].min() > 0.99
        assert fine.max() < 0.9


def test_unsure_pixels_that_are_surely_refined_are_chosen():
    coarse = torch.zeros(1, 2, 40, 40)
    refined = torch.zeros(1, 2, 40, 40)
    coarse[:, 0], coarse[:, 1] = 0.95, 0.05  # sure
    coarse[:, :, :20] = 0.5  # unsure above
    refined[:, 0], refined[:, 1] = 0.1, 0.9  # sure
    refined[:, :, :, :20] = 0.5  # unsure at the left
    chosen = choose_pixels(coarse, refined, (40, 40), 0.25)
    assert int(chosen.sum()) == 400
    assert chosen[0, :20, 20:].float().mean() > 0.9


def test_all_pixels_may_be_chosen():
    coarse, refined = torch.rand(2, 3, 9, 7).softmax(1), torch.rand(2, 3, 9, 7).softmax(1)
    assert choose_pixels(coarse, refined, (3, 3), 1.0).all()


def test_certainty_is_the_lead_of_the_best_class():
    found = certainty(torch.tensor([0.7, 0.1, 0.2]).view(1, 3, 1, 1))
    torch.testing.assert_close(found, torch.tensor([[[0.5]]]))
    assert (certainty(torch.ones(1, 1, 2, 2)) == 1).all()


def test_a_speck_does_not_change_the_median():
    x = torch.zeros(1, 1, 20, 20)
    x[..., 8:11, 8:11] = 1
    assert not median(x).any()
    x[..., 10:, :] = 1
    assert median(x)[0, 0, 15:].all()


def test_the_refinement_does_not_train_the_network(model):
    output = model.train()(torch.rand(2, 3, 128, 128))
    output.aux["merged"].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.encoder.parameters())
    assert all(p.grad is None or not p.grad.any() for p in model.coarse.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.refiner.parameters())


def test_the_patch_and_its_labels_lie_at_one_place(model):
    images = torch.zeros(2, 3, 128, 128)
    labels = torch.zeros(2, 128, 128, dtype=torch.int64)
    images[..., 40:], labels[..., 40:] = 1, 1
    taken = []
    model.encoder.encoder.register_forward_pre_hook(lambda _, args: taken.append(args[0]))
    for seed in range(8):
        torch.manual_seed(seed)
        taken.clear()
        output = model.train()(images)
        patch = taken[-1][0, 0] > 0  # normalized: dark pixels are below 0
        there = crop_labels(labels, Box(*output.aux["box"].tolist()), patch.shape)[0]
        assert (patch != there.bool()).float().mean() < 0.05


def test_the_module_has_the_size_of_the_released_one():
    """0.087 million parameters for 7 classes, batch norm aside."""
    weights = [p for p in RefinementModule(7).parameters() if p.dim() == 4]
    assert sum(p.numel() for p in weights) == 86_784


def test_hard_pixels_count_and_a_quarter_at_least():
    logits = torch.zeros(1, 2, 2, 4)
    logits[:, 0] = 5  # surely class 0
    labels = torch.zeros(1, 2, 4, dtype=torch.int64)
    easy = float(torch.nn.functional.cross_entropy(logits, labels))
    assert float(hard_cross_entropy(logits, labels)) == pytest.approx(easy)
    labels[0, 0, :3] = 1  # three of eight are wrong: those alone count
    assert float(hard_cross_entropy(logits, labels)) == pytest.approx(5 + easy, rel=1e-3)
    assert hard_cross_entropy(logits, torch.full_like(labels, IGNORE_INDEX)) == 0


def test_a_copy_has_its_own_network(model):
    other = copy.deepcopy(model)
    encoder, head = other.refiner._network
    assert encoder is other.encoder.encoder
    assert head is other.coarse
