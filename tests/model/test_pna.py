"""NAM, SAM, stage and head: shapes, options, starts, and what flows where."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

import pna
from pna import PNAConfig, PnaError
from pna.model.pna.nam import LogitGathering, NeighborhoodAggregation
from pna.model.pna.sam import PaperSelfAggregation, SelfAggregation
from pna.model.pna.stage import Stage
from pna.model.resize import average, resize
from pna.ops import neighborhood_attention

CHANNELS = (8, 12, 16, 20)


def _features(sizes=((24, 28), (12, 14), (6, 7), (3, 4)), channels=CHANNELS, batch=2):
    torch.manual_seed(0)
    pairs = zip(channels, sizes, strict=True)
    return [torch.randn(batch, c, *size, requires_grad=True) for c, size in pairs]


def _head(**options):
    torch.manual_seed(1)
    carried = replace(PNAConfig.released(), residual="add", upsample="bilinear")
    options = {"widths": (32, 32, 64, 64), "window": 5, **options}
    return pna.PNAHead(CHANNELS, 5, replace(carried, **options))


IMAGES = torch.rand(2, 3, 96, 112, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("variant", ["released", "paper", "mixer"])
@pytest.mark.parametrize("residual", ["none", "add", "gather"])
@pytest.mark.parametrize("self_aggregation", [True, False])
def test_every_part_learns(variant, residual, self_aggregation):
    head = _head(
        variant=variant,
        residual=residual,
        self_aggregation=self_aggregation,
        pass_features=self_aggregation,
    )
    features = _features()
    coarse = torch.randn(2, 5, 3, 4, requires_grad=True)
    predictions = head(features, coarse, images=IMAGES)
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


def _gathering(window=5, *, learned=False):
    """A gathering of 32 channels; unless it has learned, only colors and distance count."""
    torch.manual_seed(0)
    module = LogitGathering(32, window)
    if not learned:
        torch.nn.init.zeros_(module.query.weight)
        torch.nn.init.zeros_(module.query.bias)
    return module


def _gather(module, feature, logits, images):
    """Gathered logits, in and out as (B, K, H, W)."""
    image = average(images, feature.shape[1:3]).permute(0, 2, 3, 1)
    out, _ = module(feature, logits.permute(0, 2, 3, 1), image)
    return out.permute(0, 3, 1, 2)


def test_gathering_starts_as_a_joint_bilateral_filter():
    """Equation of the filter, written out for one cell, on a grid of half the size."""
    module = _gathering(3)
    images, logits = torch.rand(1, 3, 16, 24), torch.randn(1, 7, 4, 6)
    out = _gather(module, torch.randn(1, 8, 12, 32), logits, images)
    assert out.shape == (1, 7, 8, 12)
    fine = torch.nn.functional.avg_pool2d(images, 2)[0]
    coarse = torch.nn.functional.avg_pool2d(images, 4)[0]
    row, col = 3, 6  # stands at 1.25 and 2.75 of the coarse cells, nearest to 1 and 3
    scores, values = [], []
    for y in (0, 1, 2):
        for x in (2, 3, 4):
            color = (fine[:, row, col] - coarse[:, y, x]).square().sum()
            scores.append(-34 * color - 3 * (abs(y - 1.25) + abs(x - 2.75)))
            values.append(logits[0, :, y, x])
    weights = torch.stack(scores).softmax(0)
    torch.testing.assert_close(
        out[0, :, row, col], weights @ torch.stack(values), rtol=1e-4, atol=1e-5
    )


def test_gathering_keeps_an_edge_of_the_image():
    """A coarse cell on the edge holds both classes; its fine cells take their own side's."""
    images = torch.zeros(1, 3, 32, 32)
    images[..., 18:] = 1  # the edge lies inside the coarse cells of columns 16 to 23
    logits = torch.zeros(1, 1, 4, 4)
    logits[..., 2], logits[..., 3] = 0.5, 1.0
    module = _gathering()
    sharp = _gather(module, torch.zeros(1, 16, 16, 32), logits, images)[0, 0, 8]
    smooth = resize(logits, (16, 16))[0, 0, 8]
    truth = images[0, 0, 16, ::2]
    assert (sharp - truth).abs().mean() < 0.7 * (smooth - truth).abs().mean()


