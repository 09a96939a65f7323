"""Saving and finding models."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import pna
from disk_full import too_large_from
from pna.errors import PnaError, WeightsError
from pna.labels import CAMVID
from pna.model.config import InferenceSize, ModelConfig, ModelOptions
from pna.model.loading import bundled_models
from pna.model.segmenter import Segmenter


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = pna.create_model(
        "lite",
        labels=CAMVID,
        encoder_weights=None,
        pna=pna.PNAConfig(widths=(32, 32, 32, 32), window=3),
        options=ModelOptions(aux=True),
    )
    for name, buffer in model.named_buffers():
        if "running" in name:  # norm statistics off their initial values
            buffer.add_(0.1234567)
    return model.eval()


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def _logits(model):
    torch.manual_seed(3)
    with torch.inference_mode():
        return model(torch.rand(1, 3, 50, 70)).logits


def test_round_trip(model, saved):
    again = pna.load(str(saved))
    assert not again.training
    assert again.labels == CAMVID
    assert again.config == model.config
    torch.testing.assert_close(_logits(again), _logits(model), rtol=0, atol=0)
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1


def test_a_failed_write_leaves_the_old_model(model, saved):
    """The system refuses, as it does when a disk is full; the old files stay, no new ones come."""
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with too_large_from(100_000), pytest.raises(OSError, match="weights could not be written: .*"):
        model.save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_the_configuration_is_readable(saved):
    config = json.loads((saved / "config.json").read_text())
    assert config["labels"]["classes"] == list(CAMVID.classes)
    assert config["ignore_index"] == 255
    assert config["normalization"]["mean"] == [0.5, 0.5, 0.5]
    assert config["model"]["pna"]["residual"] == "gather"


def test_half_precision_keeps_the_norms(model, tmp_path):
    model.save_pretrained(tmp_path, dtype=torch.float16)
    again = pna.load(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    for (name, a), b in zip(again.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=name)
    error = (_logits(again) - _logits(model)).abs().max() / _logits(model).abs().max()
    assert 0 < error < 0.02


def test_normalization_is_restored(saved):
    config = json.loads((saved / "config.json").read_text())
    config["normalization"] = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}
    (saved / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(pna.load(saved).mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))


def test_saving_again_replaces_and_keeps_other_files(model, saved):
    (saved / "notes.txt").write_text("mine")
    model.save_pretrained(saved)
    assert (saved / "notes.txt").read_text() == "mine"
    assert not list(saved.glob(".writing*"))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "^.* is not a saved model: .*config.json is mis"),
        (
            lambda f: (f / "model.safetensors").unlink(),
            "^.* is not a saved model: .*tensors is",
        ),
        (
            lambda f: (f / "config.json").write_text("{"),
            "^the saved model .* is damaged: conf",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"PK"),
            "^the saved model .* is damaged: model.safe",
        ),
        (lambda f: _edit(f, "ignore_index", 0), "^.*config.json: expected ignore_index 255, got 0"),
        (lambda f: _edit(f, "format", 99), "^.*config.json: expected a saved model of format 3"),
        (lambda f: _edit(f, "model", None), "^.*config.json: expected the settings of ModelConfig"),
        (lambda f: _edit(f, "labels", {}), "^.*config.json: "),
        (lambda f: _edit(f, "model", _model(f) | {"encoder": None}), "^.*json: expected the name"),
    ],
    ids=[
        "no config",
        "no weights",
        "no JSON",
        "no safetensors",
        "ignore index",
        "format",
        "model",
        "labels",
        "encoder",
    ],
)
def test_damage(saved, harm, message):
    harm(saved)
    with pytest.raises(ValueError, match=message):
        pna.load(saved)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"mean": [0.5]},
        {"mean": [0.5], "std": [0.5]},
        {"mean": [0.5] * 3, "std": [0] * 3},
        {"mean": [0.5] * 3, "std": ["1"] * 3},
    ],
    ids=["none", "no std", "one channel", "zero", "text"],
)
def test_damaged_normalization(saved, value):
    """A standard deviation of 0 would make every image infinite, and say nothing."""
    _edit(saved, "normalization", value)
    with pytest.raises(PnaError, match="^.*config.json: expected a normalization of"):
        pna.load(saved)


def _model(folder):
    return json.loads((folder / "config.json").read_text())["model"]


def _edit(folder, key, value):
    config = json.loads((folder / "config.json").read_text())
    config[key] = value
    (folder / "config.json").write_text(json.dumps(config))


def test_weights_of_another_model(saved, tmp_path):
    other = pna.create_model("lite-fcn", labels=CAMVID, encoder_weights=None)
    other.save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", saved)
    with pytest.raises(
        ValueError, match="^.*model.safetensors does not fit Segmenter as it is built"
    ):
        pna.load(saved)


def test_unknown_names_list_what_there_is():
    for name in ("voc-light", "runs/", "my runs/model"):  # the last two: no names on the hub
        with pytest.raises(PnaError, match=f"^no model '{name}'.*bundled model"):
            pna.load(name)


def test_the_hub_out_of_reach(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="'someone/model' is no folder here"):
        pna.load("someone/model")


def test_pushing(model, monkeypatch):
    """The hub gets the two files, in a repository that was made for them."""
    calls = {}

    class Api:
        endpoint = "https://hub.example"

        def create_repo(self, repository, private, exist_ok):
            calls["made"] = (repository, private)

        def upload_folder(self, repo_id, folder_path):
            calls["files"] = sorted(p.name for p in Path(folder_path).iterdir())

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert model.push_to_hub("me/model", private=True) == "https://hub.example/me/model"
    assert calls == {
        "made": ("me/model", True),
        "files": ["README.md", "config.json", "model.safetensors"],
    }


def test_pushing_out_of_reach(model, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(WeightsError, match="save_pretrained.*works without"):
        model.push_to_hub("me/model")


def test_a_model_put_together_by_hand(model, tmp_path):
    bare = Segmenter(model.encoder, model.coarse, model.labels)
    with pytest.raises(ValueError, match="^this model has no configuration to save"):
        bare.save_pretrained(tmp_path)


def test_unknown_configuration():
    values = ModelConfig("fcn", "resnet18").to_dict()
    with pytest.raises(PnaError, match="^unknown depth .* later version"):
        ModelConfig.from_dict(values | {"depth": 3})
    del values["encoder"]
    with pytest.raises(PnaError, match="^the model's configuration lacks encoder"):
        ModelConfig.from_dict(values)


def test_options_come_back_all_of_them():
    options = ModelOptions(inference_size=InferenceSize(4, 8), pool_window=(2, 3), padding="mean")
    config = ModelConfig("fcn", "resnet18", options)
    values = json.loads(json.dumps(config.to_dict()))
    assert ModelConfig.from_dict(values) == config
    del values["options"]["padding"]
    with pytest.raises(PnaError, match="^the model's configuration lacks padding"):
        ModelConfig.from_dict(values)


def test_a_baseline_needs_its_presets(saved):
    config = json.loads((saved / "config.json").read_text())
    _edit(saved, "model", config["model"] | {"preset": "lite-decoder"})
    with pytest.raises(PnaError, match="^.*config.json: unknown preset 'lite-decoder'; known are"):
        pna.load(saved)


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_models(name):
    model = pna.load(name)
    with torch.inference_mode():
        logits = model(torch.rand(1, 3, 60, 80)).logits
    assert logits.shape == (1, model.num_classes, 60, 80)
    assert logits.isfinite().all()
