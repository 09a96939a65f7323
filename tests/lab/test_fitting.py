from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import nn

from pna.errors import PnaError
from pna.lab.fitting import LAST, FitSettings, fit
from pna.train.log import read_log

QUIET = Console(quiet=True)


class KilledError(Exception):
    """Ends a run as a kill would."""


def start(run: Path, steps: int, *, stop_at: int | None = None) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def losses(step: int) -> dict[str, torch.Tensor]:
        if step == stop_at:
            raise KilledError
        x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
        return {"error": (network(x)[:, 0] - x.sum(1)).square().mean()}

    settings = FitSettings(steps=steps, lr=0.1, head_lr=None, checkpoint_every=10, log_every=5)
    return fit(network, losses, run, settings, console=QUIET), network


def test_a_continued_run_equals_one_that_was_not_stopped(tmp_path):
    whole, _ = start(tmp_path / "a", 40)
    with pytest.raises(KilledError):
        start(tmp_path / "b", 40, stop_at=27)
    continued, _ = start(tmp_path / "b", 40)
    for (name, x), y in zip(
        whole.state_dict().items(), continued.state_dict().values(), strict=True
    ):
        assert torch.equal(x, y), name
    rows = [read_log(tmp_path / run / "log.jsonl") for run in "ab"]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == list(range(5, 41, 5))
    assert rows[0][-1]["loss"] < 0.5 * rows[0][0]["loss"]


def test_the_average_has_the_last_statistics(tmp_path):
    average, network = start(tmp_path, 20)
    assert torch.equal(average[1].running_mean, network[1].running_mean)
    assert not torch.equal(average[0].weight, network[0].weight)
    assert not average.training


def test_another_length_is_another_run(tmp_path):
    start(tmp_path, 20)
    with pytest.raises(
        PnaError, match=r"settings\.json: expected a run of steps 30, got one of steps 20: choose"
    ):
        start(tmp_path, 30)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path):
    with pytest.raises(PnaError, match="^step 0: a loss is not finite"):
        fit(
            nn.Linear(1, 1),
            lambda step: {"error": torch.tensor(torch.nan)},
            tmp_path,
            FitSettings(steps=3),
            console=QUIET,
        )
    assert not (tmp_path / LAST).exists()
