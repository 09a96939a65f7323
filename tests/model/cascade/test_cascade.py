"""The promises of a cascade beyond one network or another, and its refusals."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pna
from pna.errors import PnaError
from pna.labels import VOC, generic
from pna.model.counts import count
from wrapped_networks import K, Plain

SMALL = replace(pna.PNAConfig.for_cascade(), widths=(32, 32, 32))


def wrap(network=None, **options):
    torch.manual_seed(0)
    return pna.cascade(
        Plain() if network is None else network, K, **{"normalize": None, "pna": SMALL, **options}
    )


class ByColor(nn.Module):
    """Sure of itself: each pixel's class is the third of the range that its red falls into.

    The maps count as read, or they would be no features.
    """

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Conv2d(a, b, 2, stride=2) for a, b in [(3, 8), (8, 10), (10, 12), (12, 14)]
        )
        self.register_buffer("centers", torch.tensor([0.0, 0.5, 1.0]).view(1, 3, 1, 1))

    def forward(self, images):
        x = images
        for step in self.steps:
            x = step(x)
        return -40 * (images[:, :1] - self.centers) ** 2 + 0 * x.mean()


def blobs(size=(128, 192)):
    """An image of smooth shapes."""
    generator = torch.Generator().manual_seed(3)
    noise = torch.rand(1, 3, 6, 9, generator=generator)
    return F.interpolate(noise, size, mode="bicubic", align_corners=False).clamp(0, 1)


@torch.inference_mode()
@pytest.mark.parametrize("window", [3, 5])
def test_a_sharp_prediction_is_kept(window):
    """Full-size logits go through stride 16 and come back: the detail is carried past it."""
    images = blobs()
    network = ByColor()
    config = replace(SMALL, carry_window=window)
    model = pna.cascade(network, 3, normalize=None, pna=config).eval()
    assert (model.strides, model.coarse_stride) == ((4, 8, 16), 1)
    expected = network(images).argmax(1)
    assert len(expected.unique()) == 3
    agreement = (model(images).logits.argmax(1) == expected).float().mean()
    assert agreement > 0.99
    config = replace(config, keep_detail=False)
    model = pna.cascade(network, 3, normalize=None, pna=config).eval()
    without = (model(images).logits.argmax(1) == expected).float().mean()
    assert without < 0.9


def test_frozen():
    network = Plain()
    model = wrap(network, freeze=True).train()
    assert model.training
    assert not any(m.training for m in network.modules())
    assert not any(p.requires_grad for p in network.parameters())
    before = copy.deepcopy(network.state_dict())
    assert model.encoder_parameters() == frozenset()
    model(torch.rand(2, 3, 32, 48)).logits.square().mean().backward()
    assert all(p.grad is None for p in network.parameters())
    assert all(p.grad is not None for p in model.refiner.parameters())
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_frozen_first_and_trained_later():
    network = Plain()
    wrap(network, freeze=True)
    with pytest.raises(PnaError, match=r"^Plain is to be trained .*requires_grad_\(True\)"):
        wrap(network)
    assert wrap(network.requires_grad_(True)).encoder_parameters()


def test_not_frozen_batch_norm_learns():
    model = wrap().train()
    before = model.base.stem[1].running_mean.clone()
    model(torch.rand(2, 3, 32, 48))
    assert not torch.equal(model.base.stem[1].running_mean, before)


def test_the_encoder_is_all_that_the_features_depend_on():
    model = wrap().train()
    model.base.stem[0].requires_grad_(False)
    state, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    found = model.encoder_parameters()
    encoder = ("base.stem", "base.down1", "base.down2", "base.down3")
    expected = {n for n, p in model.named_parameters() if n.startswith(encoder) and p.requires_grad}
    assert found == expected
    assert all(p.grad is None for p in model.parameters())
    assert all(module.training for module in model.modules())
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)


class TestTheNetworkIsLeftAsItWas:
    def test_by_wrapping(self):
        network = Plain().train().to(memory_format=torch.channels_last)
        network.down2[0].weight.data = network.down2[0].weight.data.contiguous()
        network.down1.eval()
        network.stem.requires_grad_(False)
        state, generator = copy.deepcopy(network.state_dict()), torch.get_rng_state()
        strides = [p.stride() for p in network.parameters()]
        modes = [m.training for m in network.modules()]
        trained = [p.requires_grad for p in network.parameters()]
        pna.cascade(network, K, normalize=None, pna=None)
        torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
        assert [p.stride() for p in network.parameters()] == strides
        assert [m.training for m in network.modules()] == modes
        assert [p.requires_grad for p in network.parameters()] == trained
        assert all(p.grad is None for p in network.parameters())
        assert torch.equal(torch.get_rng_state(), generator)

    def test_by_a_refusal(self):
        network = NeedsLabelsToTrain().train()
        network.down1.eval()
        state, modes = copy.deepcopy(network.state_dict()), [m.training for m in network.modules()]
        with pytest.raises(PnaError, match="^NeedsLabelsToTrain takes images alone in evaluation"):
            wrap(network)
        torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
        assert [m.training for m in network.modules()] == modes
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())

    def test_it_has_no_hooks_between_calls(self):
        network = Plain()
        model = wrap(network)
        model(torch.rand(2, 3, 32, 48)).logits.mean().backward()
        with pytest.raises(RuntimeError):
            model.encode(torch.rand(2, 5, 32, 48))
        for module in network.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks

    def test_its_own_hooks_stay(self):
        network = Plain()
        seen = []
        network.down1.register_forward_hook(lambda module, args, output: seen.append(output))
        model = wrap(network)
        seen.clear()
        model(torch.rand(2, 3, 32, 48))
        assert len(seen) == len(network.down1._forward_hooks) == 1

    def test_tensors_of_any_number_of_axes(self):
        class Five(Plain):
            def __init__(self):
                super().__init__()
                self.time = nn.Conv3d(24, 24, 1)
                self.register_buffer("places", torch.zeros(1, 1, 2, 3, 4))

            def forward(self, images):
                x16 = self.time(self.down3(self.down2(self.down1(self.stem(images))))[:, :, None])
                return self.classify(self.up(F.pad(x16[:, :, 0], (0, 0, 0, 0, 0, 16))))

        assert wrap(Five())(torch.rand(2, 3, 32, 48)).logits.shape == (2, K, 32, 48)

    def test_a_strided_1x1_convolution_trains(self):
        """With channels-last weights it crashes torch's backward pass on some CPUs."""

        class Stem(nn.Module):
            def __init__(self):
                super().__init__()
                self.wide = nn.Conv2d(3, 8, 3, stride=2, padding=1)
                self.narrow = nn.Conv2d(3, 8, 1, stride=2)

            def forward(self, images):
                return (self.wide(images) + self.narrow(images)).relu()

        network = Plain()
        network.stem = Stem()
        model = wrap(network)
        assert model.base.stem.narrow.weight.is_contiguous()
        images = torch.rand(2, 3, 32, 48).to(memory_format=torch.channels_last)
        model(images).logits.mean().backward()


