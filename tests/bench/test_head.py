"""What the stopwatch sees, and how it is split up."""

import time

import pytest
import torch
from torch import nn

from pna.bench.head import COLUMNS, split_up, watched
from pna.bench.stopwatch import Stopwatch
from pna.model.presets import create_model


class Sleep(nn.Module):
    def forward(self, x):
        time.sleep(0.01)
        return x


def test_stopwatch_adds_up_by_place():
    net = nn.Sequential(Sleep(), Sleep(), nn.Identity())
    modules = [(("net", "whole"), net), (("net", "sleep"), net[0]), (("net", "sleep"), net[1])]
    with Stopwatch(modules, "cpu") as stopwatch:
        net(torch.ones(1))
        found = stopwatch.read()
        assert stopwatch.read() == {}
    assert 20 <= found["net", "sleep"] <= found["net", "whole"]
    net(torch.ones(1))
    assert stopwatch.read() == {}  # the hooks are gone


def test_times_are_split_without_overlap():
    found = split_up(
        {
            ("encoder", "whole"): [50.0, 60.0],
            ("stage 1", "SAM"): [4.0, 5.0],
            ("stage 1", "NAM"): [10.0, 12.0],
            ("stage 1", "projections"): [3.0, 4.0],
            ("stage 1", "whole"): [20.0, 24.0],
            ("model", "whole"): [80.0, 85.0],
        }
    )
    assert found == {
        ("encoder", "whole"): [50.0, 60.0],
        ("stage 1", "SAM"): [4.0, 5.0],
        ("stage 1", "projections"): [3.0, 4.0],
        ("stage 1", "attention"): [7.0, 8.0],
        ("stage 1", "rest"): [6.0, 7.0],
        ("stage 1", "whole"): [20.0, 24.0],
        ("model", "rest"): [10.0, 1.0],
        ("model", "whole"): [80.0, 85.0],
    }


@pytest.mark.parametrize("variant", ["released", "paper", "prenorm"])
def test_every_part_of_a_stage_is_watched(variant):
    model = create_model("lite", num_classes=3, pretrained=False, variant=variant)
    places = [place for place, _ in watched(model)]
    parts = {part for place, part in places if place == "stage 1"}
    assert parts == {*COLUMNS, "NAM", "whole"} - {"attention"}
    assert {place for place, _ in places} == {"model", "encoder", "coarse head"} | {
        f"stage {m}" for m in (1, 2, 3, 4)
    }
