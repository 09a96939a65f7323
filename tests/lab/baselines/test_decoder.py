"""The equal-size decoder: as large as its PNA head, with the same interface."""

from dataclasses import replace

import pytest
import torch

import pna
from pna.lab.baselines import PRESETS
from pna.lab.baselines.decoder import DecoderStage, PlainDecoder, equal_size_decoder
from pna.model.counts import count
from pna.model.pna.config import PNAConfig
from pna.model.resize import resize

CHANNELS = (8, 12, 16, 20)
SIZES = ((24, 28), (12, 14), (6, 7), (3, 4))


def _features(batch=2):
    torch.manual_seed(0)
    pairs = zip(CHANNELS, SIZES, strict=True)
    return [torch.randn(batch, c, *size, requires_grad=True) for c, size in pairs]


def _decoder(num_classes=5, **options):
    torch.manual_seed(1)
    return PlainDecoder(CHANNELS, num_classes, widths=(4, 5, 6, 7), **options)


def _parameters(module):
    return sum(p.numel() for p in module.parameters())


def _on_meta(preset, num_classes=21, pna_config=None):
    with torch.device("meta"):
        return pna.create_model(
            preset, num_classes, encoder_weights=None, pna=pna_config, presets=PRESETS
        )


@pytest.mark.parametrize("num_classes", [1, 2, 21, 171])
@pytest.mark.parametrize(
    ("control", "refined", "changes"),
    [
        ("fcn-decoder", "fcn-pna", {}),
        ("fcn-decoder", "fcn-pna-nam", {"self_aggregation": False}),
        ("lite-decoder", "lite", {}),
        ("lite-decoder", "lite", {"self_aggregation": False}),
        ("lite-decoder", "lite", {"variant": "mixer", "residual": "gather"}),
        ("lite-decoder-features", "lite", {"pass_features": True}),
        ("lite-decoder-features", "lite", {"variant": "mixer", "residual": "gather"}),
        ("lite-decoder", "lite", {"residual": "none", "window": 11, "widths": (32, 32, 64, 64)}),
    ],
)
def test_it_has_the_parameters_of_the_head(control, refined, changes, num_classes):
    config = replace(PRESETS[control].pna, **changes)
    head = _on_meta(refined, num_classes, config).refiner
    decoder = _on_meta(control, num_classes, config).refiner
    assert isinstance(head, pna.PNAHead)
    assert isinstance(decoder, PlainDecoder)
    assert _parameters(decoder) == pytest.approx(_parameters(head), rel=0.02)
    for stage, other in zip(decoder.stages, head.stages, strict=True):
        assert _parameters(stage) == pytest.approx(_parameters(other), rel=0.05)


def test_it_takes_about_the_multiply_accumulates_too():
    sizes = [
        sum(part.macs for part in count(_on_meta(preset), (256, 256)))
        for preset in ("lite", "lite-decoder")
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_everything_but_the_refinement_is_the_same():
    ours, control = _on_meta("lite"), _on_meta("lite-decoder")
    for part in ("encoder", "coarse"):
        pairs = [getattr(model, part).state_dict() for model in (ours, control)]
        assert {k: v.shape for k, v in pairs[0].items()} == {
            k: v.shape for k, v in pairs[1].items()
        }
    assert control.num_stages == ours.num_stages == 4


@pytest.mark.parametrize("residual", ["none", "add", "gather"])
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_it_carries_and_resizes_as_the_head_does(residual, upsample):
    config = PNAConfig(widths=(32,) * 4, residual=residual, upsample=upsample)
    decoder = equal_size_decoder(pna.PNAHead(CHANNELS, 3, config))
    wanted = "none" if residual == "none" else "add"
    assert {(s.residual, s.upsample) for s in decoder.stages} == {(wanted, upsample)}


@pytest.mark.parametrize("pass_features", [False, True])
@pytest.mark.parametrize("residual", ["none", "add"])
@pytest.mark.parametrize("num_classes", [1, 2, 21])
def test_every_part_learns(residual, num_classes, pass_features):
    decoder = _decoder(num_classes, residual=residual, pass_features=pass_features)
    features, coarse = _features(), torch.randn(2, num_classes, 3, 4, requires_grad=True)
    predictions = decoder(features, coarse)
    assert [p.shape for p in predictions] == [(2, num_classes, *s) for s in reversed(SIZES)]
    predictions[-1].mul(torch.randn_like(predictions[-1])).sum().backward()
    for name, x in [*decoder.named_parameters(), ("coarse", coarse), ("finest", features[0])]:
        assert x.grad is not None, name
        assert x.grad.abs().max() > 0, name


def test_add_starts_as_the_identity():
    features, coarse = _features(), torch.randn(2, 5, 3, 4)
    expected = coarse
    for feature, p in zip(
        reversed(features), _decoder(residual="add")(features, coarse), strict=True
    ):
        expected = resize(expected, feature.shape[-2:])
        torch.testing.assert_close(p, expected, atol=0.05, rtol=0)


def test_a_stage_by_hand():
    torch.manual_seed(0)
    stage = DecoderStage(3, 2, width=4, residual="add").eval()
    feature, previous = torch.randn(1, 3, 6, 8), torch.randn(1, 2, 3, 4)
    resized = resize(previous, (6, 8))
    x = stage.embed_feature(feature) + stage.embed_prediction(resized)
    for conv, norm, _ in stage.convs:
        x = norm(torch.nn.functional.conv2d(x, conv.weight, padding=1)).relu()
    torch.testing.assert_close(stage(feature, previous).logits, stage.classifier(x) + resized)


def test_features_are_passed_on():
    stages = _decoder(pass_features=True).stages
    assert stages[0].receive is None
    assert [(s.receive.in_channels, s.receive.out_channels) for s in stages[1:]] == [
        (7, 6),
        (6, 5),
        (5, 4),
    ]
    stage = stages[1].eval()
    feature, previous = torch.randn(1, 16, 6, 8), torch.randn(1, 5, 3, 4)
    handed_on = torch.randn(1, 7, 3, 4)
    x = stage.embed_feature(feature) + stage.embed_prediction(resize(previous, (6, 8)))
    x = stage.convs(x + resize(stage.receive(handed_on), (6, 8)))
    torch.testing.assert_close(stage(feature, previous, None, handed_on).features, x)


def test_bad_input():
    with pytest.raises(ValueError, match=r"^expected one width for each of 4 levels, got \(4, 4\)"):
        PlainDecoder(CHANNELS, 5, widths=(4, 4))
    with pytest.raises(ValueError, match=r"^expected features with channels \(8, 12, 16, 20\)"):
        _decoder()(_features()[::-1], torch.randn(2, 5, 3, 4))
    with pytest.raises(ValueError, match=r"^expected stop_at from 1 to 4, got 5"):
        _decoder()(_features(), torch.randn(2, 5, 3, 4), stop_at=5)
