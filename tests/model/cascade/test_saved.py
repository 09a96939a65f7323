"""Cascades that are saved: everything comes back, or is refused in words before it is lost."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18
from torchvision.models.feature_extraction import create_feature_extractor

import pna
from pna.errors import PnaError
from pna.labels import LabelSpace
from pna.model.config import SourceConfig
from pna.model.saving import check_saveable
from pna.model.state import distinct_tensors, fill, read_weights
from wrapped_networks import K, Plain

SMALL = replace(pna.PNAConfig.for_cascade(), widths=(32, 32, 32))


def wrap(network=None, **options):
    torch.manual_seed(0)
    options = {"normalize": None, "pna": SMALL, **options}
    return pna.cascade(network or Plain(), K, **options).eval()


@torch.inference_mode()
def check_round_trip(model, network, folder, **options):
    model.save_pretrained(folder)
    loaded = pna.load(folder, network=network, **options)
    images = torch.rand(1, 3, 33, 47)
    torch.testing.assert_close(loaded(images).logits, model(images).logits)
    assert loaded.origin == model.origin
    return loaded


class TestArguments:
    def test_a_network_of_ones_own_must_be_given(self, tmp_path):
        wrap().save_pretrained(tmp_path)
        with pytest.raises(PnaError, match=r"^expected the network .*Plain; .*network=\.\.\.\)"):
            pna.load(tmp_path)

    def test_so_must_its_function(self, tmp_path):
        def whole(output):
            return output

        model = wrap(coarse=whole)
        check_round_trip(model, Plain(), tmp_path, coarse=whole)
        with pytest.raises(PnaError, match=r"^expected the function .*coarse=\.\.\.\)"):
            pna.load(tmp_path, network=Plain())
        wrap().save_pretrained(tmp_path)
        with pytest.raises(PnaError, match=r"^expected no coarse=, since P0 is the output of 'cla"):
            pna.load(tmp_path, network=Plain(), coarse=whole)

    def test_another_network_does_not_fit(self, tmp_path):
        wrap().save_pretrained(tmp_path)
        with pytest.raises(PnaError, match="^Sequential has no module 'down1'"):
            pna.load(tmp_path, network=nn.Sequential(nn.Conv2d(3, K, 1)))
        wider = Plain()
        wider.down3 = wider._down(16, 40)
        wider.up = nn.Conv2d(40 + 16, 16, 3, padding=1)
        with pytest.raises(PnaError, match=r"^.*model.safetensors does not fit Cascade.*down3\.0"):
            pna.load(tmp_path, network=wider)

    def test_a_preset_takes_no_network(self, tmp_path):
        model = pna.create_model("lite-fcn", num_classes=2, encoder_weights=None)
        model.save_pretrained(tmp_path)
        with pytest.raises(PnaError, match="^expected no network= and coarse= for a model of the"):
            pna.load(tmp_path, network=Plain())


def test_normalization_and_freezing_come_back(tmp_path):
    model = wrap(freeze=True, normalize=((0.1, 0.2, 0.3), (0.4, 0.5, 0.6)))
    loaded = check_round_trip(model, Plain(), tmp_path)
    assert loaded.freeze
    torch.testing.assert_close(loaded.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(loaded.std.flatten(), torch.tensor([0.4, 0.5, 0.6]))


def test_an_unknown_setting(tmp_path):
    wrap().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["cascade"]["color"] = "red"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(PnaError, match=r"^.*config.json: unknown color"):
        pna.load(tmp_path, network=Plain())


class DigitKeys(nn.Module):
    """A backbone that returns a dict with digits as keys, as torchvision's documentation has it."""

    def __init__(self):
        super().__init__()
        nodes = {f"layer{i + 1}": str(i) for i in range(4)}
        self.body = create_feature_extractor(resnet18(weights=None), nodes)
        self.head = nn.Conv2d(512, K, 1)

    def forward(self, images):
        return self.head(self.body(images)["3"])


def test_keys_that_are_digits(tmp_path):
    wide = replace(SMALL, widths=(32,) * 4)
    names = [f"body['{i}']" for i in range(4)]
    model = wrap(DigitKeys(), features=names, pna=wide)
    assert model.features_from == tuple(names)
    check_round_trip(model, DigitKeys(), tmp_path)


