"""`pna.cascade` finds the logits and the divisor, in training as in evaluation, or refuses."""

import dataclasses

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn
from torch.nn import functional as F

import pna
from small_networks import Encoder, K, conv, up, wrap

IMAGES = (2, 3, 64, 96)


class TestLogits:
    def test_heads_that_start_at_zero(self):
        """Every head's map, resized, equals the output: its values do not tell which it is."""

        class Zero(Encoder):
            def __init__(self):
                super().__init__()
                self.lateral = nn.Conv2d(24, 16, 1)
                self.head, self.aux_head = nn.Conv2d(16, K, 1), nn.Conv2d(24, K, 1)
                for head in (self.head, self.aux_head):
                    nn.init.zeros_(head.weight)
                    nn.init.zeros_(head.bias)

            def forward(self, images):
                _, _, c, d = self.steps(images)
                out = up(self.head(c + up(self.lateral(d), c)), images)
                return {"out": out, "aux": up(self.aux_head(d), images)}

        model = wrap(Zero())
        assert (model.coarse_from, model.coarse_stride) == ("head", 8)

    @pytest.mark.parametrize("last", ["aligned", "twice", "scaled", "changed in place", "learned"])
    def test_what_no_single_resize_makes_is_taken_whole(self, last):
        class Head(Encoder):
            def __init__(self):
                super().__init__()
                self.learned = nn.ConvTranspose2d(K, K, 16, 16)

            def forward(self, images):
                logits = self.head(self.steps(images)[-1])
                if last == "aligned":
                    size = images.shape[-2:]
                    return F.interpolate(logits, size, mode="bilinear", align_corners=True)
                if last == "twice":
                    return F.interpolate(up(logits, images[..., ::4, ::4]), scale_factor=4.0)
                if last == "learned":
                    return self.learned(logits)
                if last == "changed in place":
                    logits /= 2
                    return up(logits, images)
                return 2 * up(logits, images)

        model = wrap(Head())
        assert (model.coarse_from, model.coarse_stride) == ("", 1)

    @pytest.mark.parametrize("kind", ["tuple", "dict", "object"])
    def test_in_every_kind_of_output(self, kind):
        @dataclasses.dataclass
        class Output:
            logits: torch.Tensor

        class Net(Encoder):
            def forward(self, images):
                logits = 2 * super().forward(images)
                return {"tuple": (logits,), "dict": {"out": logits}, "object": Output(logits)}[kind]

        model = wrap(Net())
        assert model.coarse_from == {"tuple": "[0]", "dict": "[out]", "object": "[logits]"}[kind]
        assert model.train()(torch.rand(IMAGES)).logits.shape == (2, K, 64, 96)

    def test_an_auxiliary_map_first(self):
        class Both(Encoder):
            def __init__(self):
                super().__init__()
                self.aux = nn.Conv2d(16, K, 1)

            def forward(self, images):
                _, _, c, d = self.steps(images)
                return [self.aux(c), self.head(d)]

        with pytest.raises(pna.PnaError, match=r"^Both returns 2 maps of 7 .*output\[1\] or"):
            wrap(Both())
        assert wrap(Both(), coarse=lambda output: output[1]).coarse_stride == 16
        assert wrap(Both(), coarse="[1]").coarse_stride == 16


