"""GLNet: maps are shared at the same place, and gradients stop where a network is fixed."""

import copy

import pytest
import torch

import pna
from pna.lab.baselines import PRESETS
from pna.lab.baselines.glnet import FOCUS, SharingPyramid, focal_loss
from pna.labels import IGNORE_INDEX
from pna.model.config import ModelOptions


@pytest.fixture
def model():
    torch.manual_seed(0)
    return pna.create_model(
        "glnet-thirds",
        3,
        encoder="resnet18",
        encoder_weights=None,
        options=ModelOptions(coarse_channels=8),
        presets=PRESETS,
    )


@pytest.fixture
def seen(model):
    """What the local pyramid takes of the global one and the other way, patch by patch."""
    found = {"local": [], "global": []}
    for name, pyramid in (
        ("local", model.refiner.local_pyramid),
        ("global", model.refiner.global_pyramid),
    ):
        pyramid.register_forward_pre_hook(lambda _, args, name=name: found[name].append(args))
    return found


def test_the_whole_image_is_seen_reduced_and_in_patches(model):
    sizes = []
    for encoder in (model.encoder.encoder, model.refiner.local):
        encoder.register_forward_pre_hook(lambda _, args: sizes.append(tuple(args[0].shape[-2:])))
    with torch.inference_mode():
        output = model.eval()(torch.rand(1, 3, 192, 288), stages=True)
    assert sizes[0] == (64, 96)
    assert sizes[1:] == [(64, 96)] * 16  # a tenth of a patch at least is its neighbor's, too
    assert output.stages[0].shape[-2:] == (48, 72)


def test_maps_are_shared_at_the_same_place(model, seen):
    """A map that says where it is, on both ways."""
    columns = (torch.arange(288.0) + 0.5) / 288
    place = columns.expand(1, 1, 192, 288)

    def say_where(encoder, x):
        sizes = [(x.shape[-2] // s, x.shape[-1] // s) for s in (4, 8, 16, 32)]
        return [
            torch.nn.functional.adaptive_avg_pool2d(x[:, :1], size).expand(-1, width, -1, -1)
            for size, width in zip(sizes, encoder.channels, strict=True)
        ]

    refiner = model.eval().refiner
    refiner.normalize.mean.zero_()
    refiner.normalize.std.fill_(1)
    refiner.local.register_forward_hook(lambda module, args, _: say_where(module, args[0]))
    with torch.inference_mode():
        reduced = torch.nn.functional.avg_pool2d(place, 3)
        features = say_where(model.encoder, reduced)
        refiner(features, torch.zeros(1, 3, 16, 24), images=place.expand(-1, 3, -1, -1))
    for levels, others in seen["local"]:
        # The global map's part at the patch, resized: the same ramp but for its ends.
        mine, theirs = levels[0][0, 0, 0], others[0][0][0, 0, 0]
        torch.testing.assert_close(mine, theirs, atol=0.02, rtol=0)
    ((levels, others),) = seen["global"]
    torch.testing.assert_close(levels[0], others[0][0], atol=0.02, rtol=0)


def test_the_local_network_does_not_train_the_global_one(model, seen):
    model.train()
    output = model(torch.rand(2, 3, 96, 96))
    output.aux["local"].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.encoder.parameters())
    assert all(p.grad is None or not p.grad.any() for p in model.coarse.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.refiner.local.parameters())


def test_the_global_network_does_not_train_the_local_one(model):
    model.train()
    output = model(torch.rand(2, 3, 96, 96))
    output.aux["global"].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.refiner.local.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.encoder.parameters())


def test_both_encoders_train_at_the_encoders_rate(model):
    names = model.encoder_parameters()
    assert any(name.startswith("refiner.local.") for name in names)
    assert any(name.startswith("encoder.") for name in names)
    assert not any("pyramid" in name for name in names)


def test_a_copy_takes_its_own_global_network(model):
    """The weights that are averaged in training are a copy."""
    other = copy.deepcopy(model)
    (alone,) = other.refiner._alone
    assert alone is other.coarse.pyramid


def test_shared_layers_take_twice_the_channels():
    alone = SharingPyramid((8, 16), 3, channels=12, is_shared=False)
    shared = SharingPyramid((8, 16), 3, channels=12, is_shared=True)
    for name in ("laterals", "first", "second"):
        for one, two in zip(getattr(alone, name), getattr(shared, name), strict=True):
            assert two.in_channels == 2 * one.in_channels
            assert two.out_channels == one.out_channels


def test_the_focal_loss_by_hand():
    logits = torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]])  # (1, 2, 1, 2)
    labels = torch.tensor([[[0, 0, 1, 1], [0, 0, 1, 1]]])
    p = torch.stack([torch.tensor(2.0).sigmoid(), torch.tensor(1.0).sigmoid()])
    expected = (-((1 - p) ** FOCUS) * p.log()).mean()
    torch.testing.assert_close(focal_loss(logits, labels), expected)
    labels[..., 2:] = IGNORE_INDEX
    torch.testing.assert_close(focal_loss(logits, labels), -((1 - p[0]) ** FOCUS) * p[0].log())
    assert focal_loss(logits, torch.full((1, 2, 4), IGNORE_INDEX)) == 0
