"""NAM, SAM, stage and head: shapes, options, starts, and what flows where."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

import pna
from pna import PNAConfig, PnaError
from pna.model.pna.nam import LogitAggregation, NeighborhoodAggregation
from pna.model.pna.sam import PaperSelfAggregation, SelfAggregation
from pna.model.pna.stage import Stage
from pna.model.resize import resize
from pna.ops import neighborhood_attention

CHANNELS = (8, 12, 16, 20)


def _features(sizes=((24, 28), (12, 14), (6, 7), (3, 4)), channels=CHANNELS, batch=2):
    torch.manual_seed(0)
    pairs = zip(channels, sizes, strict=True)
    return [torch.randn(batch, c, *size, requires_grad=True) for c, size in pairs]


def _head(**options):
    torch.manual_seed(1)
    options = {"widths": (32, 32, 64, 64), "window": 5, **options}
    return pna.PNAHead(CHANNELS, 5, PNAConfig(**options))


@pytest.mark.parametrize("variant", ["released", "paper", "prenorm"])
@pytest.mark.parametrize("residual", ["none", "add", "aggregate"])
@pytest.mark.parametrize("self_aggregation", [True, False])
def test_every_part_learns(variant, residual, self_aggregation):
    head = _head(variant=variant, residual=residual, self_aggregation=self_aggregation)
    features = _features()
    coarse = torch.randn(2, 5, 3, 4, requires_grad=True)
    predictions = head(features, coarse)
    assert [p.shape for p in predictions] == [
        (2, 5, 3, 4),
        (2, 5, 6, 7),
        (2, 5, 12, 14),
        (2, 5, 24, 28),
    ]
    weights = torch.randn_like(predictions[-1])
    (predictions[-1] * weights).sum().backward()
    for name, x in [*head.named_parameters(), ("coarse", coarse), ("finest", features[0])]:
        assert x.grad is not None, name
        assert x.grad.isfinite().all(), name
        assert x.grad.abs().max() > 0, name


def test_add_starts_as_the_identity():
    features, coarse = _features(), torch.randn(2, 5, 3, 4)
    predictions = _head(residual="add")(features, coarse)
    expected = coarse
    for feature, prediction in zip(reversed(features), predictions, strict=True):
        expected = resize(expected, feature.shape[-2:])
        torch.testing.assert_close(prediction, expected, atol=0.05, rtol=0)


def test_aggregate_starts_close_to_the_identity():
    module = LogitAggregation(32, 5, self_bias=5.0)
    torch.nn.init.trunc_normal_(module.query_key.weight, std=0.02)
    feature, logits = torch.randn(1, 9, 11, 32), torch.randn(1, 9, 11, 7)
    out = module(feature, logits)
    assert out.shape == logits.shape
    share = torch.e**5 / (torch.e**5 + 24)
    near = share * logits + (1 - share) * logits.mean((1, 2))
    assert (out - near).abs().max() < 0.5
    own = module.similarity(feature, 4, 4).weights[0, 2, 2].detach()
    assert float(own) == pytest.approx(share, abs=0.05)


def test_queries_come_from_features_and_values_from_the_prediction():
    torch.manual_seed(0)
    module = NeighborhoodAggregation(32, 3)
    feature, value = torch.randn(1, 6, 6, 32), torch.randn(1, 6, 6, 32)
    constant = torch.ones(1, 6, 6, 32) * torch.randn(32)
    same = module(feature, constant)
    torch.testing.assert_close(same, module(torch.randn(1, 6, 6, 32), constant))
    assert not torch.allclose(module(feature, value), module(torch.randn(1, 6, 6, 32), value))


def test_sam_is_only_on_the_shortcut():
    """Neighborhood weights do not change when SAM's weights do."""
    stage = Stage(8, 5, PNAConfig(widths=(32,), window=3))
    feature = torch.randn(1, 8, 6, 6)
    before = stage.fusion.neighborhood.similarity(stage.embed(feature), 2, 2).weights
    for parameter in stage.fusion.self_aggregation.parameters():
        torch.nn.init.normal_(parameter)
    after = stage.fusion.neighborhood.similarity(stage.embed(feature), 2, 2).weights
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize(("variant", "norms"), [("released", 1.0), ("prenorm", 10.0)])
def test_what_is_classified_may_vary_in_size(variant, norms):
    """A cell whose feature is ten times another's keeps that in the pre-norm stage alone."""
    torch.manual_seed(0)
    config = PNAConfig(
        widths=(32,), window=1, self_aggregation=False, variant=variant, embedding_bias=False
    )
    stage = Stage(8, 5, config)
    f = torch.randn(32).expand(1, 1, 2, 32) * torch.tensor([100.0, 1000.0])[:, None]
    fused = stage.fusion(f, torch.zeros(1, 1, 2, 32)).detach()
    small, large = fused.norm(dim=-1).flatten()
    assert float(large / small) == pytest.approx(norms, rel=0.02)