class TestProbabilities:
    @pytest.mark.parametrize("name", ["softmax2d", "sigmoid"])
    def test_of_smp_are_refused_with_the_map_before(self, name):
        def build():
            return smp.Unet(
                "resnet18", encoder_depth=3, decoder_channels=(8, 8, 8), encoder_weights=None,
                classes=K, activation=name,
            )  # fmt: skip

        with pytest.raises(
            pna.PnaError, match=r'^Unet returns probabilities .*coarse="segmentation_head\.\d"'
        ) as error:
            wrap(build())
        place = str(error.value).partition('coarse="')[2].partition('"')[0]
        model = wrap(build(), coarse=place, freeze=True).eval()
        assert float(model(torch.rand(IMAGES)).logits.amin()) < 0

    @pytest.mark.parametrize("kind", ["upsampled", "clamped", "by hand"])
    def test_changed_after_the_activation(self, kind):
        class Net(Encoder):
            def forward(self, images):
                logits = self.head(self.steps(images)[-1])
                if kind == "upsampled":
                    return up(logits.softmax(1), images)
                if kind == "clamped":
                    return up(logits, images).sigmoid().clamp(1e-6, 1)
                x = up(logits, images).exp()
                return x / x.sum(1, keepdim=True)

        with pytest.raises(pna.PnaError, match=r"^Net returns probabilities"):
            wrap(Net())

    def test_labels_are_refused(self):
        class Labels(Encoder):
            def forward(self, images):
                return super().forward(images).argmax(1)

        with pytest.raises(pna.PnaError, match=r"^Labels: expected coarse logits .* its argmax$"):
            wrap(Labels())

    def test_logits_behind_another_task(self):
        class Depth(Encoder):
            def forward(self, images):
                logits = super().forward(images)
                return logits.mean(1, keepdim=True), logits

        with pytest.raises(pna.PnaError, match=r"^Depth returns several maps, .*output\[1\]$"):
            wrap(Depth())

    def test_logarithms_of_probabilities_are_logits(self):
        class Net(Encoder):
            def forward(self, images):
                return super().forward(images).log_softmax(1)

        assert wrap(Net()).coarse_from == ""

    def test_one_class(self):
        with pytest.raises(
            pna.PnaError, match=r"^expected num_classes of at least 2, got 1: .*torch\.cat"
        ):
            wrap(Encoder(1), 1)
        with pytest.raises(pna.PnaError, match=r"^Encoder predicts 1 classes, .*torch\.cat"):
            wrap(Encoder(1), 2)

        def two(output):
            return torch.cat([-output / 2, output / 2], 1)

        logits = wrap(Encoder(1), 2, coarse=two).eval()(torch.rand(IMAGES)).logits
        assert logits.shape == (2, 2, 64, 96)


class TestTraining:
    @pytest.mark.parametrize("kind", ["list", "tuple", "dict", "last"])
    def test_more_is_returned(self, kind):
        class Net(Encoder):
            def __init__(self):
                super().__init__()
                self.aux = nn.Conv2d(16, K, 1)

            def forward(self, images):
                _, _, c, d = self.steps(images)
                out = 2 * up(self.head(d), images)
                if not self.training:
                    return out
                aux = up(self.aux(c), images)
                outputs = {"list": [out, aux], "tuple": (out, aux), "last": (aux, out)}
                return outputs.get(kind, {"aux": aux, "main": out})

        model = wrap(Net()).train()
        model(torch.rand(IMAGES)).logits.square().mean().backward()
        assert model.base.head.weight.grad is not None
        assert model.base.aux.weight.grad is None
        assert model.eval()(torch.rand(IMAGES)).logits.shape == (2, K, 64, 96)

    def test_it_is_found_again_in_a_saved_model(self, tmp_path):
        class Net(Encoder):
            def forward(self, images):
                logits = 2 * super().forward(images)
                return (logits.mean(), logits) if self.training else logits

        wrap(Net()).save_pretrained(tmp_path)
        model = pna.load(tmp_path, network=Net()).train()
        assert model(torch.rand(IMAGES)).logits.shape == (2, K, 64, 96)

    def test_logits_that_are_not_there_are_refused(self):
        class Stacked(Encoder):
            def forward(self, images):
                logits = 2 * super().forward(images)
                return torch.stack([logits, logits], 1) if self.training else logits

        with pytest.raises(
            pna.PnaError, match=r"^Stacked returns Tensor in training, .*pass a function"
        ):
            wrap(Stacked())
        wrap(Stacked(), freeze=True)  # it is never in training then

        def first(output):
            return output[:, 0] if output.ndim == 5 else output

        model = wrap(Stacked(), coarse=first).train()
        assert model(torch.rand(IMAGES)).logits.shape == (2, K, 64, 96)

    def test_so_are_two_that_may_be_them(self):
        class Twice(Encoder):
            def forward(self, images):
                logits = 2 * super().forward(images)
                return (logits.detach(), 3 * logits) if self.training else logits

        with pytest.raises(pna.PnaError, match=r"^Twice returns tuple in training, in which 2 of"):
            wrap(Twice())

    def test_features_that_are_other_maps_in_training(self):
        class Shrinks(Encoder):
            def forward(self, images):
                return super().forward(images[..., ::2, ::2] if self.training else images)

        with pytest.raises(pna.PnaError, match=r"^Shrinks: e2 is no map at stride 4 in training"):
            wrap(Shrinks())


