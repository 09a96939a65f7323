"""EBLNet: edge, body and graph, as its paper and its authors' code describe them."""

import pytest
import torch

import pna
from pna.model.config import ModelConfig
from pna.model.counts import count
from pna.model.presets import build
from pna.model.refiner import Scene
from pna.model.rivals.eblnet import EBLNet, PointGraph, RefinedDifferential
from pna.train.edge_loss import edge_losses, is_boundary


def scene(*, channels=(4, 8, 12, 16), size=64, num_classes=3, batch=2):
    *levels, context = channels
    strides = (4, 8, 16, 32)
    maps = [
        torch.randn(batch, width, size // stride, size // stride)
        for width, stride in zip(levels, strides, strict=False)
    ]
    maps.append(torch.randn(batch, context, *maps[-1].shape[-2:]))
    coarse = torch.randn(batch, num_classes, *maps[-1].shape[-2:])
    return Scene(torch.rand(batch, 3, size, size), maps, coarse)


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
    assert int(changed.sum()) == 8  # nothing in the second picture
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
    """They are chosen by it, as in the authors' code."""
    model = EBLNet((4, 8, 12, 16), 3, num_points=8, threshold=0.0).train()
    given = scene()
    model.refine(given).stages[-1].sum().backward()
    for stage in model.cascade:
        assert stage.classify_edge[1].weight.grad is None
        assert stage.split.edge[0].weight.grad is not None


def test_stages_and_what_the_loss_needs():
    torch.manual_seed(0)
    model = EBLNet((4, 8, 12, 16), 3)
    assert model.num_stages == 3
    given = scene()
    refined = model.train().refine(given)
    assert [tuple(p.shape) for p in refined.stages] == [(2, 3, 16, 16)] * 3
    assert refined.aux["edges"].shape == (2, 3, 16, 16)
    assert refined.aux["bodies"].shape == (2, 3, 3, 16, 16)
    model.eval()
    with torch.no_grad():
        whole = model.refine(given)
        first = model.refine(given, stop_at=1)
    assert whole.aux == {}
    assert torch.equal(first.stages[0], whole.stages[0])
    with pytest.raises(ValueError, match="stop_at from 1 to 3, got 4"):
        model.refine(given, stop_at=4)


def test_each_stage_fills_the_body_from_a_finer_level():
    assert EBLNet((4, 8, 12, 24, 16), 3).sources == [3, 2, 1]
    assert EBLNet((4, 16), 3).sources == [0, 0, 0]
    with pytest.raises(ValueError, match="expected a level and the context"):
        EBLNet((16,), 3)


def test_it_has_the_layers_of_the_authors_code():
    """Layer by layer, but for one 3x3 convolution a stage that their code makes and never calls."""
    with torch.device("meta"):
        model = pna.create_model("eblnet", num_classes=21, pretrained=False)
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
    config = ModelConfig(
        "tf_efficientnet_lite0",
        "deeplabv3",
        coarse_channels=32,
        rates=(6, 12, 18),
        output_stride=16,
        aux=False,
        rival="eblnet",
    )
    model = build(config, pna.labels.generic(5))
    parameters = {part.part: part.parameters for part in count(model, (64, 64))}
    assert parameters["refinement"] < 0.3e6
    with torch.no_grad():
        output = model.eval()(torch.rand(1, 3, 96, 64), stages=True)
    assert [tuple(p.shape) for p in output.stages] == [(1, 5, 24, 16)] * 3


def test_it_goes_with_deeplab_only():
    with pytest.raises(ValueError, match="eblnet is for deeplabv3, got 'fcn'"):
        build(ModelConfig("resnet18", rival="eblnet"), pna.labels.generic(3))


def test_it_learns_the_boundary():
    """On one scene: the edges' loss falls, and the most likely edge cells lie on the boundary."""
    torch.manual_seed(0)
    labels = torch.zeros(2, 64, 64, dtype=torch.int64)
    labels[:, 20:, 24:] = 1
    given = scene(num_classes=2)
    cells = torch.nn.functional.avg_pool2d(labels[:, None].float(), 4)  # (2, 1, 16, 16)
    given.features[0][:, :1] = cells
    model = EBLNet((4, 8, 12, 16), 2).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    found = []
    for _ in range(40):
        refined = model.refine(given)
        losses = edge_losses(refined.aux, labels)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        found.append(float(losses["edges"].detach()))
    assert found[-1] < 0.4 * found[0], found
    boundary = is_boundary(labels)[:, 2::4, 2::4].flatten(1)  # of the pixel amid each cell
    for edges in refined.aux["edges"].flatten(2).unbind(1):
        likely = edges.topk(20, dim=1).indices
        assert float(boundary.gather(1, likely).float().mean()) > 0.9