@pytest.mark.parametrize("size", [(16, 12), (4, 3), (5, 4), (8, 6)])
def test_gathering_takes_logits_of_any_grid(size):
    """Finer, coarser, of no whole ratio, equal: constant logits stay, gathered or not."""
    module = _gathering(learned=True)
    logits = torch.full((1, 2, *size), 3.0)
    out = _gather(module, torch.randn(1, 8, 6, 32), logits, torch.rand(1, 3, 32, 24))
    torch.testing.assert_close(out, torch.full((1, 2, 8, 6), 3.0))


def test_gathering_needs_images():
    with pytest.raises(PnaError, match="^expected images, which residual="):
        _head(residual="gather")(_features(), torch.randn(2, 5, 3, 4))


def test_features_are_passed_on():
    """With it the last stage depends on the features of the first, even if logits do not."""
    for pass_features in (False, True):
        head = _head(residual="none", pass_features=pass_features)
        features = _features()
        torch.nn.init.zeros_(head.stages[2].classifier.weight)
        head(features, torch.randn(2, 5, 3, 4))[-1].square().sum().backward()
        reached = features[-1].grad is not None and float(features[-1].grad.abs().max()) > 0
        assert reached == pass_features


def test_affinity_loss_is_small_where_the_truth_follows_the_colors():
    labels = torch.zeros(2, 96, 112, dtype=torch.int64)
    labels[:, 20:70, 30:90] = 1
    labels[:, :9] = 255
    follows = labels.where(labels != 255, torch.tensor(0))[:, None].expand(-1, 3, -1, -1).float()
    losses = []
    for images in (follows, torch.zeros_like(follows), 1 - follows.flip(3)):
        head = _head(residual="gather")
        for stage in head.stages:
            torch.nn.init.zeros_(stage.carry.query.weight)
        head.train()
        output = head.forward_training(_features(), torch.randn(2, 5, 3, 4), images=images)
        losses.append(head.losses(output.aux, labels)["affinity"].item())
    assert losses[0] < 0.8 * losses[1] < losses[2]


def test_affinity_loss_of_one_cell_is_its_cross_entropy():
    head = pna.PNAHead((8,), 2, PNAConfig(widths=(32,), residual="gather", carry_window=3)).train()
    torch.nn.init.zeros_(head.stages[0].carry.query.weight)
    with torch.no_grad():
        head.stages[0].carry.bias_table.zero_()
    labels = torch.tensor([[[0, 0, 1, 255]]])
    output = head.forward_training(
        [torch.randn(1, 8, 1, 4)], torch.randn(1, 2, 1, 2), images=torch.zeros(1, 3, 1, 4)
    )
    # Both coarse cells weigh the same: (1, 0) of the first, (0, 1) of the second's valid pixel.
    expected = -np.log(0.99 * 0.5 + 0.01 / 2)
    assert head.losses(output.aux, labels)["affinity"].item() == pytest.approx(expected, rel=1e-5)


def test_affinity_loss_without_a_valid_pixel_is_zero():
    head = _head(residual="gather").train()
    output = head.forward_training(_features(), torch.randn(2, 5, 3, 4), images=IMAGES)
    loss = head.losses(output.aux, torch.full((2, 96, 112), 255))["affinity"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.isnan().any() for p in head.parameters())


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
    stage = Stage(8, 5, replace(PNAConfig.released(), widths=(32,), window=3))
    feature = torch.randn(1, 8, 6, 6)
    before = stage.fusion.neighborhood.neighborhood(stage.embed(feature)).similarity(2, 2).weights
    for parameter in stage.fusion.self_aggregation.parameters():
        torch.nn.init.normal_(parameter)
    after = stage.fusion.neighborhood.neighborhood(stage.embed(feature)).similarity(2, 2).weights
    torch.testing.assert_close(before, after)


def test_the_papers_stage_is_its_equations():
    """Equations 1 to 6, written out."""
    torch.manual_seed(0)
    stage = Stage(8, 5, replace(PNAConfig.paper(), widths=(32,), window=3))
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
    torch.testing.assert_close(stage(feature, previous).logits, expected, rtol=1e-4, atol=1e-4)


