"""The whole model: sizes, padding, outputs, presets, counts."""

import json

import pytest
import torch
from torch import nn

import pna
from color_segmenter import ColorSegmenter
from pna import PNAConfig, PnaError
from pna.labels import VOC, generic
from pna.model.coarse.fcn import FCNHead
from pna.model.config import InferenceSize, ModelConfig, ModelOptions
from pna.model.counts import count
from pna.model.presets import PRESETS
from pna.model.segmenter import Segmenter


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return pna.create_model("lite", labels=VOC, encoder_weights=None).eval()


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 31), (64, 96)])
def test_any_size_comes_back(model, size):
    with torch.inference_mode():
        output = model(torch.rand(1, 3, *size), stages=True)
    assert output.logits.shape == (1, 21, *size)
    assert len(output.stages) == 4
    for logits in (output.coarse, *output.stages):
        assert model.upsample(logits, size).shape == (1, 21, *size)
    torch.testing.assert_close(model.upsample(output.stages[-1], size), output.logits)


@torch.inference_mode()
def test_one_graph_for_free_sizes():
    """Padding is written so that a compiler sees whole strides in it."""
    small = ColorSegmenter().eval()
    torch.compiler.reset()
    compiled = torch.compile(small, backend="aot_eager", dynamic=True, fullgraph=True)
    for size in ((33, 47), (66, 21)):
        images = torch.rand(1, 3, *size)
        torch.testing.assert_close(compiled(images).logits, small(images).logits)


def test_outputs_follow_the_mode(model):
    image = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        assert model(image).stages == []
        assert model(image).aux == {}
    trained = pna.create_model(
        "fcn-pna",
        encoder="resnet18",
        num_classes=4,
        encoder_weights=None,
        pna=PNAConfig(widths=(32, 32, 32, 32)),
        options=ModelOptions(coarse_channels=16),
    ).train()
    output = trained(image)
    assert len(output.stages) == 4
    assert output.aux["aux"].shape == (2, 4, 4, 4)
    output.logits.sum().backward()
    assert all(p.grad is not None for p in trained.refiner.parameters())
    assert next(trained.encoder.parameters()).grad.abs().sum() > 0  # nothing is detached


def test_convolutions_are_channels_last(model):
    kernels = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in kernels)
    assert model.eval().encoder(torch.rand(1, 3, 64, 64))[0].stride()[1] == 1


def test_normalization_and_padding_are_the_models(model, monkeypatch):
    seen = []
    monkeypatch.setattr(model.encoder, "forward", lambda x: seen.append(x) or [])
    image = torch.rand(1, 3, 40, 33)
    with pytest.raises(ValueError, match="got 0"):
        model(image)  # the encoder is a stand-in
    (x,) = seen
    assert x.shape == (1, 3, 64, 64)
    plain = x * model.std + model.mean
    torch.testing.assert_close(plain[..., :40, :33], image)
    torch.testing.assert_close(plain[..., 40:, :33], image[..., -1:, :].expand(1, 3, 24, 33))
    torch.testing.assert_close(plain[..., :40, 33:], image[..., -1:].expand(1, 3, 40, 31))


def test_padding_does_not_shift_the_image(model):
    """Logits of a padded image line up with its pixels: cell i covers [s i, s i + s)."""
    ramp = torch.arange(3.0).reshape(1, 1, 1, 3).expand(1, 1, 2, 3)  # 64 x 96, strides of 32
    full = model.upsample(ramp, (64, 96))
    torch.testing.assert_close(model.upsample(ramp, (50, 70)), full[..., :50, :70])
    assert float(full[0, 0, 0, 48]) == pytest.approx(1, abs=0.02)  # the center of cell 1


def test_similarity(model):
    found = model.similarity(torch.rand(1, 3, 70, 90), point=(89, 10))
    assert [s.stage for s in found] == [1, 2, 3, 4]
    # Of the logits that are gathered: P0, at stride 32, and those of the stages before.
    assert [s.stride for s in found] == [32, 32, 16, 8]
    assert [(s.row, s.col) for s in found] == [(0, 2), (0, 2), (0, 5), (1, 11)]
    for s in found:
        assert s.weights.shape[1:] == (s.rows[1] - s.rows[0], s.cols[1] - s.cols[0])
        assert s.rows[0] <= s.row < s.rows[1]
        assert s.cols[0] <= s.col < s.cols[1]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(3, 64, 64), r"\(B, 3, H, W\), RGB, got \(3, 64, 64\)"),
        (torch.rand(1, 4, 64, 64), r"\(1, 4, 64, 64\)"),
        (torch.rand(1, 3, 0, 64), r"\(1, 3, 0, 64\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"in \[0, 1\], floating point.*uint8"),
    ],
)
def test_bad_images(model, images, message):
    with pytest.raises(ValueError, match=message):
        model(images)