def test_the_papers_stage_is_its_equations():
    """Equations 1 to 6, written out."""
    torch.manual_seed(0)
    stage = Stage(8, 5, PNAConfig(widths=(32,), window=3, variant="paper", residual="none"))
    for name, parameter in stage.named_parameters():
        if "alpha" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    feature, previous = torch.randn(1, 8, 6, 5), torch.randn(1, 5, 6, 5)
    layers, fusion = torch.nn.functional, stage.fusion

    def embed(x, module):
        return layers.layer_norm(
            x.flatten(2).mT @ module[0].weight.T + module[0].bias,
            (32,),
            module[1].weight,
            module[1].bias,
        )

    f, p = embed(feature, stage.embed_feature), embed(previous, stage.embed_prediction)
    nam, sam = fusion.neighborhood, fusion.self_aggregation
    q, k, v = (
        (x @ m.weight.T).mT.reshape(1, 1, 32, 6, 5).permute(0, 1, 3, 4, 2)
        for x, m in ((f, nam.query), (f, nam.key), (p, nam.value))
    )
    # softmax((Q K + B) / sqrt(D)) is softmax(Q' K + B') with both divided.
    f_n = neighborhood_attention(
        q, k, v, nam.bias_table / 32**0.5, window=3, backend="reference"
    ).reshape(1, 30, 32)
    normed = layers.layer_norm(f, (32,), sam.norm_feature.weight, sam.norm_feature.bias)
    qkv = (normed @ sam.qkv.weight.T + sam.qkv.bias).mT.reshape(1, 96, 6, 5)
    q, k, v = sam.qkv_depthwise(qkv).flatten(2).chunk(3, 1)
    hat = (((q @ k.mT) / sam.alpha).softmax(-1) @ v).mT
    norm = layers.layer_norm(hat, (32,), sam.norm_aggregated.weight, sam.norm_aggregated.bias)
    f_s = hat + sam.feed_forward(norm.reshape(1, 6, 5, 32)).flatten(1, 2)
    fuse = (f_n + f_s).reshape(1, 6, 5, 32)
    expected = stage.classifier(fusion.feed_forward(fuse) + fuse).permute(0, 3, 1, 2)
    torch.testing.assert_close(stage(feature, previous), expected, rtol=1e-4, atol=1e-4)


def test_alpha_starts_at_the_root_of_a_64x64_map():
    assert PaperSelfAggregation(32).alpha.item() == 64


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_any_number_of_levels(levels):
    channels = list(range(4, 4 + levels))
    sizes = [(2 ** (levels - i), 2 ** (levels - i) + 1) for i in range(levels)]
    head = pna.PNAHead(channels, 3, PNAConfig(widths=(32,) * levels, window=3))
    predictions = head(_features(sizes, channels, batch=1), torch.randn(1, 3, 2, 2))
    assert [p.shape[-2:] for p in predictions] == sizes[::-1]


def test_equal_strides_and_a_finer_coarse_map():
    sizes = ((16, 16), (8, 8), (8, 8), (8, 8))  # a backbone dilated to stride 8
    predictions = _head()(_features(sizes), torch.randn(2, 5, 32, 32))
    assert [p.shape[-1] for p in predictions] == [8, 8, 8, 16]


def test_stop_at():
    head, features, coarse = _head().eval(), _features(), torch.randn(2, 5, 3, 4)
    everything = head(features, coarse)
    for stop_at in (1, 2, 4):
        predictions = head(features, coarse, stop_at=stop_at)
        assert len(predictions) == stop_at
        torch.testing.assert_close(predictions[-1], everything[stop_at - 1])


def test_options_per_level():
    head = _head(window=(3, 5, 7, 9), embedding_bias=(True, False, True, False))
    assert [stage.fusion.neighborhood.window for stage in head.stages] == [9, 7, 5, 3]
    assert [stage.embed_feature.bias is None for stage in head.stages] == [True, False, True, False]


def test_default_widths_are_the_released_ones():
    head = pna.PNAHead(CHANNELS, 5)
    assert [stage.classifier.in_features for stage in head.stages] == [768, 384, 192, 96]


@pytest.mark.parametrize("residual", ["none", "aggregate"])
@pytest.mark.parametrize("variant", ["released", "paper", "prenorm"])
def test_similarity_is_what_the_operator_gathers_with(residual, variant):
    """Values that are a one-hot map of cells come out as the weights themselves."""
    head = _head(residual=residual, variant=variant)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    features = _features(batch=1)
    points = [(0, 27), (7, 3), (5, 6), (1, 1)]
    for found, stage, feature, point in zip(
        head.similarity(features, points),
        head.stages,
        reversed(features),
        reversed(points),
        strict=True,
    ):
        assert (found.row, found.col) == point
        f = stage.embed(feature)
        H, W = f.shape[1:3]
        one_hot = torch.eye(H * W).reshape(1, 1, H, W, H * W)
        module = stage.carry or stage.fusion.neighborhood
        if hasattr(module, "_query_key_bias"):
            query, key, bias = module._query_key_bias(f)
        else:
            (query, key), bias = module._query_key(f), module.bias_table
        heads = query.shape[1]
        gathered = neighborhood_attention(
            query, key, one_hot.expand(1, heads, -1, -1, -1), bias, window=module.window
        )[0, :, *point].reshape(heads, H, W)
        (top, bottom), (left, right) = found.rows, found.cols
        torch.testing.assert_close(gathered[:, top:bottom, left:right], found.weights)
        torch.testing.assert_close(found.weights.sum((1, 2)), torch.ones(heads))