class TestSizes:
    def test_p0_has_its_stride_at_odd_multiples(self):
        """The features nest at multiples of 16, the logits at those of 32."""

        class Pools(nn.Module):
            def __init__(self):
                super().__init__()
                self.encoder = nn.ModuleList(
                    [conv(3, 8, 2), conv(8, 12, 2), conv(12, 16, 2), conv(16, 24, 2)]
                )
                self.head = nn.Conv2d(24, K, 1)

            def forward(self, images):
                x = images
                for step in self.encoder:
                    x = step(x)
                x = F.interpolate(F.avg_pool2d(x, 2), scale_factor=4.0, mode="bilinear")
                return F.interpolate(self.head(x), scale_factor=8.0, mode="bilinear")

        model = wrap(Pools()).eval()
        assert (model.strides, model.coarse_stride, model.divisor) == ((4, 8, 16), 8, 32)
        assert model(torch.rand(1, 3, 80, 48)).coarse.shape == (1, K, 12, 8)

    def test_square_images_only(self):
        class Square(Encoder):
            def forward(self, images):
                assert images.shape[-1] == images.shape[-2]
                return super().forward(images)

        with pytest.raises(pna.PnaError, match=r"^Square takes square images only"):
            wrap(Square())

    def test_a_divisor_that_must_be_told(self):
        class Windows(Encoder):
            def forward(self, images):
                assert not any(side % 128 for side in images.shape[-2:]), "windows do not fit"
                return super().forward(images)

        with pytest.raises(pna.PnaError, match=r"(?s)^Windows takes images of .*divisor=128"):
            wrap(Windows())
        assert wrap(Windows(), divisor=128).divisor == 128


class TestInputs:
    def test_other_bands(self):
        class Bands(Encoder):
            def __init__(self):
                super().__init__()
                self.e1 = conv(12, 8, 2)

        model = wrap(Bands()).eval()
        assert model.features_from == ("e2", "e3", "e4")
        assert model(torch.rand(1, 12, 40, 50)).logits.shape == (1, K, 40, 50)

    def test_two_images_in_one(self):
        """Its first convolution takes half of the channels."""

        class Change(Encoder):
            def forward(self, images):
                before, after = images.split(3, dim=1)
                return super().forward(after - before)

        network = Change()
        with pytest.raises(pna.PnaError, match=r"^Change takes images of 6 channels, which its"):
            wrap(network)
        network.in_channels = 6
        model = wrap(network).eval()
        assert model.features_from == ("e2", "e3", "e4")
        assert model(torch.rand(1, 6, 40, 50)).logits.shape == (1, K, 40, 50)

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
    def test_other_types(self, dtype):
        model = wrap(Encoder().to(dtype), freeze=True).eval()
        assert model.features_from == ("e2", "e3", "e4")
        assert model.coarse_from == "head"

    def test_channels_last_logits(self):
        class Last(Encoder):
            def forward(self, images):
                return super().forward(images).permute(0, 2, 3, 1)

        with pytest.raises(pna.PnaError, match=r"^Last returns channels-last logits .*permute"):
            wrap(Last())

    def test_channels_last_images(self):
        class Last(Encoder):
            def forward(self, images):
                return super().forward(images.permute(0, 3, 1, 2))

        with pytest.raises(pna.PnaError, match=r"^Last takes channels-last images .*permute"):
            wrap(Last())

    def test_a_dict_of_inputs(self):
        class Batch(Encoder):
            def forward(self, batch):
                return super().forward(batch["image"])

        with pytest.raises(pna.PnaError, match=r"^Batch takes no plain tensor but a dict .*wrap"):
            wrap(Batch())

    @pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")
    def test_torchscript(self):
        network = nn.Sequential(conv(3, 8, 4), conv(8, 12, 2), nn.Conv2d(12, K, 1))
        assert wrap(network).strides == (4, 8)
        with pytest.raises(pna.PnaError, match=r"^RecursiveScriptModule is TorchScript, "):
            wrap(torch.jit.script(network))
