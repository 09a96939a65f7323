"""Times of modules, and their split into parts."""

import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from pna.lab.bench.head import COLUMNS, split_up, timed_modules
from pna.lab.bench.stopwatch import Stopwatch
from pna.model.pna import nam
from pna.model.pna.config import PNAConfig
from pna.model.presets import create_model
from pna.ops import neighborhood_attention


def test_stopwatch_adds_up_by_key(monkeypatch):
    clock = [0.0]

    class Wait(nn.Module):
        def forward(self, x):
            clock[0] += 0.01
            return x

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    net = nn.Sequential(Wait(), Wait(), nn.Identity(), Wait())
    modules = [(("net", "whole"), net), (("net", "wait"), net[0]), (("net", "wait"), net[1])]
    with Stopwatch(modules, "cpu") as stopwatch:
        net(torch.ones(1))
        times = stopwatch.read()
        assert stopwatch.read() == {}
    assert times == {("net", "wait"): pytest.approx(20), ("net", "whole"): pytest.approx(30)}
    net(torch.ones(1))
    assert stopwatch.read() == {}  # the hooks are gone


def test_times_are_split_without_overlap():
    split = split_up(
        {
            ("encoder", "whole"): [50.0, 60.0],
            ("stage 1", "SAM"): [4.0, 5.0],
            ("stage 1", "NAM"): [10.0, 12.0],
            ("stage 1", "projections"): [3.0, 4.0],
            ("stage 1", "whole"): [20.0, 24.0],
            ("model", "whole"): [80.0, 85.0],
        }
    )
    assert split == {
        ("encoder", "whole"): [50.0, 60.0],
        ("stage 1", "SAM"): [4.0, 5.0],
        ("stage 1", "projections"): [3.0, 4.0],
        ("stage 1", "attention"): [7.0, 8.0],
        ("stage 1", "rest"): [6.0, 7.0],
        ("stage 1", "whole"): [20.0, 24.0],
        ("model", "rest"): [10.0, 1.0],
        ("model", "whole"): [80.0, 85.0],
    }


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_every_part_of_a_stage_is_timed(variant):
    config = replace(PNAConfig.released(), widths=(32,) * 4, variant=variant, residual="add")
    model = create_model("lite", 3, encoder_weights=None, pna=config)
    keys = [key for key, _ in timed_modules(model)]
    parts = {part for component, part in keys if component == "stage 1"}
    assert parts == {*COLUMNS, "NAM", "whole"} - {"attention", "mixing", "carried logits"}
    assert {component for component, _ in keys} == {"model", "encoder", "coarse head"} | {
        f"stage {m}" for m in (1, 2, 3, 4)
    }


def test_every_part_of_a_stage_without_nam_is_timed():
    config = PNAConfig(
        widths=(32,) * 4,
        depth=2,
        image_width=8,
        self_aggregation=True,
    )
    model = create_model("lite", 3, encoder_weights=None, pna=config)
    modules = list(timed_modules(model))
    parts = {part for (component, part), _ in modules if component == "stage 2"}
    assert parts == {*COLUMNS, "whole"} - {"projections", "attention"}
    # Every module with weights is in a part: what is left is resizing and additions.
    in_parts = {
        inner
        for (component, part), module in modules
        if part != "whole" or component == "image stem"
        for inner in module.modules()
    }
    assert {m for m in model.refiner.modules() if list(m.parameters(recurse=False))} <= in_parts


def test_carried_logits_include_the_operator(monkeypatch):
    """The clock moves in the operator alone, which only the gathering of logits calls."""
    clock = [0.0]

    def attend(query, key, value, *others, **options):
        clock[0] += 0.01
        return neighborhood_attention(query, key, value, *others, **options)

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(nam, "neighborhood_attention", attend)
    config = PNAConfig(widths=(32,) * 4, variant="mixer", residual="gather")
    model = create_model("lite", 3, encoder_weights=None, pna=config).eval()
    with Stopwatch(timed_modules(model), "cpu") as stopwatch, torch.inference_mode():
        model(torch.rand(1, 3, 64, 64))
        times = split_up({key: [took] for key, took in stopwatch.read().items()})
    for m in range(1, model.refiner.num_stages + 1):
        assert times[f"stage {m}", "carried logits"] == [pytest.approx(10)]
        assert times[f"stage {m}", "rest"] == [0]