def test_alpha_starts_at_the_root_of_a_64x64_map():
    assert PaperSelfAggregation(32).alpha.item() == 64


@pytest.mark.parametrize("levels", [1, 2, 3, 5])
def test_any_number_of_levels(levels):
    channels = list(range(4, 4 + levels))
    sizes = [(2 ** (levels - i), 2 ** (levels - i) + 1) for i in range(levels)]
    head = pna.PNAHead(channels, 3, PNAConfig(widths=(32,) * levels))
    images = torch.rand(1, 3, *(2 * n for n in sizes[0]))
    predictions = head(_features(sizes, channels, batch=1), torch.randn(1, 3, 2, 2), images=images)
    assert [p.shape[-2:] for p in predictions] == sizes[::-1]


def test_equal_strides_and_a_finer_coarse_map():
    sizes = ((16, 16), (8, 8), (8, 8), (8, 8))  # a backbone dilated to stride 8
    predictions = _head()(_features(sizes), torch.randn(2, 5, 32, 32))
    assert [p.shape[-1] for p in predictions] == [8, 8, 8, 16]


def test_a_stage_on_the_image():
    head = _head(residual="gather", variant="mixer", image_width=16, pass_features=True)
    assert head.num_stages == 5
    torch.nn.init.normal_(head.stages[-1].classifier.weight)
    features, coarse = _features(), torch.randn(2, 5, 3, 4)
    predictions = head(features, coarse, images=IMAGES)
    assert predictions[-1].shape == (2, 5, 48, 56)
    # A pattern of pixels that no average shows: the last stage alone sees it.
    pattern = torch.ones(96, 112)
    pattern[::2, 1::2] = pattern[1::2, ::2] = -1
    others = head(features, coarse, images=IMAGES + 0.1 * pattern)
    for before, after in zip(predictions[:-1], others[:-1], strict=True):
        torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)
    assert (predictions[-1] - others[-1]).abs().max() > 1e-2
    predictions[-1].square().sum().backward()
    assert head.stem.conv.weight.grad.abs().max() > 0
    with pytest.raises(PnaError, match="^expected images, which"):
        _head(residual="add", image_width=16)(features, coarse)


def test_a_stage_on_the_image_needs_coarser_features():
    head = pna.PNAHead((8,), 3, PNAConfig(widths=(32,), image_width=8))
    with pytest.raises(PnaError, match=r"^expected features coarser than stride 2, .* got 12 rows"):
        head([torch.randn(1, 8, 12, 14)], torch.randn(1, 3, 3, 3), images=torch.rand(1, 3, 24, 28))


def test_a_stage_on_an_image_of_other_channels():
    config = PNAConfig(widths=(32,), residual="gather", image_width=8)
    head = pna.PNAHead((8,), 3, config, image_channels=5)
    stages = head(
        [torch.randn(1, 8, 6, 7)], torch.randn(1, 3, 3, 3), images=torch.rand(1, 5, 24, 28)
    )
    assert stages[-1].shape == (1, 3, 12, 14)


@pytest.mark.parametrize("residual", ["add", "gather"])
def test_detail_of_p0_is_kept(residual):
    """A P0 of stride 4 goes through strides 32 and 16, and comes back whole."""
    coarse = torch.randn(2, 5, 24, 28)
    differences = []
    for keep_detail in (True, False):
        head = _head(residual=residual, keep_detail=keep_detail)
        for stage in head.stages:
            torch.nn.init.zeros_(stage.classifier.weight)
        last = head(_features(), coarse, images=IMAGES)[-1]
        differences.append((last - coarse).abs().mean().item())
    assert differences[0] < 0.6 * differences[1]


def test_stop_at():
    head, features, coarse = _head().eval(), _features(), torch.randn(2, 5, 3, 4)
    everything = head(features, coarse)
    for stop_at in (1, 2, 4):
        predictions = head(features, coarse, stop_at=stop_at)
        assert len(predictions) == stop_at
        torch.testing.assert_close(predictions[-1], everything[stop_at - 1])


