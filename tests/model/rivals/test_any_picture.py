"""PointRend and EBLNet as parts of a model: any size, any number of classes, saved and read."""

import pytest
import torch

import pna
from pna.labels import IGNORE_INDEX, generic
from pna.model.config import ModelConfig
from pna.model.counts import count
from pna.model.presets import build
from pna.train.losses import segmentation_loss
from pna.train.own_losses import find_own_losses
from pna.train.recipe import LossSection

MODELS = {
    "fpn-pointrend": ModelConfig(
        "resnet18", "fpn", coarse_channels=8, aux=False, rival="pointrend"
    ),
    "fcn-pointrend": ModelConfig("resnet18", coarse_channels=8, aux=False, rival="pointrend"),
    "eblnet": ModelConfig("resnet18", "deeplabv3", coarse_channels=8, aux=False, rival="eblnet"),
}
NUM_STAGES = {"fpn-pointrend": 1, "fcn-pointrend": 1, "eblnet": 3}


def small(name, num_classes=3):
    torch.manual_seed(0)
    return build(MODELS[name], generic(num_classes))


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


def loss_of(model, picture, labels):
    output = model(picture)
    own = find_own_losses(model)
    return segmentation_loss(output, labels, model.upsample, LossSection(), own=own)


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (255, 257)])
def test_any_size_comes_back_and_trains(name, size):
    model = small(name).eval()
    picture = torch.rand(1, 3, *size)
    with torch.inference_mode():
        output = model(picture, stages=True)
    assert output.logits.shape == (1, 3, *size)
    assert len(output.stages) == NUM_STAGES[name] == model.num_stages
    assert output.logits.isfinite().all()
    total, parts = loss_of(model.train(), picture.repeat(2, 1, 1, 1), torch.ones(2, *size).long())
    total.backward()
    assert all(part.isfinite() for part in parts.values())


@pytest.mark.parametrize("num_classes", [1, 2, 21])
def test_any_number_of_classes(name, num_classes):
    model = small(name, num_classes)
    picture, labels = torch.rand(2, 3, 40, 33), torch.randint(num_classes, (2, 40, 33))
    total, _ = loss_of(model.train(), picture, labels)
    total.backward()
    assert total.isfinite()
    with torch.inference_mode():
        assert model.eval()(picture).logits.shape == (2, num_classes, 40, 33)


def test_the_own_loss_alone_reaches_the_encoder(name):
    model = small(name).train()
    weights = LossSection(coarse=0, stage=0)
    output = model(torch.rand(2, 3, 64, 64))
    labels = torch.randint(3, (2, 64, 64))
    own = find_own_losses(model)
    total, parts = segmentation_loss(output, labels, model.upsample, weights, own=own)
    total.backward()
    assert set(parts) == ({"edges", "bodies"} if name == "eblnet" else {"points"})
    first = next(model.encoder.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


def test_every_weight_gets_a_gradient(name):
    """Data parallelism waits for each of them."""
    model = small(name).train()
    total, _ = loss_of(model, torch.rand(2, 3, 64, 64), torch.randint(3, (2, 64, 64)))
    total.backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []


def test_ignored_labels_alone_give_no_loss(name):
    model = small(name).train()
    total, parts = loss_of(model, torch.rand(2, 3, 40, 33), torch.full((2, 40, 33), IGNORE_INDEX))
    total.backward()
    assert float(total.detach()) == 0
    assert {float(part) for part in parts.values()} == {0.0}
    assert all(not p.grad.any() for p in model.parameters())


def test_training_is_a_function_of_the_seed(name):
    model = small(name).train()
    picture, labels = torch.rand(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    totals = []
    for seed in (1, 1):
        torch.manual_seed(seed)
        totals.append(float(loss_of(model, picture, labels)[0].detach()))
    assert totals[0] == totals[1]


def test_saved_and_read(name, tmp_path):
    model = small(name).eval()
    model.save_pretrained(tmp_path / "model")
    read = pna.load(tmp_path / "model").eval()
    assert read.config == model.config
    picture = torch.rand(1, 3, 50, 70)
    with torch.inference_mode():
        assert torch.equal(read(picture).logits, model(picture).logits)


def test_counts_hold_every_weight(name):
    model = small(name)
    parts = count(model, (64, 96))
    assert sum(part.parameters for part in parts) == sum(p.numel() for p in model.parameters())
    named = {part.part: part for part in parts}
    assert ("neck" in named) == (name != "fcn-pointrend")
    assert named["refinement"].macs > 0


def test_half_precision(name):
    model = small(name)
    picture, labels = torch.rand(2, 3, 64, 64), torch.randint(3, (2, 64, 64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = loss_of(model.train(), picture, labels)
        with torch.inference_mode():
            assert model.eval()(picture).logits.isfinite().all()
    assert total.isfinite()
    assert total.dtype == torch.float32