def test_options_become_plain_values():
    config = PNAConfig(window=np.int64(5), widths=[32, np.int32(64)], embedding_bias=[True, False])
    assert config == PNAConfig(window=5, widths=(32, 64), embedding_bias=(True, False))
    assert json.loads(json.dumps(asdict(config)))["window"] == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 5.5}, "^expected window as whole numbers, got 5.5"),
        ({"window": True}, "^expected window as whole numbers, got True"),
        ({"widths": 32}, "^expected widths, one for each stage, got 32"),
        ({"window": "five"}, "^expected window as whole numbers, got 'five'"),
        ({"widths": (32, 32)}, r"^expected 4 widths, one for each level, got \(32, 32\)"),
        ({"widths": (32, 48, 64, 96)}, r"^expected widths in multiples of 32, got \(32, 48"),
        ({"window": 4}, "^expected odd windows >= 1, got 4"),
        ({"window": (3, 5)}, r"^expected 4 window, one for each level, got \(3, 5\)"),
        ({"variant": "new"}, "^expected variant to be one of released, paper, prenorm, got 'new'"),
        ({"residual": "yes"}, "^expected residual to be one of none, add, aggregate, got 'yes'"),
        ({"keep_detail": True, "residual": "none"}, "^keep_detail needs carried logits"),
        ({"mlp_ratio": 0}, "^expected an mlp_ratio above 0"),
        ({"mlp_ratio": float("nan")}, "^expected mlp_ratio as a finite number, got nan"),
        ({"self_bias": "8"}, "^expected self_bias as a finite number, got '8'"),
        ({"keep_detail": "no"}, "^expected keep_detail as True or False, got 'no'"),
        ({"upsample": "cubic"}, "^expected upsample to be one of bilinear, nearest, got 'cubic'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(PnaError, match=message):
        _head(**options)


def test_bad_number_of_levels():
    with pytest.raises(ValueError, match="^expected 1 to 5 levels of features, got 0"):
        pna.PNAHead([], 3)


def test_features_coarse_to_fine():
    head = pna.PNAHead((8, 8), 5, PNAConfig(widths=(32, 32), window=3))
    features = _features(((3, 4), (6, 7)), (8, 8))
    with pytest.raises(PnaError, match=r"^expected features fine to coarse, .* got \[3, 6\]; rev"):
        head(features, torch.randn(2, 5, 3, 4))


def test_nothing_that_is_given_is_changed():
    head, features = _head(), _features()
    given = list(features)
    head(given, torch.randn(2, 5, 3, 4))
    assert given == features


def test_bad_calls():
    head, features = _head(), _features()
    with pytest.raises(ValueError, match=r"^expected features with channels \(8, 12, 16, 20\)"):
        head(features[:3], torch.randn(2, 5, 3, 4))
    with pytest.raises(ValueError, match=r"^expected coarse logits \(B, 5, h, w\)"):
        head(features, torch.randn(2, 4, 3, 4))
    with pytest.raises(ValueError, match="^expected stop_at from 1 to 4, got 5"):
        head(features, torch.randn(2, 5, 3, 4), stop_at=5)


def test_bfloat16_training():
    """Mixed precision stays close to float32, values and gradients."""
    head = _head(residual="aggregate")
    coarse = torch.randn(2, 5, 3, 4)
    grads = []
    for enabled in (False, True):
        head.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            prediction = head(_features(), coarse)[-1]
        prediction.float().square().mean().backward()
        grads.append([p.grad.clone() for p in head.parameters() if p.ndim > 1])
    for exact, mixed in zip(*grads, strict=True):
        if exact.norm() > 1e-3:
            assert (mixed - exact).norm() / exact.norm() < 0.15


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_head_compiles_whole():
    head = _head(residual="aggregate").eval()
    compiled = torch.compile(head, fullgraph=True)
    features, coarse = _features(), torch.randn(2, 5, 3, 4)
    with torch.no_grad():
        for a, b in zip(compiled(features, coarse), head(features, coarse), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cells", [1, 20, 64])
def test_strips_change_nothing(cells, monkeypatch):
    sam = SelfAggregation(64).double()
    x = torch.randn(2, 13, 7, 64, dtype=torch.float64)
    whole = sam(x)
    monkeypatch.setattr("pna.model.pna.layers.STRIP_CELLS", cells)
    monkeypatch.setattr("pna.model.pna.layers.STRIP_ROWS", 1)
    with torch.no_grad():
        torch.testing.assert_close(sam(x), whole)


def test_channel_attention_survives_zero_channels():
    """The length of a channel that is 0 everywhere has no gradient, not an infinite one."""
    sam = SelfAggregation(32)
    with torch.no_grad():
        sam.attention.qkv.weight.zero_()
    x = torch.randn(1, 4, 4, 32, requires_grad=True)
    sam(x).sum().backward()
    assert x.grad.isfinite().all()