def test_without_refinement():
    model = pna.create_model("lite-fcn", num_classes=3, encoder_weights=None).eval()
    with torch.inference_mode():
        output = model(torch.rand(1, 3, 40, 40), stages=True)
    assert output.stages == []
    torch.testing.assert_close(output.logits, model.upsample(output.coarse, (40, 40)))
    with pytest.raises(ValueError, match="^this model is not refined by PNA"):
        model.similarity(torch.rand(1, 3, 40, 40), point=(0, 0))


def test_a_point_outside(model):
    with pytest.raises(
        ValueError, match=r"^expected a point \(x, y\) inside 40x30 pixels, got \(40, 0\)"
    ):
        model.similarity(torch.rand(1, 3, 30, 40), point=(40, 0))


# ---- presets


def _on_meta(preset, **arguments):
    with torch.device("meta"):
        return pna.create_model(preset, 21, encoder_weights=None, **arguments)


TABLE_1 = {
    "fcn": (49.50, 28.65),
    "fcn-os8": (49.50, 197.60),
    "fcn-pna-nam": (56.39, 34.01),
    "fcn-pna": (65.88, 41.65),
}


@pytest.mark.parametrize("preset", TABLE_1)
def test_counts_of_the_papers_table_1(preset):
    parts = count(pna.create_model(preset, num_classes=21, encoder_weights=None), (512, 512))
    parameters, macs = TABLE_1[preset]
    assert sum(p.parameters for p in parts) / 1e6 == pytest.approx(parameters, abs=0.01)
    assert sum(p.macs for p in parts) / 1e9 == pytest.approx(macs, abs=0.02)
    attention = sum(p.attention_macs for p in parts)
    cells = [(16, 768), (32, 384), (64, 192), (128, 96)] if "pna" in preset else []
    assert attention == sum(2 * n * n * 81 * width for n, width in cells)


@pytest.mark.parametrize("preset", [name for name in PRESETS if "lite" not in name])
@pytest.mark.parametrize(
    "encoder",
    [
        "resnet18",
        "swin_tiny_patch4_window7_224",
        pytest.param("resnet101c", marks=pytest.mark.slow),
        pytest.param("swin_base_patch4_window7_224", marks=pytest.mark.slow),
    ],
)
def test_every_preset_on_the_papers_encoders(preset, encoder):
    if encoder.startswith("swin") and preset == "fcn-os8":
        pytest.skip("dilation is what this preset is for")
    model = _on_meta(preset, encoder=encoder).eval()
    with torch.no_grad():
        output = model(torch.empty(1, 3, 64, 96, device="meta"), stages=True)
    assert output.logits.shape == (1, 21, 64, 96)
    assert len(output.stages) == (4 if PRESETS[preset].pna else model.num_stages)
    wanted = 32 if encoder.startswith("swin") else PRESETS[preset].options.output_stride or 32
    assert max(model.encoder.strides) == wanted == (model.config.options.output_stride or 32)


def test_a_stride_that_was_asked_for_is_not_dropped():
    with pytest.raises(ValueError, match="output_stride"):
        _on_meta(
            "psp-pna",
            encoder="swin_tiny_patch4_window7_224",
            options=ModelOptions(output_stride=16),
        )


def test_overrides_reach_the_model():
    config = PNAConfig(variant="released", window=5, residual="add", widths=(32, 32, 32, 64))
    model = _on_meta("lite", pna=config, options=ModelOptions(aux=True))
    assert {stage.residual for stage in model.refiner.stages} == {"add"}
    assert model.refiner.stages[0].fusion.neighborhood.bias_table.shape[-1] == 2 * 5 - 1
    assert model.auxiliary is not None
    assert model.config.pna == config
    assert model.config.options.coarse_channels == 128  # left out, so the preset's


def _embedding_biases(model):
    names = [name for name, _ in model.named_parameters()]
    return [name for name in names if "embed_" in name and name.endswith("bias")]