class TestCalls:
    """The state of a call lives in the call."""

    def test_threads(self):
        model = wrap(freeze=True).eval()
        images = [torch.rand(1, 3, 64, 96) for _ in range(8)]

        @torch.inference_mode()
        def run(x):
            return model(x).logits

        alone = [run(x) for x in images]
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(run, images * 4))
        for logits, expected in zip(together, alone * 4, strict=True):
            assert torch.equal(logits, expected)
        assert not any(module._forward_hooks for module in model.modules())

    def test_replicas_that_share_hooks(self):
        """`nn.DataParallel` runs shallow copies of a module at once, in threads of their own."""
        model = wrap(freeze=True).eval()
        replicas = [self.replica(model) for _ in range(4)]
        images = [torch.rand(1, 3, 64, 96) for _ in replicas]

        @torch.inference_mode()
        def run(index):
            return replicas[index](images[index]).logits

        alone = [run(index) for index in range(4)]
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(run, [0, 1, 2, 3] * 4))
        for logits, expected in zip(together, alone * 4, strict=True):
            assert torch.equal(logits, expected)

    def replica(self, module):
        copied = module._replicate_for_data_parallel()
        for name, child in module.named_children():
            setattr(copied, name, self.replica(child))
        for name, parameter in module._parameters.items():
            setattr(copied, name, parameter)
        return copied

    def test_copies(self):
        model = wrap().eval()
        images = torch.rand(1, 3, 32, 48)
        expected = model(images).logits
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            torch.testing.assert_close(other(images).logits, expected)
            with torch.no_grad():
                for parameter in other.base.parameters():
                    parameter.zero_()
            assert not torch.allclose(other(images).logits, expected)
        torch.testing.assert_close(model(images).logits, expected)

    def test_shells_are_left_out(self, tmp_path):
        network = Plain()
        for shell in (torch.compile(network, backend="eager"), nn.DataParallel(network)):
            model = wrap(shell)
            assert model.base is network
            model.save_pretrained(tmp_path)
            assert pna.load(tmp_path, network=Plain()).features_from[0] == "down1"

    def test_a_cascade_in_a_network(self):
        """Taps of the outer one lie inside of the inner one's network."""

        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = wrap()

            def forward(self, images):
                return self.inner(images).logits

        names = [f"inner.base.down{i}" for i in (1, 2, 3)]
        model = wrap(Outer(), features=names, coarse="").eval()
        images = torch.rand(1, 3, 32, 48)
        expected = model.base.inner.encode(images).features
        torch.testing.assert_close(model.encode(images).features, expected)

    @torch.inference_mode()
    def test_compiled_and_exported_as_one_graph(self):
        model = wrap(pna=None).eval()
        images = torch.rand(1, 3, 32, 48)
        expected = model.encode(images)
        encode = torch.compile(model.encode, backend="eager", fullgraph=True)
        torch.testing.assert_close(encode(images), expected)
        exported = torch.export.export(model, (images,)).module()
        torch.testing.assert_close(exported(images).logits, model(images).logits)
        assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_it_has_the_networks_type(dtype):
    model = wrap(Plain().to(dtype)).train()
    assert {p.dtype for p in model.parameters()} == {dtype}
    model(torch.rand(2, 3, 32, 48)).logits.float().mean().backward()
    assert "base.stem.0.weight" in model.encoder_parameters()
    for images in (torch.rand(1, 3, 32, 48), torch.rand(1, 3, 32, 48).to(dtype)):
        assert model.eval()(images).logits.dtype == dtype


