"""What a cascade promises beyond one network or another, and what it refuses."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pna
from pna.labels import VOC, generic
from pna.model.counts import count
from pna.train.averaging import AveragedWeights
from pna.train.optimizer import create_optimizer
from pna.train.recipe import OptimizerSection
from wrapped_networks import K, Plain

SMALL = {"widths": (32, 32, 32), "window": 5, "self_aggregation": False}


def wrap(network=None, **options):
    torch.manual_seed(0)
    return pna.cascade(network or Plain(), K, **{**SMALL, **options})


class ByColour(nn.Module):
    """Sure of itself: each pixel's class is the third of the range that its red falls into."""

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Conv2d(a, b, 2, stride=2) for a, b in [(3, 8), (8, 10), (10, 12), (12, 14)]
        )
        self.register_buffer("centres", torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1))

    def forward(self, pictures):
        x = pictures
        for step in self.steps:
            x = step(x)
        return -40 * (pictures[:, :1] - self.centres) ** 2


def blobs(size=(128, 192)):
    """A picture of smooth shapes."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(1, 3, 6, 9, generator=generator)
    return F.interpolate(noise, size, mode="bicubic", align_corners=False).clamp(0, 1)


@torch.inference_mode()
@pytest.mark.parametrize(("window", "least"), [(5, 0.99), (9, 0.97)])
def test_a_sharp_prediction_is_kept(window, least):
    """Full-size logits go through stride 16 and come back: the detail is carried past it."""
    pictures = blobs()
    network = ByColour()
    model = pna.cascade(network, 3, **{**SMALL, "window": window}).eval()
    assert (model.strides, model.coarse_stride) == ((4, 8, 16), 1)
    expected = network(pictures).argmax(1)
    assert len(expected.unique()) == 3
    agreement = (model(pictures).logits.argmax(1) == expected).float().mean()
    assert agreement > least
    model.refiner.keep_detail = False
    without = (model(pictures).logits.argmax(1) == expected).float().mean()
    assert without < 0.9


def test_frozen():
    network = Plain()
    model = wrap(network, freeze=True).train()
    assert model.training
    assert not any(m.training for m in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    before = copy.deepcopy(network.state_dict())
    assert model.encoder_parameters() == frozenset()
    optimizer = create_optimizer(model, OptimizerSection(head_lr=0.1))
    assert {group["name"] for group in optimizer.param_groups} == {"heads"}
    model(torch.rand(2, 3, 32, 48)).logits.square().mean().backward()
    optimizer.step()
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_not_frozen_batch_norm_learns():
    model = wrap().train()
    before = model.base.stem[1].running_mean.clone()
    model(torch.rand(2, 3, 32, 48))
    assert not torch.equal(model.base.stem[1].running_mean, before)


def test_what_the_features_depend_on_has_the_encoders_rate():
    model = wrap().train()
    model.base.stem[0].requires_grad_(False)
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    optimizer = create_optimizer(model, OptimizerSection(lr=0.01, head_lr=0.1))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        part = ".".join(name.split(".")[:2])
        encoder = ("base.stem", "base.down1", "base.down2", "base.down3")
        rate = None if not parameter.requires_grad else 0.01 if part in encoder else 0.1
        assert rates.get(id(parameter)) == rate, name
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)


def test_wrapping_leaves_no_trace():
    network = Plain().train()
    network.down1.eval()
    state, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    pna.cascade(network, K, refine=False)
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    assert network.stem.training
    assert not network.down1.training
    assert torch.equal(torch.get_rng_state(), generator)


def test_copies_have_hooks_of_their_own():
    model = wrap().eval()
    average = AveragedWeights(model, 0.9).model
    with torch.no_grad():
        for parameter in average.base.parameters():
            parameter.zero_()
    pictures = torch.rand(1, 3, 32, 48)
    before = model(pictures).logits
    assert not torch.allclose(average(pictures).logits, before)
    torch.testing.assert_close(model(pictures).logits, before)


def test_two_cascades_around_one_network():
    network = Plain()
    one, two = wrap(network).eval(), wrap(network, coarse="").eval()
    pictures = torch.rand(1, 3, 32, 48)
    expected = one(pictures).logits
    two(pictures)
    torch.testing.assert_close(one(pictures).logits, expected)


def test_without_refinement_it_is_the_network():
    network = Plain().eval()
    model = pna.cascade(network, K, refine=False).eval()
    pictures = torch.rand(1, 3, 32, 48)
    torch.testing.assert_close(model(pictures).logits, network(pictures))
    assert (model.num_stages, model(pictures, stages=True).stages) == (0, [])


def test_normalisation_is_the_networks_own_unless_given():
    network = Plain().eval()
    pictures = torch.rand(1, 3, 32, 48)
    model = pna.cascade(network, K, refine=False, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5)).eval()
    normalised = (pictures - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / 0.5
    torch.testing.assert_close(model(pictures).logits, network(normalised))


def test_names():
    """Features and coarse logits by name, and what is said about them."""
    model = wrap(features=["down1", "down2.2"], coarse="", widths=(32, 32))
    assert model.strides == (4, 8)
    assert model.features_from == ("down1", "down2.2")
    assert model.divisor == 16  # of the network, not of what was named
    assert "P0 from the model's own output (stride 1)" in repr(model)
    assert "P0 from classify (stride 8)" in wrap().origin
    assert wrap(freeze=True).origin.startswith("frozen Plain")


def test_the_whole_interface():
    model = wrap(labels=generic(K)).eval()
    found = model.similarity(torch.rand(1, 3, 40, 50), point=(49, 39))
    assert [s.stride for s in found] == [16, 8, 4]
    parts = count(model, (64, 64))
    assert [part.part for part in parts] == ["wrapped model", "stage 1", "stage 2", "stage 3"]
    assert parts[0].parameters == sum(p.numel() for p in model.base.parameters())
    assert min(part.macs for part in parts) > 0
    result = pna.Predictor(model, device="cpu")(torch.zeros(20, 30, 3).byte().numpy(), stages=True)
    assert result.labels.shape == (20, 30)
    assert len(result.stages) == 4


def test_auxiliary_outputs_are_trained():
    class WithAuxiliary(Plain):
        def forward(self, pictures):
            logits = super().forward(pictures)
            return {"out": logits, "aux": logits[..., ::8, ::8]}

    model = wrap(WithAuxiliary())
    pictures = torch.rand(2, 3, 32, 48)
    assert set(model.train()(pictures).aux) == {"aux"}
    assert model.eval()(pictures).aux == {}


class TestSaved:
    def test_a_network_of_ones_own_must_be_given(self, tmp_path):
        wrap().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"refines a model of your own, Plain.*model=\.\.\."):
            pna.load(tmp_path)

    def test_so_must_its_function(self, tmp_path):
        model = wrap(coarse=lambda output: output)
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"function of the model's output.*coarse=\.\.\."):
            pna.load(tmp_path, model=Plain())

    def test_another_network_does_not_fit(self, tmp_path):
        wrap().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="has no module 'down1'"):
            pna.load(tmp_path, model=ByColour())

    def test_a_preset_takes_no_network(self, tmp_path):
        pna.create_model("lite-fcn", num_classes=2, pretrained=False).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="it is no cascade, so it takes no model"):
            pna.load(tmp_path, model=Plain())

    def test_normalisation_and_freezing_come_back(self, tmp_path):
        wrap(freeze=True, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).save_pretrained(tmp_path)
        loaded = pna.load(tmp_path, model=Plain())
        assert loaded.freeze
        torch.testing.assert_close(loaded.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
        torch.testing.assert_close(loaded.std.flatten(), torch.tensor([0.4, 0.5, 0.6]))

    def test_an_unknown_setting(self, tmp_path):
        wrap().save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        config["cascade"]["colour"] = "red"
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="unknown colour in the model's configuration"):
            pna.load(tmp_path, model=Plain())


class NeedsLabels(Plain):
    def forward(self, pictures, labels):
        return super().forward(pictures)


class NeedsLabelsToTrain(Plain):
    def forward(self, pictures, targets=None):
        if self.training and targets is None:
            raise ValueError("targets should be given while training")
        return super().forward(pictures)


class OneScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8)
        self.head = nn.Conv2d(8, K, 1)

    def forward(self, pictures):
        return self.head(self.conv(pictures))


class Masks(Plain):
    def forward(self, pictures):
        return {"masks": super().forward(pictures)}


class OneSize(Plain):
    def forward(self, pictures):
        if pictures.shape[-2:] != (224, 224):
            raise RuntimeError("expected 224x224")
        return super().forward(pictures)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (NeedsLabels, {}, r"NeedsLabels needs more than a picture.*'labels'.*wrap it"),
        (NeedsLabelsToTrain, {}, "but not in training.*targets should be given.*wrap it"),
        (OneScale, {}, r"no multi-scale features in OneScale.*name them.*features=\["),
        (Masks, {}, "returns dict with masks: expected a tensor.*coarse=lambda"),
        (OneSize, {}, "does not run on pictures of any size.*expected 224x224.*divisor="),
        (Plain, {"num_classes": 4}, "Plain predicts 7 classes, expected num_classes=4"),
        (Plain, {"features": ["down2", "down1"]}, r"sizes nest.*strides \[8, 4\]"),
        (Plain, {"features": ["down9"]}, "no module 'down9'; did you mean down"),
        (Plain, {"features": ["down1[2]"]}, r"'down1\[2\]' to be a map.*has down1"),
        (Plain, {"features": ["down1[[2]"]}, "expected a module's name"),
        (Plain, {"features": []}, "no multi-scale features"),
        (Plain, {"coarse": "down1"}, "predicts 12 classes"),
        (Plain, {"coarse": lambda output: output[0]}, r"coarse logits \(B, 7, h, w\), got"),
        (Plain, {"coarse": lambda output: output[..., 1:]}, "whose size divides"),
        (Plain, {"labels": VOC}, "got num_classes=7, but labels 'voc2012' has 21"),
        (Plain, {"widths": (32, 32)}, "expected one width for each of 3 levels"),
    ],
)
def test_refused(network, options, message):
    options = {"num_classes": K, **SMALL, **options}
    with pytest.raises(ValueError, match=f"(?s){message}"):
        pna.cascade(network(), **options)


def test_labels_are_only_needed_to_train():
    """Fixed, a network is never trained, so it may need labels there."""
    wrap(NeedsLabelsToTrain(), freeze=True).train()(torch.rand(2, 3, 32, 48))


def test_a_module_that_is_left_out_later():
    class Fickle(Plain):
        skips = False

        def forward(self, pictures):
            x4 = self.stem(pictures) if self.skips else self.down1(self.stem(pictures))
            x4 = x4[:, :, ::2, ::2][:, :1].expand(-1, 12, -1, -1) if self.skips else x4
            x8 = self.down2(x4)
            x16 = F.interpolate(self.down3(x8), scale_factor=2.0)
            return self.classify(self.up(torch.cat([x16, x8], 1)))

    model = wrap(Fickle())
    model.base.skips = True
    with pytest.raises(RuntimeError, match="has not called 'down1'"):
        model(torch.rand(1, 3, 32, 48))


def test_a_network_of_another_type_is_looked_at_in_its_own():
    assert "base.stem.0.weight" in wrap(Plain().double()).encoder_parameters()