def test_options_per_level():
    head = _head(window=(3, 5, 7, 9), embedding_bias=(True, False, True, False))
    tables = [stage.fusion.neighborhood.bias_table for stage in head.stages]
    assert [table.shape[-1] for table in tables] == [17, 13, 9, 5]
    assert [stage.embed_feature.bias is None for stage in head.stages] == [True, False, True, False]


def test_default_widths_are_the_released_ones():
    head = pna.PNAHead(CHANNELS, 5)
    assert [stage.classifier.in_features for stage in head.stages] == [768, 384, 192, 96]


@pytest.mark.parametrize("residual", ["none", "add", "gather"])
@pytest.mark.parametrize("variant", ["released", "paper", "mixer"])
def test_similarity_is_what_the_operator_gathers_with(residual, variant):
    """Values that are a one-hot map of cells come out as the weights themselves."""
    head = _head(residual=residual, variant=variant)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    features, coarse = _features(), torch.randn(2, 5, 3, 4)
    used, gathered = [], pna.model.pna.nam.neighborhood_attention
    place = (0.55, 0.3)

    def record(query, key, value, bias, **options):
        h, w = key.shape[2:4]
        one_hot = torch.eye(h * w).reshape(1, 1, h, w, h * w)
        one_hot = one_hot.expand(*query.shape[:2], -1, -1, -1)
        used.append((value.shape[-1], gathered(query, key, one_hot, bias, **options)))
        return gathered(query, key, value, bias, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pna.model.pna.nam.neighborhood_attention", record)
        head(features, coarse, images=IMAGES)
    if residual == "gather":  # of logits, which have as many channels as there are classes
        used = [(channels, weights) for channels, weights in used if channels == 5]
    found = head.similarity(features, coarse, place, images=IMAGES)
    if variant == "mixer" and residual != "gather":
        assert found == [None] * 4
        return
    assert len(used) == len(found) == 4
    for one, (_, weights) in zip(found, used, strict=True):
        H, W = weights.shape[2:4]
        (top, bottom), (left, right) = one.rows, one.cols
        expected = weights[0, :, int(place[0] * H), int(place[1] * W)].unflatten(-1, one.size)
        torch.testing.assert_close(expected[:, top:bottom, left:right], one.weights)
        torch.testing.assert_close(one.weights.sum((1, 2)), torch.ones(len(one.weights)))
        assert (one.row, one.col) == (int(place[0] * one.size[0]), int(place[1] * one.size[1]))


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
        ({"variant": "new"}, "^expected variant to be one of released, .*, mixer, got 'new'"),
        ({"residual": "yes"}, "^expected residual to be one of none, .*, gather, got 'yes'"),
        ({"carry_window": 4}, "^expected an odd carry_window, got 4"),
        ({"depth": 0}, "^expected depth as a whole number >= 1, got 0"),
        ({"depth": None}, "^expected depth as a whole number >= 1, got None"),
        ({"carry_window": (5, 5)}, "^expected carry_window as a whole number >= 1, got"),
        ({"image_width": 0}, "^expected image_width as a whole number >= 1, got 0"),
        ({"self_aggregation": "no"}, "^expected self_aggregation as True or False, got 'no'"),
        ({"keep_detail": True, "residual": "none"}, "^keep_detail needs carried logits"),
        ({"mlp_ratio": 0}, "^expected mlp_ratio as a finite number above 0, got 0"),
        ({"mlp_ratio": float("nan")}, "^expected mlp_ratio as a finite number above 0, got nan"),
        ({"mlp_ratio": "8"}, "^expected mlp_ratio as a finite number above 0, got '8'"),
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
    head = _head()
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
@pytest.mark.parametrize(
    "options",
    [
        {"residual": "add"},
        {"residual": "gather", "variant": "mixer", "pass_features": True, "image_width": 8},
    ],
)
def test_the_head_compiles_whole(options):
    head = _head(**options).eval()
    compiled = torch.compile(head, fullgraph=True)
    features, coarse = _features(), torch.randn(2, 5, 3, 4)
    with torch.no_grad():
        expected = head(features, coarse, images=IMAGES)
        for a, b in zip(compiled(features, coarse, images=IMAGES), expected, strict=True):
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
