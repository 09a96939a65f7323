"""What all rivals owe a user: any size, any number of classes, files, counts, gradients."""

import re

import pytest
import torch

import pna
from pna.cli import main
from pna.labels import generic
from pna.model.config import ModelConfig
from pna.model.counts import count

SMALL = {"encoder": "resnet18", "pretrained": False, "aux": False, "coarse_channels": 16}
OPTIONS = {
    "lite-decoder": {"widths": (32, 32, 32, 32), "window": 3},
    "deeplabv3plus": {"rates": (2, 4)},
    "fapn": {},
    "fcn-segfix": {},
}
NUM_STAGES = {"lite-decoder": 4, "fcn-segfix": 1}
STRIDES = {"lite-decoder": 4, "deeplabv3plus": 4, "fapn": 4, "fcn-segfix": 1}  # of the last output


def _model(preset, num_classes=3):
    torch.manual_seed(0)
    return pna.create_model(preset, num_classes=num_classes, **SMALL, **OPTIONS[preset])


@pytest.mark.parametrize("preset", OPTIONS)
@pytest.mark.parametrize(("num_classes", "size"), [(1, (1, 1)), (2, (33, 70)), (21, (64, 96))])
def test_any_size_and_number_of_classes(preset, num_classes, size):
    model = _model(preset, num_classes).eval()
    with torch.inference_mode():
        output = model(torch.rand(1, 3, *size), stages=True)
    assert output.logits.shape == (1, num_classes, *size)
    assert output.logits.isfinite().all()
    assert len(output.stages) == NUM_STAGES.get(preset, 0) == model.num_stages
    height, width = model.padded_size(size)
    finest = output.stages[-1] if output.stages else output.coarse
    assert finest.shape[-2:] == (height // STRIDES[preset], width // STRIDES[preset])


@pytest.mark.parametrize("preset", OPTIONS)
def test_round_trip(preset, tmp_path):
    model = _model(preset).eval()
    model.save_pretrained(tmp_path / "model")
    again = pna.load(tmp_path / "model")
    assert again.config == model.config == ModelConfig.from_dict(model.config.to_dict())
    pictures = torch.rand(1, 3, 40, 60)
    with torch.inference_mode():
        torch.testing.assert_close(again(pictures).logits, model(pictures).logits, rtol=0, atol=0)


@pytest.mark.parametrize("preset", OPTIONS)
def test_training_reaches_the_whole_encoder(preset):
    model = _model(preset).train()
    output = model(torch.rand(2, 3, 64, 64))
    outputs = [output.logits, *output.stages, *output.aux.values()]
    sum((x * torch.randn_like(x)).sum() for x in outputs).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("preset", OPTIONS)
def test_info(preset, capsys):
    assert main(["info", preset, "--encoder", "resnet18", "--size", "64", "96"]) == 0
    out = capsys.readouterr().out
    assert f"{NUM_STAGES.get(preset, 0)} refinement stages" in out
    has_part = re.search(r"^\s*refinement\s+[\d.]", out, re.M) is not None
    assert has_part == (preset == "fcn-segfix")


def test_deformable_convolutions_are_counted():
    """FaPN's multiply-accumulates on one level, worked out by hand."""
    parts = count(pna.create_model("fapn", num_classes=3, **SMALL), (64, 64))
    (head,) = [part for part in parts if part.part == "coarse head"]
    by_level = {4: (16, 64), 8: (8, 128), 16: (4, 256)}  # side, channels of resnet18
    width, slim = 32, 16  # coarse_channels is 16
    macs = 2 * 2 * 512 * width  # coarsest level
    for side, channels in by_level.values():
        select = channels * channels + side**2 * channels * width
        look = 2 * width * width + 9 * width * 216  # 8 groups of 9 taps, 3 numbers each
        macs += select + side**2 * (look + 9 * width * width + 9 * width * width)
    to_the_finest = [(16,), (8,), (4, 8), (2, 4, 8)]  # sides of each level's convolutions
    for sides in to_the_finest:
        for place, side in enumerate(sides):
            macs += 9 * side**2 * (slim if place else width) * slim
    assert head.macs == macs + 16**2 * slim * 3


def test_a_rival_from_a_file_of_another_version():
    with pytest.raises(ValueError, match="unknown rivals"):
        ModelConfig.from_dict({"encoder": "resnet18", "rivals": "segfix"})
    assert pna.model.presets.build(ModelConfig("resnet18", rival="segfix"), generic(2)).num_stages
