"""PointRend: which points it takes, what it does with them, what it costs."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import pna
from pna.labels import generic
from pna.metrics.boundary_iou import boundary_counts
from pna.model.config import ModelConfig
from pna.model.counts import count
from pna.model.presets import build
from pna.model.refiner import Scene
from pna.model.resize import resize
from pna.model.rivals.pointrend import PointHead, PointRend
from pna.model.rivals.points import (
    centres,
    draw_points,
    most_uncertain_cells,
    sample,
    sample_labels,
    uncertainty,
)


def all_centres(height, width):
    return centres(torch.arange(height * width)[None], width, height)


def halves(size=16):
    """Two classes, sure of the left and of the right; less and less so towards the middle."""
    x = all_centres(size, size)[0, :, 0].reshape(1, 1, size, size) - 0.5
    return torch.cat([-x, x], dim=1)


def scene(coarse, *, channels=8, stride=4):
    H, W = (side * stride for side in coarse.shape[-2:])
    fine = torch.randn(len(coarse), channels, H // 4, W // 4)
    return Scene(torch.rand(len(coarse), 3, H, W), [fine], coarse)


# ---- points


def test_a_map_is_read_as_it_is_resized():
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(sample(x, all_centres(5, 7).expand(2, -1, -1)), x.flatten(2))
    twice = sample(x, all_centres(10, 14).expand(2, -1, -1)).unflatten(2, (10, 14))
    torch.testing.assert_close(twice, resize(x, (10, 14)))
    assert sample(x.bfloat16(), all_centres(5, 7).expand(2, -1, -1)).dtype == torch.float32


def test_labels_are_read_from_the_pixel_a_point_lies_in():
    labels = torch.arange(2 * 5 * 7).reshape(2, 5, 7)
    assert torch.equal(
        sample_labels(labels, all_centres(5, 7).expand(2, -1, -1)), labels.flatten(1)
    )
    corners = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [0.99, 0.01]]])
    assert sample_labels(labels[:1], corners).tolist() == [[0, 34, 6]]


def test_uncertainty_is_how_close_the_second_class_comes():
    logits = torch.tensor([[1.0, 4.0, 3.5], [2.0, 2.0, -9.0]])[..., None]
    assert uncertainty(logits).squeeze(1).tolist() == [-0.5, 0.0]
    assert uncertainty(torch.randn(2, 1, 4, 4)).tolist() == torch.zeros(2, 4, 4).tolist()


def test_the_most_uncertain_cells_are_those_of_a_known_line():
    logits = torch.randn(2, 5, 12, 9)
    logits[:, 3] += 50  # sure everywhere ...
    logits[0, 1, :, 4] = logits[0, 3, :, 4] - 0.1  # ... but in column 4
    logits[1, 2, 7, :] = logits[1, 3, 7, :] + 0.1  # ... but in row 7
    cells = most_uncertain_cells(logits[:1], 12)
    assert sorted(cells[0].tolist()) == [row * 9 + 4 for row in range(12)]
    cells = most_uncertain_cells(logits[1:], 9)
    assert sorted(cells[0].tolist()) == [7 * 9 + column for column in range(9)]
    assert most_uncertain_cells(logits, 1000).shape == (2, 108)


def test_three_quarters_of_the_points_are_uncertain_and_the_rest_uniform():
    torch.manual_seed(0)
    points = draw_points(halves(), 2000, oversampling=3, importance=0.75)
    assert points.shape == (1, 2000, 2)
    assert ((points >= 0) & (points <= 1)).all()
    away = (points[0, :, 0] - 0.5).abs()
    # Of 6000 candidates the 1500 nearest to the middle: a quarter of the width around it.
    assert float(away[:1500].max()) == pytest.approx(0.125, abs=0.02)
    uniform = away[1500:]
    assert float((uniform > 0.125).float().mean()) == pytest.approx(0.75, abs=0.06)
    assert float(points[0, :1500, 1].mean()) == pytest.approx(0.5, abs=0.05)


def test_uncertainty_is_that_of_the_point_not_of_the_cells_around_it():
    """Two sure cells that disagree: only the points between them are unsure."""
    torch.manual_seed(0)
    logits = torch.tensor([[[[9.0, -9.0]], [[-9.0, 9.0]]]])
    points = draw_points(logits, 400, oversampling=3, importance=1.0)
    assert float((points[..., 0] - 0.5).abs().max()) < 0.2


def test_points_are_a_function_of_the_seed():
    def draw(seed):
        torch.manual_seed(seed)
        return draw_points(halves(), 50, oversampling=3, importance=0.75)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


# ---- the refiner


def test_subdivision_changes_the_uncertain_cells_and_no_other():
    torch.manual_seed(0)
    coarse = 20 * torch.randn(2, 3, 8, 8)
    fine = torch.randn(2, 8, 16, 16)
    refiner = PointRend((8,), 3, channels=16).eval()
    with torch.no_grad():
        refined = refiner.subdivide(fine, coarse, (16, 16), 40)
    upsampled = resize(coarse, (16, 16))
    changed = (refined != upsampled).any(1).flatten(1)
    cells = most_uncertain_cells(upsampled, 40)
    assert torch.equal(changed, torch.zeros_like(changed).scatter(1, cells, True))
    with torch.no_grad():
        predicted = refiner.predict(fine, coarse, centres(cells, 16, 16))
    found = refined.flatten(2).gather(2, cells[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(found, predicted)


@pytest.mark.parametrize(
    ("stride", "sizes"),
    [(4, [(96, 160), (192, 320)]), (16, [(24, 40), (48, 80), (96, 160), (192, 320)])],
)
def test_subdivision_doubles_up_to_the_padded_picture(stride, sizes, monkeypatch):
    """By a stride-16 map's number of points (192 x 320: 240) at each step."""
    refiner = PointRend((8,), 4, channels=16).eval()
    asked = []
    plain = refiner.predict

    def predict(fine, coarse, points):
        asked.append(points.shape[1])
        return plain(fine, coarse, points)

    monkeypatch.setattr(refiner, "predict", predict)
    coarse = torch.randn(1, 4, 192 // stride, 320 // stride)
    with torch.no_grad():
        refined = refiner.refine(scene(coarse, stride=stride))
    assert [stage.shape[-2:] for stage in refined.stages] == [(192, 320)]
    assert asked == [min(240, height * width) for height, width in sizes]
    assert refined.aux == {}


def test_a_size_that_is_no_power_of_two_away_is_reached():
    refiner = PointRend((8,), 2, channels=16).eval()
    with torch.no_grad():
        refined = refiner.subdivide(torch.randn(1, 8, 5, 9), torch.randn(1, 2, 3, 7), (17, 7), 4)
        same = torch.randn(1, 2, 17, 7)
        assert refiner.subdivide(torch.randn(1, 8, 5, 9), same, (17, 7), 4) is same
    assert refined.shape == (1, 2, 17, 7)


def test_training_predicts_points_alone():
    torch.manual_seed(0)
    refiner = PointRend((8,), 3, channels=16).train()
    coarse = torch.randn(2, 3, 16, 16, requires_grad=True)
    refined = refiner.refine(scene(coarse))
    assert refined.stages == []
    assert refined.aux["points"].shape == (2, 16, 2)  # 64 x 64 pixels
    assert refined.aux["point_logits"].shape == (2, 3, 16)
    assert not refined.aux["points"].requires_grad
    refined.aux["point_logits"].sum().backward()
    assert coarse.grad is not None
    assert coarse.grad.abs().sum() > 0


def test_the_point_head_sees_the_coarse_prediction_in_every_layer():
    head = PointHead(256, 19)
    shapes = [tuple(p.shape[:2]) for p in head.parameters() if p.ndim == 3]
    assert shapes == [(256, 275), (256, 275), (256, 275), (19, 275)]


def test_the_point_head_costs_what_the_paper_says():
    """Table 2: 0.9 G for an instance's 224 x 224 mask of 80 classes, over 30 times less than dense.

    From 7 x 7 in five steps of 28 x 28 points, as far as a step's map has so many.
    """
    with torch.device("meta"), FlopCounterMode(display=False) as mode:
        refiner = PointRend((256,), 80).eval()
        refiner.subdivide(
            torch.empty(1, 256, 56, 56), torch.empty(1, 80, 7, 7), (224, 224), 28 * 28
        )
    macs = mode.get_total_flops() / 2
    assert macs / 1e9 == pytest.approx(0.95, abs=0.005)
    convs, upconv, classes = 4 * 112**2 * 256**2 * 9, 112**2 * 256**2 * 4, 224**2 * 256 * 80
    assert (convs + upconv + classes) / macs > 30


# ---- whole models


def test_fine_features_are_the_pyramids_on_fpn_and_the_encoders_elsewhere(monkeypatch):
    for preset, channels in (("fpn-pointrend", 2 * 8), ("deeplabv3-pointrend", 64)):
        options = {"output_stride": 32} if "deeplab" in preset else {}
        model = pna.create_model(
            preset,
            encoder="resnet18",
            num_classes=4,
            pretrained=False,
            coarse_channels=8,
            **options,
        ).eval()
        seen = []
        plain = model.refiner.forward
        monkeypatch.setattr(
            model.refiner, "forward", lambda s, p=plain, a=seen: a.append(s) or p(s)
        )
        with torch.no_grad():
            model(torch.rand(1, 3, 64, 64))
        assert seen[0].features[0].shape == (1, channels, 16, 16)


def test_a_pyramid_as_neck_counts_what_it_counts_inside_the_head():
    counts = {}
    for preset in ("fpn", "fpn-pointrend"):
        with torch.device("meta"):
            model = pna.create_model(preset, num_classes=21, pretrained=False)
        parts = count(model, (64, 64))
        counts[preset] = {part.part: part for part in parts}
    alone, refined = counts["fpn"], counts["fpn-pointrend"]
    for name in ("parameters", "macs"):
        whole = getattr(refined["neck"], name) + getattr(refined["coarse head"], name)
        assert whole == getattr(alone["coarse head"], name)
    widths = (256, 256, 256, 256)
    layers = sum(
        (width + 21) * out + out for width, out in zip(widths, (256, 256, 256, 21), strict=True)
    )
    assert refined["refinement"].parameters == layers


def test_deeplab_has_the_output_stride_and_rates_of_its_paper():
    with torch.device("meta"):
        model = pna.create_model("deeplabv3-pointrend", num_classes=21, pretrained=False)
    assert model.encoder.strides == (4, 8, 16, 16)
    assert model.config.rates == (6, 12, 18)


def test_it_learns_to_draw_a_boundary():
    """On one picture: the points' loss falls, and P1 is nearer to the truth at edges than P0."""
    from pna.train.losses import segmentation_loss
    from pna.train.own_losses import find_own_losses
    from pna.train.recipe import LossSection

    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    labels = ((rows - 30) ** 2 + (columns - 34) ** 2 < 18**2).long()[None]
    picture = torch.stack([labels, 1 - labels, labels], dim=1) * 0.6 + 0.2
    picture, labels = picture.repeat(2, 1, 1, 1), labels.repeat(2, 1, 1)
    picture = picture + 0.05 * torch.randn(2, 3, 64, 64)
    config = ModelConfig("resnet18", coarse_channels=16, aux=False, rival="pointrend")
    model = build(config, generic(2)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()  # two pictures have no statistics to judge by
    own = find_own_losses(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    found = []
    for _ in range(40):
        total, parts = segmentation_loss(
            model(picture), labels, model.upsample, LossSection(), own=own
        )
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        found.append(float(parts["points"]))
    assert sum(found[-5:]) < 0.3 * sum(found[:5])
    model.eval()
    with torch.no_grad():
        output = model(picture)
    coarse = model.upsample(output.coarse, (64, 64)).argmax(1)
    scores = []
    for guess in (coarse, output.logits.argmax(1)):
        counts = boundary_counts(guess, labels, 2, width=2)
        scores.append(float((counts.intersection / counts.union).mean()))
    assert scores[1] > scores[0] + 0.1, scores
