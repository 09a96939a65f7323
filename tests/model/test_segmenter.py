"""The whole model: sizes, padding, outputs, presets, counts."""

import pytest
import torch

import pna
from pna.labels import VOC
from pna.model.config import ModelConfig
from pna.model.counts import count
from pna.model.presets import PRESETS, build
from pna.model.segmenter import Segmenter


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return pna.create_model("lite", labels=VOC, pretrained=False).eval()


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 31), (64, 96)])
def test_any_size_comes_back(model, size):
    with torch.inference_mode():
        output = model(torch.rand(1, 3, *size), stages=True)
    assert output.logits.shape == (1, 21, *size)
    assert len(output.stages) == 4
    for logits in (output.coarse, *output.stages):
        assert model.upsample(logits, size).shape == (1, 21, *size)
    torch.testing.assert_close(model.upsample(output.stages[-1], size), output.logits)


def test_outputs_follow_the_mode(model):
    picture = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert model(picture).stages == []
        assert model(picture).aux == {}
    trained = pna.create_model(
        "fcn-pna",
        encoder="resnet18",
        num_classes=4,
        pretrained=False,
        widths=(32, 32, 32, 32),
        coarse_channels=16,
    ).train()
    output = trained(picture)
    assert len(output.stages) == 4
    assert output.aux["aux"].shape == (2, 4, 4, 4)
    output.logits.sum().backward()
    assert all(p.grad is not None for p in trained.refiner.parameters())
    assert next(trained.encoder.parameters()).grad.abs().sum() > 0  # nothing is detached


def test_convolutions_are_channels_last(model):
    kernels = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in kernels)
    assert model.eval().encoder(torch.rand(1, 3, 64, 64))[0].stride()[1] == 1


def test_normalisation_and_padding_are_the_models(model, monkeypatch):
    seen = []
    monkeypatch.setattr(model.encoder, "forward", lambda x: seen.append(x) or [])
    picture = torch.rand(1, 3, 40, 33)
    with pytest.raises(ValueError, match="got 0"):
        model(picture)  # the encoder is a stand-in
    (x,) = seen
    assert x.shape == (1, 3, 64, 64)
    plain = x * model.std + model.mean
    torch.testing.assert_close(plain[..., :40, :33], picture)
    torch.testing.assert_close(plain[..., 40:, :33], picture[..., -1:, :].expand(1, 3, 24, 33))
    torch.testing.assert_close(plain[..., :40, 33:], picture[..., -1:].expand(1, 3, 40, 31))


def test_padding_does_not_shift_the_picture(model):
    """Logits of a padded picture line up with its pixels: cell i covers [s i, s i + s)."""
    ramp = torch.arange(3.0).reshape(1, 1, 1, 3).expand(1, 1, 2, 3)  # 64 x 96, strides of 32
    full = model.upsample(ramp, (64, 96))
    torch.testing.assert_close(model.upsample(ramp, (50, 70)), full[..., :50, :70])
    assert float(full[0, 0, 0, 48]) == pytest.approx(1, abs=0.02)  # the centre of cell 1


def test_stop_at(model):
    picture = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        stages = model(picture, stages=True).stages
        stopped = model(picture, stages=True, stop_at=2)
    assert len(stopped.stages) == 2
    torch.testing.assert_close(stopped.logits, model.upsample(stages[1], (64, 64)))


def test_similarity(model):
    found = model.similarity(torch.rand(1, 3, 70, 90), point=(89, 10))
    assert [s.stage for s in found] == [1, 2, 3, 4]
    assert [s.stride for s in found] == [32, 16, 8, 4]
    assert [(s.row, s.col) for s in found] == [(0, 2), (0, 5), (1, 11), (2, 22)]
    for s in found:
        assert s.weights.shape[1:] == (s.rows[1] - s.rows[0], s.cols[1] - s.cols[0])
        assert s.rows[0] <= s.row < s.rows[1]
        assert s.cols[0] <= s.col < s.cols[1]


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (torch.rand(3, 64, 64), r"\(B, 3, H, W\), RGB, got \(3, 64, 64\)"),
        (torch.rand(1, 4, 64, 64), r"\(1, 4, 64, 64\)"),
        (torch.rand(1, 3, 0, 64), r"\(1, 3, 0, 64\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"in \[0, 1\], floating point.*uint8"),
    ],
)
def test_bad_pictures(model, pictures, message):
    with pytest.raises(ValueError, match=message):
        model(pictures)


def test_without_refinement():
    model = pna.create_model("lite-fcn", num_classes=3, pretrained=False).eval()
    with torch.inference_mode():
        output = model(torch.rand(1, 3, 40, 40), stages=True)
    assert output.stages == []
    torch.testing.assert_close(output.logits, model.upsample(output.coarse, (40, 40)))
    with pytest.raises(ValueError, match="no refinement stages"):
        model(torch.rand(1, 3, 40, 40), stop_at=1)
    with pytest.raises(ValueError, match="no similarity"):
        model.similarity(torch.rand(1, 3, 40, 40), point=(0, 0))


