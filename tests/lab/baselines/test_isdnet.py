"""ISDNet: the pyramid of details, the relations, and what each loss compares."""

import pytest
import torch

import pna
from pna.lab.baselines import PRESETS
from pna.lab.baselines.isdnet import (
    ISDNet,
    RelationalFusion,
    STDCBlock,
    laplacian,
    rebuild,
    relations,
    two_details,
)
from pna.lab.baselines.reduced import Normalize
from pna.model.config import ModelOptions

RGB = Normalize((0.5,) * 3, (0.25,) * 3)


def test_details_rebuild_the_image():
    images = torch.rand(2, 3, 32, 48)
    pyramid = laplacian(images)
    assert [tuple(x.shape[-2:]) for x in pyramid] == [(32, 48), (16, 24), (8, 12)]
    torch.testing.assert_close(rebuild(pyramid), images)


def test_a_plain_image_has_no_details():
    assert two_details(torch.full((1, 3, 32, 32), 0.7)).abs().max() < 1e-6


def test_details_are_where_the_image_changes():
    images = torch.zeros(1, 3, 64, 64)
    images[..., 32:] = 1
    strength = two_details(images).abs().sum((0, 1, 2))
    assert strength[24:40].sum() > 0.95 * strength.sum()


def test_equal_features_have_equal_relations():
    x = torch.randn(2, 8, 4, 5)
    torch.testing.assert_close(relations(x), relations(3 * x))  # cosines
    found = relations(x)
    assert found.shape == (2, 20, 20)
    torch.testing.assert_close(found.diagonal(dim1=1, dim2=2), torch.ones(2, 20))
    loss = ISDNet((8, 16), 3, normalize=RGB).losses(
        {
            "context1": torch.zeros(2, 3, 4, 4),
            "context2": torch.zeros(2, 3, 8, 8),
            "details": torch.zeros(2, 3, 16, 16),
            "relations": relations(x) - relations(x),
        },
        torch.zeros(2, 64, 64, dtype=torch.int64),
    )
    assert loss["relations"] == 0
    assert loss["details"] == 0
    torch.testing.assert_close(loss["contexts"], 2 * torch.tensor(3.0).log())


def test_a_block_joins_ever_fewer_channels():
    for stride in (1, 2):
        block = STDCBlock(8, 32, stride=stride).eval()
        with torch.no_grad():
            assert block(torch.randn(1, 8, 16, 24)).shape == (1, 32, 16 // stride, 24 // stride)
    assert [block.first[0].out_channels, block.third[0].out_channels] == [16, 4]


def test_affinity_begins_without_a_say():
    """Its factor is learned from 0."""
    torch.manual_seed(0)
    fusion = RelationalFusion(12, 16, 32).eval()
    shallow, deep = torch.randn(1, 12, 8, 8), torch.randn(1, 16, 4, 4)
    with torch.no_grad():
        before, _ = fusion(shallow, deep)
        for parameter in fusion.relations.parameters():
            parameter.normal_()
        torch.testing.assert_close(fusion(shallow, deep)[0], before)
        fusion.gammas.fill_(1)
        assert not torch.allclose(fusion(shallow, deep)[0], before)


def test_the_deep_network_sees_a_quarter_of_each_side():
    model = pna.create_model(
        "isdnet",
        3,
        encoder_weights=None,
        options=ModelOptions(coarse_channels=16),
        presets=PRESETS,
    ).eval()
    seen = []
    model.encoder.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape))
    with torch.inference_mode():
        output = model(torch.rand(1, 3, 128, 192), stages=True)
    assert seen == [(1, 3, 32, 48)]
    assert output.coarse.shape[-2:] == (4, 6)  # stride 32
    assert output.stages[0].shape[-2:] == (16, 24)  # stride 8


def test_the_reconstruction_is_no_pupil_of_the_deep_map():
    """Where relations are compared the reconstruction is fixed: it alone gets no gradient of it."""
    model = ISDNet((8, 16), 3, normalize=RGB).train()
    features = [torch.randn(2, 8, 4, 4), torch.randn(2, 16, 2, 3, requires_grad=True)]
    images = torch.rand(2, 3, 64, 96)
    output = model.forward_training(features, torch.zeros(2, 3, 2, 3), images=images)
    output.aux["relations"].abs().sum().backward()
    assert features[1].grad.abs().sum() > 0
    assert all(p.grad is None or not p.grad.any() for p in model.reconstruct.parameters())


def test_details_are_those_of_normalized_images():
    torch.manual_seed(0)
    wide, narrow = (
        ISDNet((8, 16), 3, normalize=Normalize((0.5,) * 3, (std,) * 3)).train()
        for std in (1.0, 0.1)
    )
    narrow.load_state_dict(wide.state_dict())
    for model in (wide, narrow):  # nothing is reconstructed: what is left are the image's details
        torch.nn.init.zeros_(model.to_details.weight)
        torch.nn.init.zeros_(model.to_details.bias)
    features, coarse = [torch.rand(2, 8, 16, 16), torch.rand(2, 16, 4, 4)], torch.rand(2, 3, 4, 4)
    images = torch.rand(2, 3, 128, 128)
    found = [
        model.forward_training(features, coarse, images=images).aux["details"]
        for model in (wide, narrow)
    ]
    torch.testing.assert_close(found[1], 10 * found[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [1, 100])
def test_a_width_that_is_not_cut_into_groups_is_refused(width):
    options = ModelOptions(coarse_channels=width)
    with pytest.raises(pna.PnaError, match=f"takes a multiple of 16 coarse_channels, got {width}"):
        pna.create_model("isdnet", 3, encoder_weights=None, options=options, presets=PRESETS)
