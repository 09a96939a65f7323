"""EBLNet: edge, body, graph and losses, as in its paper and its authors' code."""

import pytest
import torch
import torch.nn.functional as F

import pna
from pna.lab.baselines import PRESETS
from pna.lab.baselines.eblnet import (
    EDGE_WEIGHT,
    EBLNet,
    PointGraph,
    RefinedDifferential,
    dice,
    is_boundary,
)
from pna.model.config import ModelOptions
from pna.model.counts import count


def inputs(*, channels=(4, 8, 12, 16), size=64, num_classes=3, batch=2):
    """Features and coarse logits."""
    *levels, context = channels
    strides = (4, 8, 16, 32)
    maps = [
        torch.randn(batch, width, size // stride, size // stride)
        for width, stride in zip(levels, strides, strict=False)
    ]
    maps.append(torch.randn(batch, context, *maps[-1].shape[-2:]))
    return maps, torch.randn(batch, num_classes, *maps[-1].shape[-2:])


def test_edge_and_body_add_up_to_the_map():
    """Before the coarse features fill up the body: what isn't edge is body."""
    split = RefinedDifferential(16, 8, 12, skip_channels=8).eval()
    x, low, high = torch.randn(1, 16, 4, 4), torch.randn(1, 8, 4, 4), torch.randn(1, 12, 2, 2)
    with torch.no_grad():
        split.fill.weight.zero_()
        split.fill.weight[:, :16, 0, 0] = torch.eye(16)  # the coarse features are left out
        edge, body = split(x, low, high)
    torch.testing.assert_close(edge + body, x)
    assert (edge >= 0).all()
    assert edge.abs().sum() > 0


def test_the_graph_replaces_edge_cells_and_no_other():
    torch.manual_seed(0)
    graph = PointGraph(6, num_points=10, threshold=0.9).eval()
    x, probability = torch.randn(2, 6, 5, 8), 0.5 * torch.rand(2, 1, 5, 8)
    probability[0, 0, 2, :] = 0.95  # eight cells that are edge, two more that aren't
    with torch.no_grad():
        out = graph(x, probability)
    changed = (out != x).any(1)
    assert changed[0, 2].all()
    assert int(changed.sum()) == 8  # nothing in the second image
    probability[:] = 0.99
    with torch.no_grad():
        assert int((graph(x, probability) != x).any(1).sum()) == 2 * 10  # the most there can be


def test_the_graph_connects_all_its_points():
    torch.manual_seed(0)
    graph = PointGraph(6, num_points=12, threshold=0.5).eval()
    x, probability = torch.randn(1, 6, 4, 4), torch.linspace(0.6, 0.9, 16).reshape(1, 1, 4, 4)
    with torch.no_grad():
        before = graph(x, probability)
        x[0, :, 3, 3] += 10
        after = graph(x, probability)
    moved = (before != after).any(1)[0]
    assert int(moved.flatten()[4:].sum()) > 6  # points far from the one that has changed
    assert not moved.flatten()[:4].any()  # the four least likely are no points


def test_a_map_smaller_than_the_graph():
    graph = PointGraph(6, num_points=96, threshold=0.5).train()
    x = torch.randn(2, 6, 3, 3)
    out = graph(x, torch.ones(2, 1, 3, 3))
    assert out.shape == x.shape
    assert (out != x).any(1).all()


def test_points_do_not_train_the_edge():
    """The edge chooses them, as in the authors' code."""
    model = EBLNet((4, 8, 12, 16), 3, num_points=8, threshold=0.0).train()
    model.forward_training(*inputs()).stages[-1].sum().backward()
    for stage in model.cascade:
        assert stage.classify_edge[1].weight.grad is None
        assert stage.split.edge[0].weight.grad is not None


def test_stages_and_aux():
    torch.manual_seed(0)
    model, (features, coarse) = EBLNet((4, 8, 12, 16), 3), inputs()
    assert model.num_stages == 3
    refined = model.train().forward_training(features, coarse)
    assert [tuple(p.shape) for p in refined.stages] == [(2, 3, 16, 16)] * 3
    assert refined.aux["edges"].shape == (2, 3, 16, 16)
    assert refined.aux["bodies"].shape == (2, 3, 3, 16, 16)
    model.eval()
    with torch.no_grad():
        stages = model(features, coarse)
        torch.testing.assert_close(stages, model.forward_training(features, coarse).stages)


def test_each_stage_fills_the_body_from_a_finer_level():
    assert EBLNet((4, 8, 12, 24, 16), 3).sources == [3, 2, 1]
    assert EBLNet((4, 16), 3).sources == [0, 0, 0]
    with pytest.raises(ValueError, match=r"^expected a level and the context, got channels"):
        EBLNet((16,), 3)


def test_it_has_the_layers_of_the_authors_code():
    """Layer by layer, but for one 3x3 convolution a stage that their code makes and never calls."""
    with torch.device("meta"):
        model = pna.create_model("eblnet", 21, encoder_weights=None, presets=PRESETS)
    parts = {part.part: part for part in count(model, (512, 512))}
    D, K, skip, points = 256, 21, 48, 96
    conv = D * D * 9 + 2 * D  # with its batch norm
    split = (D + skip) // 8 * D * 9 + 2 * D + (D + skip) * D
    graph = points**2 + 2 * points + D**2 + 2 * D
    stage = split + graph + (conv + D) + (conv + D * K) + D * K  # edge, body, classes
    last = D * D * 9 + conv  # the context joins: twice the channels
    fills = (2048 + 1024 + 512) * skip
    assert parts["refinement"].parameters == 256 * skip + fills + 3 * (stage + conv) + last
    pyramid = 2048 * D * (1 + 1 + 27) + 5 * 2 * D
    assert parts["neck"].parameters == pyramid + 5 * D * D * 9 + 2 * D  # theirs fuses by 1x1
    assert parts["coarse head"].parameters == D * K + K
    assert model.encoder.strides == (4, 8, 8, 8)


def test_a_narrow_model_on_a_small_encoder():
    options = ModelOptions(coarse_channels=32, rates=(6, 12, 18), output_stride=16)
    model = pna.create_model(
        "eblnet",
        5,
        encoder="tf_efficientnet_lite0",
        encoder_weights=None,
        options=options,
        presets=PRESETS,
    )
    parameters = {part.part: part.parameters for part in count(model, (64, 64))}
    assert parameters["refinement"] < 0.3e6
    with torch.no_grad():
        output = model.eval()(torch.rand(1, 3, 96, 64), stages=True)
    assert [tuple(p.shape) for p in output.stages] == [(1, 5, 24, 16)] * 3


def test_it_learns_the_boundary():
    """On one batch the edges' loss falls, and the most likely edge cells lie on the boundary."""
    torch.manual_seed(0)
    labels = torch.zeros(2, 64, 64, dtype=torch.int64)
    labels[:, 20:, 24:] = 1
    features, coarse = inputs(num_classes=2)
    cells = torch.nn.functional.avg_pool2d(labels[:, None].float(), 4)  # (2, 1, 16, 16)
    features[0][:, :1] = cells
    model = EBLNet((4, 8, 12, 16), 2).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    history = []
    for _ in range(40):
        refined = model.forward_training(features, coarse)
        losses = model.losses(refined.aux, labels)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(float(losses["edges"].detach()))
    assert history[-1] < 0.4 * history[0], history
    boundary = is_boundary(labels)[:, 2::4, 2::4].flatten(1)  # of the pixel amid each cell
    for edges in refined.aux["edges"].flatten(2).unbind(1):
        likely = edges.topk(20, dim=1).indices
        assert float(boundary.gather(1, likely).float().mean()) > 0.9


# ---- losses


def _model() -> EBLNet:
    return EBLNet((4, 16), 3)


def by_brute_force(labels: torch.Tensor, radius: int) -> torch.Tensor:
    """Every pixel against every other one nearby."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    for b, i, j in torch.ones_like(labels).nonzero().tolist():
        own = int(labels[b, i, j])
        near = labels[b, max(i - radius, 0) : i + radius + 1, max(j - radius, 0) : j + radius + 1]
        others = {int(label) for label in near.flatten()} - {own, 255}
        found[b, i, j] = own != 255 and bool(others)
    return found


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (20, 23)])
@pytest.mark.parametrize("radius", [1, 4])
def test_the_boundary_is_where_classes_meet(size: tuple[int, int], radius: int) -> None:
    torch.manual_seed(0)
    labels = torch.zeros(3, *size, dtype=torch.int64)
    labels[:, size[0] // 2 :] = 7
    labels[1, :, size[1] // 3 :] = 20
    scattered = torch.rand(labels.shape)
    labels[2] = torch.where(scattered[2] < 0.02, 3, labels[2])
    labels[scattered > 0.8] = 255
    assert torch.equal(is_boundary(labels, radius=radius), by_brute_force(labels, radius))


def test_neither_the_image_s_border_nor_ignored_pixels_are_boundaries() -> None:
    labels = torch.full((1, 12, 12), 5)
    labels[0, :, 6] = 255
    assert not is_boundary(labels).any()
    labels[0, :, 7:] = 2  # across the ignored column
    band = is_boundary(labels)
    assert band[0, 0].nonzero().flatten().tolist() == [3, 4, 5, 7, 8, 9]
    assert not is_boundary(torch.full((1, 12, 12), 255)).any()


def test_boundaries_are_eight_pixels_wide() -> None:
    labels = torch.zeros(1, 20, 20, dtype=torch.int64)
    labels[:, :, 10:] = 1
    assert is_boundary(labels).sum(2).unique().tolist() == [8]


def test_dice_by_hand() -> None:
    probability = torch.tensor([[[0.5, 1.0]], [[0.25, 0.0]]])
    target = torch.tensor([[[True, True]], [[False, True]]])
    valid = torch.tensor([[[True, True]], [[True, False]]])
    first = 1 - (2 * 1.5 + 1) / (0.25 + 1 + 2 + 1)
    second = 1 - (0 + 1) / (0.0625 + 0 + 1)
    assert float(dice(probability, target, valid)) == pytest.approx((first + second) / 2)


def test_perfect_edges_cost_nothing_and_bodies_count_off_the_edges() -> None:
    labels = torch.zeros(1, 16, 16, dtype=torch.int64)
    labels[:, :, 8:] = 1
    edge = is_boundary(labels)
    right = torch.where(edge, 50.0, -50.0)[:, None]
    bodies = torch.randn(1, 2, 3, 16, 16)
    aux = {"edges": right.expand(1, 2, 16, 16), "bodies": bodies}
    found = _model().losses(aux, labels)
    assert float(found["edges"]) == pytest.approx(0, abs=1e-5)
    changed_on_edges = bodies.masked_fill(edge[:, None, None], 7.0)
    again = _model().losses({**aux, "bodies": changed_on_edges}, labels)
    assert float(again["bodies"]) == pytest.approx(float(found["bodies"]))
    off_edge = labels.masked_fill(edge, 255)
    expected = sum(F.cross_entropy(bodies[:, n], off_edge, ignore_index=255) for n in range(2))
    assert float(found["bodies"]) == pytest.approx(float(expected))
    wrong = _model().losses({**aux, "edges": -right.expand(1, 2, 16, 16)}, labels)
    assert float(wrong["edges"]) == pytest.approx(2 * EDGE_WEIGHT, rel=0.01)  # two stages


def test_logits_of_any_stride_are_brought_to_the_labels() -> None:
    labels = torch.randint(3, (2, 32, 64))
    aux = {"edges": torch.randn(2, 3, 8, 16), "bodies": torch.randn(2, 3, 3, 8, 16)}
    assert all(value.isfinite() for value in _model().losses(aux, labels).values())
