"""Tables and figures: their numbers are those of the runs' own scores."""

import csv
import json
import math
import re
import shutil

import numpy as np
import pytest

from pna.compare.costs import Cost, Costs
from pna.compare.report import FIGURES, page, write_report
from pna.compare.runs import SCORES, plan
from pna.compare.scores import Spread, collect, gain, read_scores, spread
from pna.compare.tables import Findings, all_tables, run_rows, table_rows


@pytest.fixture
def findings(comparison, finished):
    return Findings(comparison, collect(comparison, plan(comparison, finished)), Costs({}))


def read(finished, run, metric, stage):
    return json.loads((finished / run / SCORES).read_text())["stages"][stage][metric]


def cells(text):
    return {
        line.split(" | ")[0].removeprefix("| "): [c.strip(" |") for c in line.split(" | ")[1:]]
        for line in text.splitlines()
        if line.startswith("| ")
    }


@pytest.mark.parametrize("metric", ["miou", "boundary_miou"])
def test_rows_are_mean_and_sample_deviation_over_seeds(findings, finished, metric):
    rows = {(row["model"], row["steps"]): row for row in table_rows(findings)}
    assert [*rows] == [("fcn", 2), ("pna", 2), ("pna", 3), ("again", 2)]
    values = [100 * read(finished, f"fcn-2-{seed}", metric, "P0") for seed in (0, 1)]
    fcn = rows["fcn", 2]
    assert fcn[metric] == fcn[f"{metric}_P0"] == pytest.approx(np.mean(values), abs=1e-4)
    assert fcn[f"{metric}_sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-4)
    assert (fcn["seeds"], fcn[f"{metric}_n"]) == ("0 1", 2)
    for stage in ("P0", "P1", "P2", "P3", "P4"):
        value = 100 * read(finished, "pna-3-0", metric, stage)
        assert rows["pna", 3][f"{metric}_{stage}"] == pytest.approx(value, abs=1e-4)
    assert rows["pna", 3][metric] == rows["pna", 3][f"{metric}_P4"]
    assert rows["pna", 3][f"{metric}_sd"] is None
    assert fcn[f"{metric}_P1"] is None


def test_gains_are_taken_seed_by_seed_at_the_same_budget(findings, finished):
    rows = {(row["model"], row["steps"]): row for row in table_rows(findings)}
    mine, theirs = (
        read(finished, *run) for run in (("pna-2-0", "miou", "P4"), ("fcn-2-0", "miou", "P0"))
    )
    assert rows["pna", 2]["miou_gain"] == pytest.approx(100 * (mine - theirs), abs=1e-4)
    assert (rows["pna", 2]["miou_gain_n"], rows["pna", 2]["miou_gain_sd"]) == (1, None)
    assert rows["pna", 3]["miou_gain"] is None  # the baseline has no run of 3 steps
    assert rows["fcn", 2]["miou_gain"] is None
    assert (rows["again", 2]["miou_gain"], rows["again", 2]["miou_gain_sd"]) == (0, 0)
    assert rows["again", 2]["miou_gain_n"] == 2


def test_figures_compare_models_at_one_budget(findings):
    def chosen(found):
        return found.common_budget, [(entry.row.name, entry.budget) for entry in found.one_each]

    assert chosen(findings) == (2, [("fcn", 2), ("pna", 2), ("again", 2)])
    apart = [entry for entry in findings.entries if entry.key != ("pna", 2)]
    found = Findings(findings.comparison, apart, Costs({}))
    assert chosen(found) == (None, [("fcn", 2), ("pna", 3), ("again", 2)])  # of each its longest


def test_a_gain_is_of_the_seeds_that_both_have(findings):
    fcn, pna = findings.entries[0], findings.entries[1]
    found = gain(fcn, pna, "miou")
    assert found.n == 1
    assert found.mean == fcn.values("miou")[0] - pna.values("miou")[0]


def test_a_control_has_a_table_of_differences_of_its_own(findings, finished):
    controlled = findings.comparison.model_copy(update={"control": "pna"})
    rows = {
        (row["model"], row["steps"]): row
        for row in table_rows(Findings(controlled, findings.entries, Costs({})))
    }
    mine, theirs = (
        read(finished, *run) for run in (("fcn-2-0", "miou", "P0"), ("pna-2-0", "miou", "P4"))
    )
    fcn = rows["fcn", 2]
    assert fcn["miou_over_control"] == pytest.approx(100 * (mine - theirs), abs=1e-4)
    assert (fcn["control"], fcn["miou_over_control_n"]) == ("pna", 1)
    assert rows["pna", 3]["miou_over_control"] is None
    table = all_tables(Findings(controlled, findings.entries, Costs({})))[2]
    assert (table.title, table.columns) == ("Over pna", ("model", "mIoU", "boundary IoU"))
    found = cells(table.markdown())
    assert [*found][-2:] == ["FCN, 2 steps", "again, 2 steps"]  # not the control itself
    assert found["FCN, 2 steps"][0] == f"{100 * (mine - theirs):+.2f}, 1 seed"


def test_spread_of_little():
    assert spread([0.25]).mean == 0.25
    assert math.isnan(spread([0.25]).deviation)
    assert spread([]).n == 0
    assert spread([0.2, math.nan, 0.4]) == Spread(pytest.approx(0.3), pytest.approx(0.02**0.5), 2)


def test_every_run_has_a_row_with_its_classes(findings, finished):
    rows = run_rows(findings)
    assert len(rows) == 6
    row = next(row for row in rows if (row["model"], row["seed"]) == ("fcn", 1))
    sky = read(finished, "fcn-2-1", "iou", "P0")[0]
    assert row["iou_sky"] == pytest.approx(100 * sky, abs=1e-4)


def test_the_page_says_what_was_done_and_how_sure_it_is(findings, finished):
    text = page(findings, [])
    assert "2 of 2 pictures of camvid (val), whole and at their own size, 11 classes" in text
    assert "boundary IoU in a region 3 pixels wide" in text
    assert "for 2, 3 steps of 2 crops of 64x64" in text
    assert "Not finished" not in text
    a, b, miou, boundary, classes = all_tables(findings)
    assert [a.title, b.title] == ["A", "B"]
    fcn, pna = (cells(a.markdown())[name] for name in ("FCN, 2 steps", "pna, 2 steps"))
    values = [100 * read(finished, f"fcn-2-{seed}", "miou", "P0") for seed in (0, 1)]
    assert fcn[:2] == ["2 seeds", f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"]
    assert pna[0] == "1 seed"
    assert re.fullmatch(r"[+-]\d+\.\d\d, 1 seed", pna[2])
    assert len(cells(miou.markdown())["pna, 3 steps"]) == len(boundary.columns) - 1 == 6
    assert classes.columns[2:5] == ("sky", "building", "pole")
    assert all(table.markdown() in text for table in (a, b, miou, boundary, classes))


def test_written_whole_and_nothing_beside(findings, comparison, tmp_path):
    cost = Cost({}, (64, 96), 10**6, 2 * 10**9, 10**8, ms=(1.0, 2.0, 3.0), peak_mb=50.0)
    costed = Findings(comparison, findings.entries, Costs({"fcn": cost}))
    missing = plan(comparison, tmp_path)[:1]
    write_report(costed, missing, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("table.md", "table.csv", "runs.csv"),
        *FIGURES,
    }
    text = (tmp_path / "table.md").read_text()
    assert "- Not finished: fcn-2-0." in text
    assert cells(text)["FCN, 2 steps"]
    assert "| 1.00 | 2.00 + 0.10 | 2 [1, 3] | 50 |" in text
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["macs"] == str(2 * 10**9)
    assert rows[1]["macs"] == rows[0]["miou_gain"] == ""
    for name in FIGURES:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_partial_comparison_has_what_is_there(comparison, finished, tmp_path):
    shutil.copytree(finished / "pna-3-0", tmp_path / "pna-3-0")
    entries = collect(comparison, plan(comparison, tmp_path))
    assert [entry.key for entry in entries] == [("pna", 3)]
    write_report(Findings(comparison, entries, Costs({})), [], tmp_path)
    assert "| pna | 1 seed |" in (tmp_path / "table.md").read_text()


def test_losses_are_those_of_the_last_output(comparison, finished):
    runs = {run.name: run for run in plan(comparison, finished)}
    log = [json.loads(x) for x in (finished / "pna-2-0" / "log.jsonl").read_text().splitlines()]
    assert read_scores(runs["pna-2-0"]).losses == [(1, log[0]["P4"]), (2, log[1]["P4"])]
    assert read_scores(runs["again-2-0"]).losses == []


@pytest.mark.parametrize("text", ["{", "[]", '{"stages": {}}', '{"stages": {"P0": {}}}'])
def test_damaged_scores_are_named(comparison, finished, tmp_path, text):
    shutil.copytree(finished / "fcn-2-0", tmp_path / "fcn-2-0")
    (tmp_path / "fcn-2-0" / SCORES).write_text(text)
    with pytest.raises(ValueError, match=r"fcn-2-0/evaluation/scores\.json: expected the scores"):
        collect(comparison, plan(comparison, tmp_path))