def test_a_point_outside(model):
    with pytest.raises(ValueError, match=r"inside 40x30 pixels, got \(40, 0\)"):
        model.similarity(torch.rand(1, 3, 30, 40), point=(40, 0))


# ---- presets


def _on_meta(preset, **options):
    with torch.device("meta"):
        return pna.create_model(preset, pretrained=False, num_classes=21, **options)


TABLE_1 = {
    "fcn": (49.50, 28.65),
    "fcn-os8": (49.50, 197.60),
    "fcn-pna-nam": (56.39, 34.01),
    "fcn-pna": (65.88, 41.65),
}


@pytest.mark.parametrize("preset", TABLE_1)
def test_counts_of_the_papers_table_1(preset):
    parts = count(pna.create_model(preset, num_classes=21, pretrained=False), (512, 512))
    parameters, macs = TABLE_1[preset]
    assert sum(p.parameters for p in parts) / 1e6 == pytest.approx(parameters, abs=0.01)
    assert sum(p.macs for p in parts) / 1e9 == pytest.approx(macs, abs=0.02)
    attention = sum(p.attention_macs for p in parts)
    cells = [(16, 768), (32, 384), (64, 192), (128, 96)] if "pna" in preset else []
    assert attention == sum(2 * n * n * 81 * width for n, width in cells)


ENCODERS = ("resnet101c", "swin_tiny_patch4_window7_224", "swin_base_patch4_window7_224")


@pytest.mark.parametrize("preset", [name for name in PRESETS if "lite" not in name])
@pytest.mark.parametrize("encoder", ["resnet18", *ENCODERS])
def test_every_preset_on_the_papers_encoders(preset, encoder):
    if encoder.startswith("swin") and preset == "fcn-os8":
        pytest.skip("dilation is what this preset is for")
    model = _on_meta(preset, encoder=encoder).eval()
    with torch.no_grad():
        output = model(torch.empty(1, 3, 64, 96, device="meta"), stages=True)
    assert output.logits.shape == (1, 21, 64, 96)
    assert len(output.stages) == (4 if PRESETS[preset].pna else model.num_stages)
    wanted = 32 if encoder.startswith("swin") else PRESETS[preset].output_stride
    assert max(model.encoder.strides) == wanted == model.config.output_stride


def test_a_stride_that_was_asked_for_is_not_dropped():
    with pytest.raises(ValueError, match="output_stride"):
        _on_meta("psp-pna", encoder="swin_tiny_patch4_window7_224", output_stride=16)


def test_overrides_reach_the_model():
    model = _on_meta("lite", window=5, residual="add", widths=(32, 32, 32, 64), aux=True)
    assert {stage.residual for stage in model.refiner.stages} == {"add"}
    assert model.refiner.stages[0].fusion.neighborhood.window == 5
    assert model.auxiliary is not None
    assert model.config.pna.widths == (32, 32, 32, 64)


def _embedding_biases(model):
    names = [name for name, _ in model.named_parameters()]
    return [name for name in names if "embed_" in name and name.endswith("bias")]


def test_deeplab_takes_rates_and_a_multi_grid():
    options = {"rates": (6, 12, 18), "multi_grid": (1, 2, 4), "embedding_bias": False}
    model = _on_meta("deeplabv3-pna", encoder="resnet50s", coarse_channels=64, **options)
    dilations = [
        m.dilation[0] for m in model.coarse.pyramid.branches.modules() if hasattr(m, "dilation")
    ]
    assert dilations == [1, 6, 12, 18]
    assert (model.config.rates, model.config.multi_grid) == ((6, 12, 18), (1, 2, 4))
    assert not _embedding_biases(model)
    assert len(_embedding_biases(_on_meta("lite"))) == 8
    assert ModelConfig.from_dict(model.config.to_dict()) == model.config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "unet"}, "known are fcn,"),
        ({"preset": "lite", "num_classes": None}, "got neither"),
        ({"preset": "lite", "labels": VOC, "num_classes": 5}, "'voc2012' has 21"),
        ({"preset": "fcn", "residual": "add"}, "no refinement, got residual"),
        ({"preset": "psp", "rates": (6, 12)}, "rates are for deeplabv3, got 'psp'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        pna.create_model(**{"num_classes": 21, "pretrained": False, **arguments})


def test_labels_may_be_names(model):
    assert model.labels == VOC
    assert model.num_classes == 21
    assert model.num_stages == 4
    assert isinstance(build(model.config, VOC), Segmenter)
