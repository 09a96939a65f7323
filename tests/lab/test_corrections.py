"""Sizes of the stages' corrections (`benchmarks/corrections.py`)."""

import corrections
import pytest
import torch
from torch import nn

import pna
from pna.model.pna.config import PNAConfig


@pytest.mark.parametrize(("variant", "residual"), [("prenorm", "aggregate"), ("mixer", "gather")])
def test_sizes_are_of_cells_less_the_mean_over_classes(variant, residual):
    config = PNAConfig(widths=(32,), window=3, variant=variant, residual=residual)
    head = pna.PNAHead([8], 3, config).eval()
    stage = head.stages[0]
    stage.fusion = Twos()
    nn.init.zeros_(stage.classifier.weight)
    stage.classifier.bias.data = torch.tensor([7.0, 8.0, 9.0])
    read, added = [], []
    corrections.watch(stage, read, added)
    with torch.no_grad():
        head([torch.randn(2, 8, 4, 5)], torch.randn(2, 3, 2, 3), images=torch.rand(2, 3, 8, 10))
    assert read[0].tolist() == pytest.approx(40 * [2 * 32**0.5])
    assert added[0].tolist() == pytest.approx(40 * [2**0.5])


class Twos(nn.Module):
    """Twos in place of a stage's features."""

    def forward(self, f, p):
        return torch.full_like(f, 2)


def test_quantiles():
    assert corrections.quantiles(torch.arange(101.0).flip(0)) == [5.0, 50.0, 95.0]
    assert corrections.quantiles(torch.tensor([3.0])) == [3.0, 3.0, 3.0]
