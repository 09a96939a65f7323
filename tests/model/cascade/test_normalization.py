"""Normalization before a wrapped network: given, or read where a library keeps it."""

import pytest
import segmentation_models_pytorch as smp
import torch
import transformers
from torch import nn

import pna
from pna.errors import PnaError
from pna.model.cascade.sources import build_source
from pna.model.config import SourceConfig
from wrapped_networks import CASES, K, OnTimm, Plain

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def wrap(network, **options):
    return pna.cascade(network, K, pna=None, **options).eval()


def numbers(model):
    return [[round(x, 4) for x in values.flatten().tolist()] for values in (model.mean, model.std)]


def test_stated():
    network = Plain().eval()
    images = torch.rand(1, 3, 32, 48)
    given = ((0.1, 0.2, 0.3), (0.5, 0.25, 0.5))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in given)
    model = wrap(network, normalize=given)
    torch.testing.assert_close(model(images).logits, network((images - mean) / std))
    assert "mean 0.1, 0.2, 0.3, std 0.5, 0.25, 0.5 (normalize=(mean, std))" in repr(model)
    model = wrap(network, normalize=None)
    torch.testing.assert_close(model(images).logits, network(images))
    assert "(normalize=None)" in model.origin
    assert numbers(wrap(network, normalize="imagenet")) == list(IMAGENET)


def test_nothing_is_assumed():
    for network, hint in ((Plain(), ""), (CASES["lraspp"].build(), '.* weights it is "imagenet"')):
        name = type(network).__name__
        with pytest.raises(
            PnaError, match=f"^the normalization of images for {name} is not known.*{hint}"
        ):
            wrap(network)


@pytest.mark.parametrize(
    ("normalize", "message"),
    [
        ("ImageNet", "expected normalize=\"imagenet\", .*got 'ImageNet'"),
        (0.5, 'expected normalize="imagenet", '),
        (((0.5,) * 3, (0.0,) * 3), "expected as many values in mean as in std, those above 0"),
        (((0.5,) * 3, (0.5,) * 4), "expected as many values in mean as in std"),
        (((123.7, 116.3, 103.5), (58.4,) * 3), r"expected a mean of images in \[0, 1\].*by 255"),
        (((0.5,) * 4, (0.5,) * 4), "Plain takes images of 3 channels, but .* has 4 values"),
    ],
)
def test_refused(normalize, message):
    with pytest.raises(PnaError, match=f"^{message}"):
        wrap(Plain(), normalize=normalize)


def test_of_timm():
    model = wrap(OnTimm("tf_efficientnet_lite0"))
    assert numbers(model) == [[0.5] * 3] * 2
    assert "(timm's pretrained_cfg of tf_efficientnet_lite0)" in model.origin


class Around(nn.Module):
    """A wrapper that changes the images before its network is called."""

    def __init__(self, network):
        super().__init__()
        self.inner = network

    def forward(self, images):
        return self.inner(2 * images - 1)


def test_a_wrapper_may_normalize_by_itself():
    with pytest.raises(PnaError, match="^timm's .* is about the input of 'inner.body', but Around"):
        wrap(Around(OnTimm("resnet18")))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = OnTimm("resnet18"), OnTimm("tf_efficientnet_lite0")

    def forward(self, images):
        return self.one(images) + self.two(images)


def test_two_records_that_differ():
    with pytest.raises(PnaError, match="^Two has parts of different normalizations"):
        wrap(Two())


class TestSmp:
    def test_encoders_of_timm(self):
        network = smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, classes=K)
        assert numbers(wrap(network)) == [[0.5] * 3] * 2

    def test_without_encoder_weights(self):
        network = smp.Unet("resnet18", encoder_weights=None, classes=K)
        with pytest.raises(
            PnaError, match="^the normalization of images for Unet is .*get_preprocessing_params"
        ):
            wrap(network)

    @pytest.fixture
    def pretrained(self):
        """As if it had been built with weights, which are not here."""
        network = smp.Unet("resnet18", encoder_weights=None, classes=K)
        network._hub_mixin_config["encoder_weights"] = "imagenet"
        return network

    def params(self, **changes):
        mean, std = IMAGENET
        values = {"input_space": "RGB", "input_range": [0, 1], "mean": mean, "std": std}
        return lambda encoder, weights: {**values, **changes}

    def test_encoder_weights(self, pretrained, monkeypatch):
        monkeypatch.setattr(smp.encoders, "get_preprocessing_params", self.params())
        model = wrap(pretrained)
        assert numbers(model) == list(IMAGENET)
        assert "(smp's preprocessing parameters of resnet18 (imagenet))" in model.origin

    def test_other_ranges(self, pretrained, monkeypatch):
        params = self.params(input_range=[0, 255], mean=[127.5] * 3, std=[51.0] * 3)
        monkeypatch.setattr(smp.encoders, "get_preprocessing_params", params)
        assert numbers(wrap(pretrained)) == [[0.5] * 3, [0.2] * 3]
        bgr = self.params(input_space="BGR")
        monkeypatch.setattr(smp.encoders, "get_preprocessing_params", bgr)
        with pytest.raises(PnaError, match=r"^smp's .* are for BGR.*flip\(1\)"):
            wrap(pretrained)

    def test_out_of_reach(self, pretrained, monkeypatch):
        def refuse(*args):
            raise OSError("no network")

        monkeypatch.setattr(smp.encoders, "get_preprocessing_params", refuse)
        with pytest.raises(PnaError, match="^smp's .* cannot be read .*no network"):
            wrap(pretrained)