def test_deeplab_takes_rates_and_a_multi_grid():
    options = ModelOptions(rates=(6, 12, 18), multi_grid=(1, 2, 4), coarse_channels=64)
    config = PNAConfig(embedding_bias=False)
    model = _on_meta("deeplabv3-pna", encoder="resnet50s", options=options, pna=config)
    dilations = [
        m.dilation[0] for m in model.coarse.pyramid.branches.modules() if hasattr(m, "dilation")
    ]
    assert dilations == [1, 6, 12, 18]
    assert model.config.options == ModelOptions(16, (1, 2, 4), None, 64, (6, 12, 18), True)
    assert not _embedding_biases(model)
    assert len(_embedding_biases(_on_meta("lite"))) == 8
    as_json = json.loads(json.dumps(model.config.to_dict()))
    assert ModelConfig.from_dict(as_json) == model.config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "unet"}, "^unknown preset 'unet'; known are fcn,"),
        ({"preset": "lite", "num_classes": None}, "^expected num_classes or labels, got neither"),
        (
            {"preset": "lite", "labels": VOC, "num_classes": 5},
            "^got num_classes=5, but labels 'voc2012' has 21",
        ),
        ({"preset": "fcn", "pna": PNAConfig()}, "^preset 'fcn' has no PNA that options"),
        ({"preset": "psp", "options": ModelOptions(rates=(6, 12))}, "^preset 'psp' has no rates"),
        (
            {"preset": "deeplabv3", "options": ModelOptions(coarse_norm="group")},
            "^preset 'deeplabv3' has no coarse_norm",
        ),
        (
            {"preset": "fpn", "options": ModelOptions(pool_window=(2, 2))},
            "^preset 'fpn' has no pool_window",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(PnaError, match=message):
        pna.create_model(**{"num_classes": 21, "encoder_weights": None, **arguments})


def test_labels_may_be_names(model):
    assert model.labels == VOC
    assert model.num_classes == 21
    assert model.num_stages == 4
    assert isinstance(PRESETS["lite"].build(model.config, VOC, None), Segmenter)


@pytest.mark.parametrize("scale", [255.0, -2.0])
def test_images_of_another_range_are_warned_of(model, scale):
    with pytest.warns(UserWarning, match=r"^expected images in \[0, 1\], got values from "):
        model(torch.rand(1, 3, 40, 40) * scale)


class TestPadding:
    """What the encoder sees to the right of and below an image of 40x52 pixels."""

    def padded(self, padding):
        torch.manual_seed(0)
        model = pna.create_model(
            "fcn",
            3,
            encoder="resnet18",
            encoder_weights=None,
            options=ModelOptions(coarse_channels=8, aux=False, padding=padding),
        ).eval()
        seen = []
        model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        image = torch.rand(2, 3, 40, 52)
        with torch.inference_mode():
            output = model(image)
        assert output.logits.shape == (2, 3, 40, 52)
        normalized = (image - model.mean) / model.std
        torch.testing.assert_close(seen[0][..., :40, :52], normalized)
        return model, seen[0], output

    def test_the_edge_is_repeated(self):
        model, seen, _ = self.padded(None)
        assert model.padded_size((40, 52)) == seen.shape[-2:] == (64, 64)
        assert torch.equal(seen[..., :40, 52], seen[..., :40, 51])

    def test_the_mean_color_is_zero_once_normalized(self):
        _, seen, _ = self.padded("mean")
        assert seen.shape[-2:] == (64, 64)
        assert not seen[..., 40:, :].any()
        assert not seen[..., 52:].any()

    def test_none(self):
        model, seen, output = self.padded("none")
        assert model.divisor == 1
        assert seen.shape[-2:] == (40, 52)
        assert output.coarse.shape[-2:] == (2, 2)  # 40 / 32 and 52 / 32, rounded up


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "zeros"}, "^expected padding as one of replicate, mean, none, got 'zeros'"),
        ({"fuse_kernel": 5}, "^expected fuse_kernel as one of 1, 3, got 5"),
        ({"coarse_norm": "layer"}, "^expected coarse_norm as one of batch, group"),
        ({"pool_window": (3,)}, "^expected pool_window as a height and a width in cells"),
        ({"coarse_channels": 0}, "expected coarse_channels from 1, got 0"),
        ({"coarse_channels": 64.0}, "expected coarse_channels from 1, got 64.0"),
        ({"rates": (0, 2)}, r"expected rates as whole numbers from 1, got \(0, 2\)"),
        ({"rates": "6,12"}, "expected rates as whole numbers from 1, got '6,12'"),
        ({"rates": ()}, r"expected rates as whole numbers from 1, got \(\)"),
        ({"multi_grid": [1, -2, 4]}, "expected multi_grid as whole numbers from 1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(PnaError, match=message):
        ModelOptions(**options)


def test_inference_sizes():
    size = InferenceSize(512, 2048)
    assert size.of((375, 500)) == (512, 683)
    assert size.of((4000, 500)) == (2048, 256)
    assert size.of((1, 9000)) == (1, 2048)
    with pytest.raises(PnaError, match="^expected lengths of the short and long side from 1"):
        InferenceSize(0, 3)
    with pytest.raises(PnaError, match="^expected the longer side to have at least the 9 pixels"):
        InferenceSize(9, 3)


def test_an_encoder_of_any_class_has_a_rate_of_its_own():
    """A backbone of one's own need not be a subclass of `Encoder`."""

    class Stem(nn.Module):
        name, channels, strides, divisor = "stem", (4,), (4,), 4
        mean = std = (0.5, 0.5, 0.5)

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 4, stride=4)

        def forward(self, images):
            return [self.conv(images)]

    model = Segmenter(Stem(), FCNHead((4,), 3, channels=8), generic(3))
    assert model.encoder_parameters() == {"encoder.conv.weight", "encoder.conv.bias"}
