import pytest
import torch
from torch import nn

from pna.train.optimizer import parameter_groups
from pna.train.recipe import OptimizerSection, ScheduleSection
from pna.train.schedule import learning_rate_factor, set_learning_rate

PAPER = ScheduleSection(steps=20_000, warmup_steps=200, warmup_from=1e-6, power=0.9)


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
    assert learning_rate_factor(step, PAPER) == pytest.approx(factor, rel=1e-9)


def test_without_warm_up_it_starts_at_the_peak() -> None:
    schedule = ScheduleSection(steps=10, power=1.0)
    factors = [learning_rate_factor(step, schedule) for step in range(11)]
    assert factors == pytest.approx([1 - step / 10 for step in range(11)])


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