def test_two_cascades_around_one_network():
    network = Plain()
    one, two = wrap(network).eval(), wrap(network, coarse="").eval()
    images = torch.rand(1, 3, 32, 48)
    expected = one(images).logits
    two(images)
    torch.testing.assert_close(one(images).logits, expected)


def test_without_refinement_it_is_the_network():
    network = Plain().eval()
    model = pna.cascade(network, K, normalize=None, pna=None).eval()
    images = torch.rand(1, 3, 32, 48)
    torch.testing.assert_close(model(images).logits, network(images))
    assert (model.num_stages, model(images, stages=True).stages) == (0, [])


def test_around_a_model_of_this_library():
    """As a converted one is refined; it normalizes images itself, and no warning says otherwise."""
    model = pna.create_model("lite-fcn", K, encoder="test_resnet", encoder_weights=None)
    four = replace(SMALL, widths=(32,) * 4)
    refined = wrap(model, pna=four, coarse=lambda output: output.coarse).eval()
    images = torch.rand(1, 3, 64, 96)
    torch.testing.assert_close(refined(images, stages=True).coarse, model(images).coarse)


def test_names():
    """Features and coarse logits by name, and the words about them."""
    narrow = replace(SMALL, widths=(32, 32))
    model = wrap(features=["down1", "down2.2"], coarse="", pna=narrow)
    assert model.strides == (4, 8)
    assert model.features_from == ("down1", "down2.2")
    assert model.divisor == 16  # of the network, not of the names
    assert "P0 from the model's own output (stride 1)" in repr(model)
    assert "P0 from classify (stride 8)" in wrap().origin
    assert wrap(freeze=True).origin.startswith("frozen Plain")


def test_the_whole_interface():
    model = wrap(labels=generic(K)).eval()
    found = model.similarity(torch.rand(1, 3, 40, 50), point=(49, 39))
    # Of the maps that are gathered from: P0 at stride 8, then the stages.
    assert [s.stride for s in found] == [8, 16, 8]
    parts = count(model, (64, 64))
    assert [part.part for part in parts] == ["wrapped model", "stage 1", "stage 2", "stage 3"]
    assert parts[0].parameters == sum(p.numel() for p in model.base.parameters())
    assert min(part.macs for part in parts) > 0


def test_a_stage_on_images_of_other_channels():
    network = Plain()
    network.stem = Plain._down(4, 8)
    config = replace(SMALL, image_width=8)
    model = pna.cascade(network, K, normalize=((0.5,) * 4, (0.5,) * 4), pna=config).eval()
    output = model(torch.rand(1, 4, 32, 48), stages=True)
    assert output.stages[-1].shape[-2:] == (16, 24)


def test_auxiliary_outputs_are_trained():
    class WithAuxiliary(Plain):
        def forward(self, images):
            logits = super().forward(images)
            return {"out": logits, "aux": logits[..., ::8, ::8]}

    model = wrap(WithAuxiliary())
    images = torch.rand(2, 3, 32, 48)
    assert "aux" in model.train()(images).aux
    assert model.eval()(images).aux == {}


