import pytest
import torch
from torch import nn

import pna
from pna.train.optimizer import (
    average_weights,
    create_optimizer,
    learning_rate_factor,
    parameter_groups,
    set_learning_rate,
)
from pna.train.recipe import OptimizerSection, ScheduleSection


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.encoder_like = nn.Linear(4, 4, bias=False)
        self.norm = nn.LayerNorm(4)
        self.bias_table = nn.Parameter(torch.zeros(2, 5, 5))
        self.frozen = nn.Linear(4, 4).requires_grad_(False)


ENCODER = {"encoder.0.weight", "encoder.0.bias", "encoder.1.weight", "encoder.1.bias"}


def groups_of(settings: OptimizerSection) -> dict[tuple[str, float], tuple[set[str], float]]:
    """Parameter names and learning rate by (part, weight decay)."""
    model = Network()
    names = {id(p): name for name, p in model.named_parameters()}
    return {
        (g["name"], g["weight_decay"]): ({names[id(p)] for p in g["params"]}, g["lr"])
        for g in parameter_groups(model.named_parameters(), settings, ENCODER)
    }


def test_norms_biases_and_bias_tables_are_not_decayed() -> None:
    groups = groups_of(OptimizerSection(lr=1e-4, head_lr=5e-4, weight_decay=0.01))
    assert groups == {
        ("encoder", 0.01): ({"encoder.0.weight"}, 1e-4),
        ("encoder", 0.0): ({"encoder.0.bias", "encoder.1.weight", "encoder.1.bias"}, 1e-4),
        ("heads", 0.01): ({"encoder_like.weight"}, 5e-4),
        ("heads", 0.0): ({"norm.weight", "norm.bias", "bias_table"}, 5e-4),
    }


def test_one_learning_rate_serves_all_by_default() -> None:
    assert {lr for _, lr in groups_of(OptimizerSection(lr=2e-4)).values()} == {2e-4}


def test_without_an_encoder_all_are_heads() -> None:
    parameters = nn.Linear(2, 2).named_parameters()
    groups = parameter_groups(parameters, OptimizerSection(head_lr=5e-4), ())
    assert [(g["name"], g["lr"], len(g["params"])) for g in groups] == [
        ("heads", 5e-4, 1),
        ("heads", 5e-4, 1),
    ]


def test_settings_reach_adamw_and_the_models_encoder_its_group() -> None:
    model = pna.create_model("lite", 3, encoder="resnet18", encoder_weights=None)
    settings = OptimizerSection(lr=1e-4, head_lr=5e-4, betas=(0.8, 0.95))
    optimizer = create_optimizer(model, settings)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all(group["betas"] == (0.8, 0.95) for group in optimizer.param_groups)
    encoder = {id(p) for p in model.encoder.parameters()}
    for group in optimizer.param_groups:
        is_encoder = group["name"] == "encoder"
        assert group["lr"] == (1e-4 if is_encoder else 5e-4)
        assert all((id(p) in encoder) == is_encoder for p in group["params"])


@pytest.mark.parametrize(
    ("step", "factor"),
    [
        (0, 1e-6),
        (100, (1 - 100 / 20_000) ** 0.9 * 0.5000005),
        (199, (1 - 199 / 20_000) ** 0.9 * (1e-6 + (1 - 1e-6) * 199 / 200)),
        (200, 0.99**0.9),
        (10_000, 0.5**0.9),
        (19_999, (1 / 20_000) ** 0.9),
        (20_000, 0.0),
        (30_000, 0.0),
    ],
)
def test_poly_with_linear_warm_up(step: int, factor: float) -> None:
    paper = ScheduleSection(steps=20_000, warmup_steps=200, warmup_from=1e-6, power=0.9)
    assert learning_rate_factor(step, paper) == pytest.approx(factor, rel=1e-9)


def test_power_zero_is_constant_until_the_end() -> None:
    schedule = ScheduleSection(steps=5, power=0.0)
    assert [learning_rate_factor(s, schedule) for s in range(6)] == [1, 1, 1, 1, 1, 0]


def test_groups_keep_their_own_peak() -> None:
    model = nn.ModuleDict({"encoder": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    settings = OptimizerSection(lr=1e-4, head_lr=5e-4)
    encoder = {"encoder.weight", "encoder.bias"}
    optimizer = torch.optim.AdamW(parameter_groups(model.named_parameters(), settings, encoder))
    set_learning_rate(optimizer, 0.1)
    set_learning_rate(optimizer, 0.5)  # factors are of the peak, not of the last rate
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == pytest.approx({"encoder": 5e-5, "heads": 2.5e-4})


def test_the_average_moves_and_buffers_are_copied() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).train()
    average = average_weights(model, 0.2)
    expected = model[0].weight.detach().clone()
    for step in range(1, 6):
        model(torch.randn(8, 3))
        with torch.no_grad():
            model[0].weight.add_(step)
        average.update_parameters(model)
        decay = min(0.2, (1 + step) / (10 + step))  # early steps forget the start sooner
        expected = decay * expected + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(average.module[0].weight, expected)
    assert torch.equal(average.module[1].running_mean, model[1].running_mean)
    assert int(average.module[1].num_batches_tracked) == 5
    assert model.training
    assert not average.module.training
    assert not any(p.requires_grad for p in average.module.parameters())
    assert all(p.requires_grad for p in model.parameters())
