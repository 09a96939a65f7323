import pytest
import torch
import torch.nn.functional as F

from pna.train.edge_loss import EDGE_WEIGHT, dice, edge_losses, is_boundary


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


def test_neither_the_picture_s_border_nor_ignored_pixels_are_boundaries() -> None:
    labels = torch.full((1, 12, 12), 5)
    labels[0, :, 6] = 255
    assert not is_boundary(labels).any()
    labels[0, :, 7:] = 2  # across the ignored column
    band = is_boundary(labels)
    assert band[0, 0].nonzero().flatten().tolist() == [3, 4, 5, 7, 8, 9]
    assert not is_boundary(torch.full((1, 12, 12), 255)).any()


def test_it_is_eight_pixels_wide() -> None:
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


def test_perfect_edges_cost_nothing_and_bodies_are_judged_beside_them() -> None:
    labels = torch.zeros(1, 16, 16, dtype=torch.int64)
    labels[:, :, 8:] = 1
    edge = is_boundary(labels)
    right = torch.where(edge, 50.0, -50.0)[:, None]
    bodies = torch.randn(1, 2, 3, 16, 16)
    aux = {"edges": right.expand(1, 2, 16, 16), "bodies": bodies}
    found = edge_losses(aux, labels)
    assert float(found["edges"]) == pytest.approx(0, abs=1e-5)
    bodies_elsewhere = bodies.masked_fill(edge[:, None, None], 7.0)
    again = edge_losses({**aux, "bodies": bodies_elsewhere}, labels)
    assert float(again["bodies"]) == pytest.approx(float(found["bodies"]))
    beside = labels.masked_fill(edge, 255)
    expected = sum(F.cross_entropy(bodies[:, n], beside, ignore_index=255) for n in range(2))
    assert float(found["bodies"]) == pytest.approx(float(expected))
    wrong = edge_losses({**aux, "edges": -right.expand(1, 2, 16, 16)}, labels)
    assert float(wrong["edges"]) == pytest.approx(2 * EDGE_WEIGHT, rel=0.01)  # two stages


def test_logits_of_any_stride_are_brought_to_the_labels() -> None:
    labels = torch.randint(3, (2, 32, 64))
    aux = {"edges": torch.randn(2, 3, 8, 16), "bodies": torch.randn(2, 3, 3, 8, 16)}
    assert all(value.isfinite() for value in edge_losses(aux, labels).values())