class TestTransformers:
    @pytest.fixture
    def folder(self, tmp_path):
        CASES["hf-segformer"].build().save_pretrained(tmp_path)
        return tmp_path

    def load(self, folder, **options):
        transformers.SegformerImageProcessor(**options).save_pretrained(folder)
        return transformers.SegformerForSemanticSegmentation.from_pretrained(folder)

    def test_image_processor(self, folder):
        model = wrap(self.load(folder, image_mean=[0.5, 0.4, 0.3], image_std=[0.3, 0.2, 0.1]))
        assert numbers(model) == [[0.5, 0.4, 0.3], [0.3, 0.2, 0.1]]
        assert "(the image processor of " in model.origin

    def test_without_rescaling(self, folder):
        network = self.load(folder, do_rescale=False, image_mean=[102.0] * 3, image_std=[51.0] * 3)
        assert numbers(wrap(network)) == [[0.4] * 3, [0.2] * 3]
        network = self.load(folder, do_normalize=False)
        assert numbers(wrap(network)) == [[0.0] * 3, [1.0] * 3]

    def test_none(self, folder):
        network = transformers.SegformerForSemanticSegmentation.from_pretrained(folder)
        with pytest.raises(PnaError, match="^the image processor of .* cannot be read"):
            wrap(network)
        with pytest.raises(
            PnaError, match="^the normalization .* Segformer.* not known.*from a configuration"
        ):
            wrap(CASES["hf-segformer"].build())


def test_of_torchvision_by_name():
    source = SourceConfig("torchvision", "lraspp_mobilenet_v3_large")
    model = wrap(build_source(source, K, encoder_weights=None), source=source)
    assert numbers(model) == list(IMAGENET)
    assert "(the transforms of torchvision's weights of lraspp_mobilenet_v3_large)" in model.origin


class Bands(Plain):
    """Of gray images, or of a satellite's bands."""

    def __init__(self, channels):
        super().__init__()
        self.stem = self._down(channels, 8)


class Repeated(Plain):
    def forward(self, images):
        return super().forward(images.repeat(1, 3, 1, 1))


class TestOtherChannels:
    @pytest.mark.parametrize("channels", [1, 4, 12])
    @torch.inference_mode()
    def test_they_are_found(self, channels, tmp_path):
        normalize = ([0.25] * channels, [0.5] * channels)
        model = pna.cascade(Bands(channels), K, normalize=normalize).eval()
        images = torch.rand(1, channels, 40, 50)
        logits = model(images).logits
        assert logits.shape == (1, K, 40, 50)
        with pytest.raises(PnaError, match=rf"^expected images \(B, {channels}, H, W\), got"):
            model(torch.rand(1, 2, 40, 50))
        model.save_pretrained(tmp_path)
        loaded = pna.load(tmp_path, network=Bands(channels))
        torch.testing.assert_close(loaded(images).logits, logits)

    def test_of_smp(self):
        network = smp.Unet("resnet18", encoder_weights=None, classes=K, in_channels=4)
        model = wrap(network, normalize=None)
        assert model(torch.rand(1, 4, 33, 47)).logits.shape == (1, K, 33, 47)

    def test_repeated_inside(self):
        assert len(wrap(Repeated(), normalize=None).mean) == 1

    def test_imagenet_has_three(self):
        with pytest.raises(PnaError, match="^Bands takes images of 4 channels, but normalize="):
            wrap(Bands(4), normalize="imagenet")
