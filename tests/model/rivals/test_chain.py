"""Refiners one behind the other, and behind a model that is trained already."""

import pytest
import torch
from torch import nn

import pna
from pna.model.refiner import Refined, Refiner, Scene
from pna.model.rivals.chain import Chain, behind
from pna.model.rivals.dense_crf import DenseCRF


class Add(Refiner):
    """Stages of coarse + step, coarse + 2 step, ..."""

    def __init__(self, step, num_stages=2, trains=True, own_loss=None):
        super().__init__()
        self.step, self.num_stages, self.trains, self.own_loss = step, num_stages, trains, own_loss

    def forward(self, scene):
        if self.training and not self.trains:
            return Refined([], {})
        stages = [scene.coarse + self.step * m for m in range(1, self.num_stages + 1)]
        return Refined(stages, {f"aux {self.step}": scene.coarse})


@pytest.fixture
def scene():
    return Scene(torch.rand(1, 3, 8, 8), [], torch.zeros(1, 2, 4, 4))


@pytest.mark.parametrize(("stop_at", "values"), [(None, [1, 2, 12, 22]), (1, [1]), (3, [1, 2, 12])])
def test_the_second_starts_where_the_first_ends(scene, stop_at, values):
    chain = Chain(Add(1), Add(10))
    assert chain.num_stages == 4
    stages, _ = chain.refine(scene, stop_at=stop_at)
    assert [float(stage[0, 0, 0, 0]) for stage in stages] == values


def test_the_first_may_make_no_stage(scene):
    chain = Chain(Add(1, trains=False), Add(10)).train()
    stages, aux = chain.refine(scene)
    assert [float(stage[0, 0, 0, 0]) for stage in stages] == [10, 20]
    assert set(aux) == {"aux 10"}


def test_losses(scene):
    chain = Chain(Add(1, own_loss="points"), Add(10))
    assert chain.own_loss == "points"
    assert set(chain.refine(scene).aux) == {"aux 1", "aux 10"}
    with pytest.raises(ValueError, match="second refiner without a loss, got 'points'"):
        Chain(Add(10), Add(1, own_loss="points"))
    with pytest.raises(ValueError, match="expected stop_at from 1 to 4, got 5"):
        Chain(Add(1), Add(2)).refine(scene, stop_at=5)


@pytest.fixture(params=["lite-fcn", "lite"])
def model(request):
    torch.manual_seed(0)
    return pna.create_model(request.param, num_classes=3, pretrained=False).eval()


def test_behind_a_trained_model(model):
    picture, own = torch.rand(1, 3, 40, 33), model.num_stages
    model.mean.fill_(0.25)  # as a checkpoint may bring
    refined = behind(model, DenseCRF())
    with torch.inference_mode():
        before, after = model(picture, stages=True), refined(picture, stages=True)
    assert refined.num_stages == own + 1
    assert not refined.training
    for a, b in zip([before.coarse, *before.stages], [after.coarse, *after.stages], strict=False):
        torch.testing.assert_close(a, b)
    assert after.stages[-1].shape == (1, 3, 64, 64)
    scene = Scene(refined._pad(picture), [], [before.coarse, *before.stages][-1])
    (expected,) = DenseCRF().eval().refine(scene).stages
    torch.testing.assert_close(after.stages[-1], expected)
    assert model.num_stages == own  # the model itself is as it was


def test_behind_a_model_with_a_neck():
    """Coarse head and first refiner go on looking at the neck's maps."""
    plain = pna.create_model(
        "fpn-pointrend",
        encoder="resnet18",
        num_classes=3,
        pretrained=False,
        aux=False,
        coarse_channels=8,
    ).eval()
    pictures = torch.rand(1, 3, 32, 64)
    with torch.inference_mode():
        expected = plain(pictures, stages=True)
        output = behind(plain, Add(1, num_stages=1)).eval()(pictures, stages=True)
    torch.testing.assert_close(output.stages[0], expected.stages[0])
    torch.testing.assert_close(output.stages[1], expected.stages[0] + 1)
    assert plain.num_stages == 1


def test_behind_leaves_modes_alone(model):
    model.train()
    model.encoder.eval()  # frozen
    refined = behind(model, DenseCRF())
    assert refined.training
    assert refined.refiner.training
    assert not refined.encoder.training
    assert len(refined(torch.rand(2, 3, 64, 64)).stages) == model.num_stages


def test_a_refined_model_is_not_saved(model, tmp_path):
    with pytest.raises(ValueError, match="no configuration to save"):
        behind(model, DenseCRF()).save_pretrained(tmp_path)


def test_parts_are_shared(model):
    refined = behind(model, DenseCRF())
    shared = {id(p) for p in model.parameters()}
    assert {id(p) for p in refined.parameters()} == shared
    assert isinstance(refined.encoder, nn.Module)