class NeedsLabels(Plain):
    def forward(self, images, labels):
        return super().forward(images)


class NeedsLabelsToTrain(Plain):
    def forward(self, images, targets=None):
        if self.training and targets is None:
            raise ValueError("targets should be given while training")
        return super().forward(images)


class Lazy(Plain):
    def __init__(self):
        super().__init__()
        self.classify = nn.LazyConv2d(K, 1)


class ByKeyword(Plain):
    def forward(self, *, pixel_values):
        return super().forward(pixel_values)


class OneScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, stride=8)
        self.head = nn.Conv2d(8, K, 1)

    def forward(self, images):
        return self.head(self.conv(images))


class Masks(Plain):
    def forward(self, images):
        return {"masks": super().forward(images)}


class OneSize(Plain):
    def forward(self, images):
        if images.shape[-2:] != (224, 224):
            raise RuntimeError("expected 224x224")
        return super().forward(images)


@pytest.mark.parametrize(
    ("network", "options", "message"),
    [
        (lambda: Plain, {}, r"expected a network \(torch.nn.Module\), got type"),
        (lambda: Plain().to("meta"), {}, "Plain has weights without values, on the meta device"),
        (Lazy, {}, "Lazy has lazy layers without weights: call it on images once"),
        (ByKeyword, {}, r"ByKeyword needs more than an image .*wrap it"),
        (NeedsLabels, {}, r"NeedsLabels needs more than an image.*'labels'.*wrap it"),
        (
            NeedsLabelsToTrain,
            {},
            "NeedsLabelsToTrain takes images alone in evaluation, but not.*targets should.*wrap it",
        ),
        (OneScale, {}, r"found no multi-scale features in OneScale.*name them.*features=\["),
        (Masks, {}, r"Masks returns dict with \[masks\]: expected a tensor.*coarse=lambda"),
        (OneSize, {}, "OneSize does not run on images of any size.*expected 224x224.*divisor="),
        (Plain, {"num_classes": 4}, "Plain predicts 7 classes, expected num_classes=4"),
        (
            Plain,
            {"features": ["down2", "down1"]},
            r"expected features fine to coarse.*strides \[8, 4\]",
        ),
        (Plain, {"features": ["down9"]}, "Plain has no module 'down9'; did you mean down"),
        (
            Plain,
            {"features": ["down1[2]"]},
            r"features: expected 'down1\[2\]' to be a map.*has down1",
        ),
        (Plain, {"features": ["down1[[2]"]}, "expected a module's name"),
        (Plain, {"features": []}, "expected at least one place in features=, got none"),
        (Plain, {"features": "down1"}, "expected a list of places in features=, got 'down1'"),
        (Plain, {"divisor": -1}, "expected a divisor of 1 or more, got -1"),
        (Plain, {"coarse": "down1"}, "Plain predicts 12 classes"),
        (
            Plain,
            {"coarse": lambda output: output[0]},
            r"Plain: expected coarse logits \(B, 7, h, w\), got",
        ),
        (
            Plain,
            {"coarse": lambda output: output[..., 1:]},
            "Plain: expected coarse logits whose size divides",
        ),
        (Plain, {"labels": VOC}, "got num_classes=7, but labels 'voc2012' has 21"),
        (Plain, {"pna": replace(SMALL, widths=(32, 32))}, "expected 3 widths, one for each level"),
    ],
)
def test_refused(network, options, message):
    options = {"num_classes": K, "normalize": None, "pna": SMALL, **options}
    with pytest.raises(PnaError, match=f"(?s)^{message}"):
        pna.cascade(network(), **options)


def test_labels_are_only_needed_to_train():
    """Fixed, a network is never trained, so it may need labels there."""
    wrap(NeedsLabelsToTrain(), freeze=True).train()(torch.rand(2, 3, 32, 48))


def test_a_module_that_is_left_out_later():
    class Fickle(Plain):
        skips = False

        def forward(self, images):
            x4 = self.stem(images) if self.skips else self.down1(self.stem(images))
            x4 = x4[:, :, ::2, ::2][:, :1].expand(-1, 12, -1, -1) if self.skips else x4
            x8 = self.down2(x4)
            x16 = F.interpolate(self.down3(x8), scale_factor=2.0)
            return self.classify(self.up(torch.cat([x16, x8], 1)))

    model = wrap(Fickle())
    model.base.skips = True
    with pytest.raises(PnaError, match="^Fickle did not call 'down1'"):
        model(torch.rand(1, 3, 32, 48))
