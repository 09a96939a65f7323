"""Costs: counted once, measured on demand, and dropped when the model changes."""

import json
import math
from pathlib import Path

import pytest

import pna
from pna.lab.compare import costs
from pna.lab.compare.comparison import MeasureSection
from pna.lab.compare.costs import read_costs, update_costs
from pna.lab.compare.runs import plan_runs
from pna.lab.compare.scores import collect_scores
from pna.lab.measure.memory import Peak
from pna.model.counts import count


@pytest.fixture
def scores(comparison, kept):
    return collect_scores(comparison, plan_runs(comparison, kept))


@pytest.fixture
def peaks(monkeypatch):
    """Peak memory without processes: test_memory.py has those."""
    seen = []

    def peak(work):
        seen.append(work.model)
        return Peak(why_not="out of memory") if Path(work.model).name == "pna" else Peak(12.0)

    monkeypatch.setattr(costs, "peak_memory", peak)
    return seen


def test_counts_are_those_of_the_saved_model(comparison, scores, finished, tmp_path):
    costs_now = update_costs(tmp_path, scores, comparison.measure, "never", print)
    parts = count(pna.load(finished / "pna-2-0" / "model"), (64, 96))
    cost = costs_now.models["pna"]
    assert cost.parameters == sum(part.parameters for part in parts)
    assert cost.macs == sum(part.macs for part in parts)
    assert cost.attention_macs == sum(part.attention_macs for part in parts) > 0
    assert not cost.is_measured
    assert costs_now.machine is None
    assert read_costs(tmp_path, scores, comparison.measure) == costs_now


def test_measured_once_and_on_demand(comparison, scores, tmp_path, peaks):
    lines = []
    costs_now = update_costs(tmp_path, scores, comparison.measure, "missing", lines.append)
    assert lines[:2] == ["memory of fcn", "memory of pna"]
    low, median, high = costs_now.models["fcn"].ms
    assert 0 < low <= median <= high < math.inf
    assert costs_now.models["fcn"].peak_mb == 12.0
    assert (costs_now.models["pna"].ms, costs_now.models["pna"].why_not) == (None, "out of memory")
    assert costs_now.machine["device"]
    again = update_costs(tmp_path, scores, comparison.measure, "missing", lines.append)
    assert (again, len(peaks)) == (costs_now, 3)
    update_costs(tmp_path, scores, comparison.measure, "again", lines.append)
    assert len(peaks) == 6


def test_costs_of_another_size_or_model_are_dropped(tree, comparison, scores, tmp_path):
    update_costs(tmp_path, scores, comparison.measure, "never", print)
    assert read_costs(tmp_path, scores, MeasureSection(size=(32, 32))).models == {}
    saved = json.loads((tmp_path / "costs.json").read_text())
    saved["models"]["fcn"]["model"]["preset"] = "fcn"
    (tmp_path / "costs.json").write_text(json.dumps(saved))
    assert set(read_costs(tmp_path, scores, comparison.measure).models) == {"pna", "again"}


@pytest.mark.parametrize("text", ["{", "[]", '{"models": {"fcn": {}}, "machine": null}'])
def test_damaged_costs_are_named(comparison, scores, tmp_path, text):
    (tmp_path / "costs.json").write_text(text)
    with pytest.raises(ValueError, match=r"costs\.json: expected costs that pna compare wrote"):
        read_costs(tmp_path, scores, comparison.measure)