class Tied(Plain):
    """One layer under two names, a tied weight, and two parts of one memory."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(self.stem, self.down1)
        self.again = self.classify
        flat = torch.rand(2, 3)
        self.register_buffer("one", flat[0])
        self.register_buffer("two", flat[1])
        self.mixed = nn.Conv2d(16, 16, 1)
        self.other = nn.Conv2d(16, 16, 1)
        self.other.weight = self.mixed.weight

    def forward(self, images):
        x4 = self.first(images)
        x8 = self.down2(x4)
        x16 = F.interpolate(self.down3(x8), scale_factor=2.0)
        return self.again(self.other(self.mixed(self.up(torch.cat([x16, x8], 1)))))


class TestSharedWeights:
    def test_round_trip(self, tmp_path):
        model = wrap(Tied())
        model(torch.rand(2, 3, 32, 48)).logits.mean().backward()
        loaded = check_round_trip(model, Tied(), tmp_path)
        assert loaded.base.first[0] is loaded.base.stem
        for name in ("one", "two"):
            assert torch.equal(getattr(loaded.base, name), getattr(model.base, name))

    def test_a_tensor_is_written_once(self, tmp_path):
        wrap(Tied()).save_pretrained(tmp_path, dtype=torch.float16)
        state = safetensors.torch.load_file(tmp_path / "model.safetensors")
        assert "base.stem.0.weight" in state
        assert "base.first.0.0.weight" not in state
        assert state["base.mixed.weight"].dtype == torch.float16
        assert "base.other.weight" not in state

    def test_other_readers(self, tmp_path):
        network = nn.Sequential(*[nn.Conv2d(8, 8, 1)] * 2)
        state, same = distinct_tensors(network.state_dict())
        safetensors.torch.save_file(state, tmp_path / "x.safetensors", same)
        other = nn.Sequential(*[nn.Conv2d(8, 8, 1)] * 2)
        safetensors.torch.load_model(other, tmp_path / "x.safetensors")
        torch.testing.assert_close(other.state_dict(), network.state_dict())

    def test_other_writers(self, tmp_path):
        """transformers writes one of the names, and not the others."""
        network = nn.Sequential(*[nn.Conv2d(8, 8, 1)] * 2)
        safetensors.torch.save_file(nn.Conv2d(8, 8, 1).state_dict(prefix="1."), tmp_path / "x")
        fill(network, read_weights(tmp_path / "x"), "x")
        assert torch.equal(network[0].bias, safetensors.torch.load_file(tmp_path / "x")["1.bias"])

    def test_into_a_network_without_ties(self, tmp_path):
        network = Tied()
        network.other.weight = nn.Parameter(torch.zeros_like(network.mixed.weight))
        check_round_trip(wrap(Tied()), network, tmp_path)


def test_numbers_of_numpy(tmp_path):
    colors = tuple(map(tuple, np.arange(3 * K).reshape(K, 3)))
    labels = LabelSpace("t", tuple("abcdefg"), colors, scored=tuple(np.arange(3)))
    half = np.full(3, 0.5, np.float32)
    model = wrap(labels=labels, normalize=(half, half), divisor=np.int64(16))
    assert check_round_trip(model, Plain(), tmp_path).labels == labels


class WithState(Plain):
    def get_extra_state(self):
        return {"version": 3}

    def set_extra_state(self, state):
        pass


class TestRefusedAtTheStart:
    def test_a_value_without_json(self):
        model = wrap()
        source = SourceConfig("smp", "Unet", {"path": Path("x")})
        model.config = replace(model.config, source=source)
        with pytest.raises(PnaError, match=r"^expected plain values .*PosixPath\('x'\)"):
            check_saveable(model)

    def test_state_that_is_no_tensor(self, tmp_path):
        with pytest.warns(UserWarning, match="^this cascade cannot be saved: expected tensors in"):
            model = wrap(WithState())
        model(torch.rand(1, 3, 32, 48))
        with pytest.raises(
            PnaError, match="^expected tensors in .* got dict at 'base._extra_state"
        ):
            model.save_pretrained(tmp_path)
        assert not list(tmp_path.iterdir())

    def test_sparse_tensors(self):
        network = Plain()
        network.register_buffer("graph", torch.eye(3).to_sparse())
        with pytest.warns(UserWarning, match="^this cascade cannot be saved: base.graph of type"):
            wrap(network)
