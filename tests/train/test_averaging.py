import torch
from torch import nn

from pna.train.averaging import AveragedWeights


def test_it_is_the_moving_average_of_the_weights() -> None:
    model = nn.Linear(3, 2)
    averaged = AveragedWeights(model, 0.2)
    expected = model.weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model.weight.add_(step)
        averaged.update(model, step)
        decay = min(0.2, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    torch.testing.assert_close(averaged.model.weight, expected)


def test_early_steps_forget_the_start() -> None:
    model = nn.Linear(3, 2)
    averaged = AveragedWeights(model, 0.999)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    averaged.update(model, 1)
    torch.testing.assert_close(averaged.model.weight, start + 9 / 11)


def test_buffers_are_copied() -> None:
    model = nn.BatchNorm1d(3)
    averaged = AveragedWeights(model, 0.9)
    model(torch.randn(8, 3))
    averaged.update(model, 1)
    assert torch.equal(averaged.model.running_mean, model.running_mean)
    assert int(averaged.model.num_batches_tracked) == 1


def test_the_model_is_left_alone() -> None:
    model = nn.Linear(3, 2).train()
    averaged = AveragedWeights(model, 0.9)
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not averaged.model.training
    assert not any(p.requires_grad for p in averaged.model.parameters())
