"""PointRend: choice of points, subdivision, loss and cost."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

import pna
from pna.lab.baselines import PRESETS
from pna.lab.baselines.pointrend import (
    PointHead,
    PointRend,
    centers,
    draw_points,
    most_uncertain_cells,
    sample,
    sample_labels,
    uncertainty,
)
from pna.model.config import ModelOptions
from pna.model.counts import count
from pna.model.resize import resize


def all_centers(height, width):
    return centers(torch.arange(height * width)[None], width, height)


def halves(size=16):
    """Two classes, sure of the left and of the right; less and less so towards the middle."""
    x = all_centers(size, size)[0, :, 0].reshape(1, 1, size, size) - 0.5
    return torch.cat([-x, x], dim=1)


def inputs(coarse, *, stride=4):
    """Features, coarse logits and images."""
    H, W = (side * stride for side in coarse.shape[-2:])
    return [torch.randn(len(coarse), 8, H // 4, W // 4)], coarse, torch.rand(len(coarse), 3, H, W)


# ---- points


def test_sampling_agrees_with_resizing():
    x = torch.randn(2, 3, 5, 7)
    torch.testing.assert_close(sample(x, all_centers(5, 7).expand(2, -1, -1)), x.flatten(2))
    twice = sample(x, all_centers(10, 14).expand(2, -1, -1)).unflatten(2, (10, 14))
    torch.testing.assert_close(twice, resize(x, (10, 14)))
    assert sample(x.bfloat16(), all_centers(5, 7).expand(2, -1, -1)).dtype == torch.float32


def test_labels_are_those_of_the_pixel_that_contains_a_point():
    labels = torch.arange(2 * 5 * 7).reshape(2, 5, 7)
    assert torch.equal(
        sample_labels(labels, all_centers(5, 7).expand(2, -1, -1)), labels.flatten(1)
    )
    corners = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [0.99, 0.01]]])
    assert sample_labels(labels[:1], corners).tolist() == [[0, 34, 6]]


def test_uncertainty_is_the_gap_between_the_first_two_classes():
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


def test_uncertainty_is_that_of_interpolated_logits():
    """Between two certain cells of different classes only the points halfway are uncertain."""
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
        predicted = refiner.predict(fine, coarse, centers(cells, 16, 16))
    found = refined.flatten(2).gather(2, cells[:, None].expand(-1, 3, -1))
    torch.testing.assert_close(found, predicted)


@pytest.mark.parametrize("stride", [4, 16])
def test_subdivision_doubles_up_to_the_padded_image(stride, monkeypatch):
    """With as many points as a stride-16 map has cells (192 x 320: 240) at each step."""
    refiner = PointRend((8,), 4, channels=16).eval()
    num_points, plain = [], refiner.head.forward

    def forward(fine, coarse):
        num_points.append(fine.shape[2])
        return plain(fine, coarse)

    monkeypatch.setattr(refiner.head, "forward", forward)
    features, coarse, images = inputs(
        torch.randn(1, 4, 192 // stride, 320 // stride), stride=stride
    )
    with torch.no_grad():
        (stage,) = refiner(features, coarse, images=images)
    assert stage.shape[-2:] == (192, 320)
    assert num_points == [240] * {4: 2, 16: 4}[stride]


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
    features, coarse, images = inputs(coarse)
    refined = refiner.forward_training(features, coarse, images=images)
    assert refined.stages == []
    assert refined.aux["points"].shape == (2, 16, 2)  # 64 x 64 pixels
    assert refined.aux["point_logits"].shape == (2, 3, 16)
    assert not refined.aux["points"].requires_grad
    refined.aux["point_logits"].sum().backward()
    assert coarse.grad is not None
    assert coarse.grad.abs().sum() > 0


def test_the_coarse_prediction_is_an_input_of_every_layer():
    head = PointHead(256, 19)
    shapes = [tuple(p.shape[:2]) for p in head.parameters() if p.ndim == 3]
    assert shapes == [(256, 275), (256, 275), (256, 275), (19, 275)]


def test_the_cost_is_that_of_the_paper():
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


# ---- loss


def test_the_loss_is_the_mean_over_valid_points():
    labels = torch.tensor([[[0, 1], [255, 2]]])
    points = torch.tensor([[[0.2, 0.1], [0.9, 0.4], [0.4, 0.6], [0.99, 0.99]]])
    logits = torch.randn(1, 3, 4)
    aux = {"points": points, "point_logits": logits}
    valid = [0, 1, 3]  # the third lies in the ignored pixel
    expected = F.cross_entropy(logits[0, :, valid].T, torch.tensor([0, 1, 2]))
    assert float(PointRend((8,), 3).losses(aux, labels)["points"]) == pytest.approx(float(expected))


def test_ignored_points_alone_have_a_graph():
    logits = torch.randn(2, 3, 5, requires_grad=True)
    aux = {"points": torch.rand(2, 5, 2), "point_logits": logits}
    loss = PointRend((8,), 3).losses(aux, torch.full((2, 4, 4), 255))["points"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_it_learns_to_draw_a_boundary():
    """On one pair of maps the loss falls, and P1 is closer to the truth than P0."""
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    labels = ((rows - 30) ** 2 + (columns - 34) ** 2 < 18**2).long()[None]
    truth = F.one_hot(labels, 2).permute(0, 3, 1, 2).float()
    coarse = 4 * F.avg_pool2d(truth, 16) - 2  # stride 16
    fine = F.avg_pool2d(truth, 4) + 0.05 * torch.randn(1, 2, 16, 16)  # stride 4
    images = torch.rand(1, 3, 64, 64)
    refiner = PointRend((2,), 2, channels=32)
    optimizer = torch.optim.AdamW(refiner.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        refined = refiner.forward_training([fine], coarse, images=images)
        loss = refiner.losses(refined.aux, labels)["points"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.3 * sum(losses[:5])
    with torch.no_grad():
        (refined,) = refiner.eval()([fine], coarse, images=images)
    wrong = [(x.argmax(1) != labels).sum() for x in (resize(coarse, (64, 64)), refined)]
    assert wrong[1] < 0.8 * wrong[0], wrong  # 0.54 to 0.71 over six seeds


# ---- whole models


@pytest.mark.parametrize(
    ("preset", "channels"), [("fpn-pointrend", 16), ("deeplabv3-pointrend", 64)]
)
def test_fine_features_are_the_pyramids_on_fpn_and_the_encoders_elsewhere(preset, channels):
    options = ModelOptions(coarse_channels=8, output_stride=32)
    model = pna.create_model(
        preset, 4, encoder="resnet18", encoder_weights=None, options=options, presets=PRESETS
    )
    assert model.refiner.head.layers[0].in_channels == channels + 4


def test_a_pyramid_as_neck_counts_as_much_as_inside_the_head():
    counts = {}
    for preset in ("fpn", "fpn-pointrend"):
        with torch.device("meta"):
            model = pna.create_model(preset, 21, encoder_weights=None, presets=PRESETS)
        counts[preset] = {part.part: part for part in count(model, (64, 64))}
    alone, refined = counts["fpn"], counts["fpn-pointrend"]
    for name in ("parameters", "macs"):
        whole = getattr(refined["neck"], name) + getattr(refined["coarse head"], name)
        assert whole == getattr(alone["coarse head"], name)
    widths = zip((256, 256, 256, 256), (256, 256, 256, 21), strict=True)
    layers = sum((width + 21) * out + out for width, out in widths)
    assert refined["refinement"].parameters == layers


def test_deeplab_has_the_output_stride_and_rates_of_its_paper():
    with torch.device("meta"):
        model = pna.create_model("deeplabv3-pointrend", 21, encoder_weights=None, presets=PRESETS)
    assert model.encoder.strides == (4, 8, 16, 16)
    assert [branch[0].dilation[0] for branch in model.coarse.pyramid.branches] == [1, 6, 12, 18]
