"""Costs: counted once, measured on demand, forgotten when the model is another."""

import json
import math
from pathlib import Path

import pytest

import pna
from pna.bench.memory import Peak
from pna.compare import costs
from pna.compare.comparison import MeasureSection
from pna.compare.costs import read_costs, update_costs
from pna.compare.runs import plan
from pna.compare.scores import collect
from pna.model.counts import count


@pytest.fixture
def entries(comparison, kept):
    return collect(comparison, plan(comparison, kept))


@pytest.fixture
def peaks(monkeypatch):
    """Peak memory as told, without processes: tests/bench/test_memory.py has those."""
    seen = []

    def peak(work):
        seen.append(work.model)
        return Peak(why_not="out of memory") if Path(work.model).name == "pna" else Peak(12.0)

    monkeypatch.setattr(costs, "peak_memory", peak)
    return seen


def test_counts_are_those_of_the_exported_model(comparison, entries, finished, tmp_path):
    found = update_costs(tmp_path, entries, comparison.measure, "never", print)
    parts = count(pna.load(finished / "pna-2-0" / "model"), (64, 96))
    cost = found.models["pna"]
    assert cost.parameters == sum(part.parameters for part in parts)
    assert cost.macs == sum(part.macs for part in parts)
    assert cost.attention_macs == sum(part.attention_macs for part in parts) > 0
    assert not cost.is_measured
    assert found.machine is None
    assert read_costs(tmp_path, entries, comparison.measure) == found


def test_measured_once_and_on_demand(comparison, entries, tmp_path, peaks):
    lines = []
    found = update_costs(tmp_path, entries, comparison.measure, "missing", lines.append)
    assert lines[:2] == ["memory of fcn", "memory of pna"]
    low, median, high = found.models["fcn"].ms
    assert 0 < low <= median <= high < math.inf
    assert found.models["fcn"].peak_mb == 12.0
    assert (found.models["pna"].ms, found.models["pna"].why_not) == (None, "out of memory")
    assert found.machine["device"]
    again = update_costs(tmp_path, entries, comparison.measure, "missing", lines.append)
    assert (again, len(peaks)) == (found, 3)
    update_costs(tmp_path, entries, comparison.measure, "again", lines.append)
    assert len(peaks) == 6


def test_of_another_size_or_model_they_are_forgotten(tree, comparison, entries, tmp_path):
    update_costs(tmp_path, entries, comparison.measure, "never", print)
    assert read_costs(tmp_path, entries, MeasureSection(size=(32, 32))).models == {}
    saved = json.loads((tmp_path / "costs.json").read_text())
    saved["models"]["fcn"]["model"]["preset"] = "fcn"
    (tmp_path / "costs.json").write_text(json.dumps(saved))
    assert set(read_costs(tmp_path, entries, comparison.measure).models) == {"pna", "again"}


@pytest.mark.parametrize("text", ["{", "[]", '{"models": {"fcn": {}}, "machine": null}'])
def test_damaged_costs_are_named(comparison, entries, tmp_path, text):
    (tmp_path / "costs.json").write_text(text)
    with pytest.raises(ValueError, match=r"costs\.json: expected costs that pna compare wrote"):
        read_costs(tmp_path, entries, comparison.measure)
