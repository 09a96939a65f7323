import pytest
import torch
import torch.nn.functional as F

from pna.train.point_loss import point_losses


def test_it_is_the_mean_over_valid_points() -> None:
    labels = torch.tensor([[[0, 1], [255, 2]]])
    points = torch.tensor([[[0.2, 0.1], [0.9, 0.4], [0.4, 0.6], [0.99, 0.99]]])
    logits = torch.randn(1, 3, 4)
    found = point_losses({"points": points, "point_logits": logits}, labels)["points"]
    valid = [0, 1, 3]  # the third lies in the ignored pixel
    expected = F.cross_entropy(logits[0, :, valid].T, torch.tensor([0, 1, 2]))
    assert float(found) == pytest.approx(float(expected))


def test_ignored_points_alone_have_a_graph() -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    aux = {"points": torch.rand(2, 5, 2), "point_logits": logits}
    loss = point_losses(aux, torch.full((2, 4, 4), 255))["points"]
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()
