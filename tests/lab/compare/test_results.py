"""Tables and figures: their numbers are those of the runs' scores."""

import csv
import json
import math
import re
import shutil

import numpy as np
import pytest

from pna.lab.compare.costs import Cost, Costs
from pna.lab.compare.report import FIGURES, page, write_report
from pna.lab.compare.runs import RECORDS, SCORES, plan_runs
from pna.lab.compare.scores import SeedMean, collect_scores, read_scores, seed_mean
from pna.lab.compare.tables import Results, all_tables, run_rows, table_rows


@pytest.fixture
def results(comparison, finished):
    return Results(
        comparison, collect_scores(comparison, plan_runs(comparison, finished)), Costs({})
    )


def read(finished, run, metric, stage):
    return json.loads((finished / run / SCORES).read_text())["stages"][stage][metric]


def cells(text):
    return {
        line.split(" | ")[0].removeprefix("| "): [c.strip(" |") for c in line.split(" | ")[1:]]
        for line in text.splitlines()
        if line.startswith("| ")
    }


@pytest.mark.parametrize("metric", ["miou", "boundary_miou"])
def test_rows_are_mean_and_sample_deviation_over_seeds(results, finished, metric):
    rows = {(row["model"], row["steps"]): row for row in table_rows(results)}
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


def test_differences_are_taken_seed_by_seed_at_the_same_length(results, finished):
    rows = {(row["model"], row["steps"]): row for row in table_rows(results)}
    mine, theirs = (
        read(finished, *run) for run in (("pna-2-0", "miou", "P4"), ("fcn-2-0", "miou", "P0"))
    )
    assert rows["pna", 2]["miou_gain"] == pytest.approx(100 * (mine - theirs), abs=1e-4)
    assert (rows["pna", 2]["miou_gain_n"], rows["pna", 2]["miou_gain_sd"]) == (1, None)
    assert rows["pna", 3]["miou_gain"] is None  # the baseline has no run of 3 steps
    assert rows["fcn", 2]["miou_gain"] is None
    assert (rows["again", 2]["miou_gain"], rows["again", 2]["miou_gain_sd"]) == (0, 0)
    assert rows["again", 2]["miou_gain_n"] == 2


def test_figures_compare_models_at_one_length(results):
    def chosen(results):
        return results.common_steps, [(of.model.name, of.steps) for of in results.one_each]

    assert chosen(results) == (2, [("fcn", 2), ("pna", 2), ("again", 2)])
    rest = [of for of in results.scores if (of.model.name, of.steps) != ("pna", 2)]
    longest = chosen(Results(results.comparison, rest, Costs({})))
    assert longest == (None, [("fcn", 2), ("pna", 3), ("again", 2)])


def test_a_difference_is_of_the_seeds_that_both_have(results):
    fcn, pna = results.scores[0], results.scores[1]
    difference = fcn.difference(pna, "miou")
    assert difference.n == 1
    assert difference.mean == fcn.values("miou")[0] - pna.values("miou")[0]


def test_differences_to_the_control_have_a_table(results, finished):
    controlled = results.comparison.model_copy(update={"control": "pna"})
    rows = {
        (row["model"], row["steps"]): row
        for row in table_rows(Results(controlled, results.scores, Costs({})))
    }
    mine, theirs = (
        read(finished, *run) for run in (("fcn-2-0", "miou", "P0"), ("pna-2-0", "miou", "P4"))
    )
    fcn = rows["fcn", 2]
    assert fcn["miou_over_control"] == pytest.approx(100 * (mine - theirs), abs=1e-4)
    assert (fcn["control"], fcn["miou_over_control_n"]) == ("pna", 1)
    assert rows["pna", 3]["miou_over_control"] is None
    table = all_tables(Results(controlled, results.scores, Costs({})))[2]
    assert (table.title, table.columns) == ("Over pna", ("model", "mIoU", "boundary IoU"))
    found = cells(table.markdown())
    assert [*found][-2:] == ["FCN, 2 steps", "again, 2 steps"]  # not the control itself
    assert found["FCN, 2 steps"][0] == f"{100 * (mine - theirs):+.2f}, 1 seed"


def test_means_of_few_values():
    assert seed_mean([0.25]).mean == 0.25
    assert math.isnan(seed_mean([0.25]).deviation)
    assert seed_mean([]).n == 0
    assert seed_mean([0.2, math.nan, 0.4]) == SeedMean(
        pytest.approx(0.3), pytest.approx(0.02**0.5), 2
    )


def test_every_run_has_a_row_with_its_classes(results, finished):
    rows = run_rows(results)
    assert len(rows) == 6
    row = next(row for row in rows if (row["model"], row["seed"]) == ("fcn", 1))
    sky = read(finished, "fcn-2-1", "iou", "P0")[0]
    assert row["iou_sky"] == pytest.approx(100 * sky, abs=1e-4)


def test_the_page_has_settings_and_deviations(results, finished):
    text = page(results, [])
    assert "2 of 2 images of camvid (val), whole and at their own size, 11 classes" in text
    assert "boundary IoU in a region 3 pixels wide" in text
    assert "for 2, 3 steps of 2 crops of 64x64" in text
    assert "Not finished" not in text
    a, b, miou, boundary, classes = all_tables(results)
    assert [a.title, b.title] == ["A", "B"]
    fcn, pna = (cells(a.markdown())[name] for name in ("FCN, 2 steps", "pna, 2 steps"))
    values = [100 * read(finished, f"fcn-2-{seed}", "miou", "P0") for seed in (0, 1)]
    assert fcn[:2] == ["2 seeds", f"{np.mean(values):.2f} ± {np.std(values, ddof=1):.2f}"]
    assert pna[0] == "1 seed"
    assert re.fullmatch(r"[+-]\d+\.\d\d, 1 seed", pna[2])
    assert len(cells(miou.markdown())["pna, 3 steps"]) == len(boundary.columns) - 1 == 6
    assert classes.columns[2:5] == ("sky", "building", "pole")
    assert all(table.markdown() in text for table in (a, b, miou, boundary, classes))


def test_written_files(results, comparison, tmp_path):
    cost = Cost({}, (64, 96), 10**6, 2 * 10**9, 10**8, ms=(1.0, 2.0, 3.0), peak_mb=50.0)
    costed = Results(comparison, results.scores, Costs({"fcn": cost}))
    missing = plan_runs(comparison, tmp_path)[:1]
    write_report(costed, missing, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("table.md", "table.csv", "runs.csv", RECORDS),
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


def test_a_partial_comparison(comparison, finished, tmp_path):
    shutil.copytree(finished / "pna-3-0", tmp_path / "pna-3-0")
    scores = collect_scores(comparison, plan_runs(comparison, tmp_path))
    assert [(of.model.name, of.steps) for of in scores] == [("pna", 3)]
    write_report(Results(comparison, scores, Costs({})), [], tmp_path)
    assert "| pna | 1 seed |" in (tmp_path / "table.md").read_text()


def test_losses_are_those_of_the_last_output(comparison, finished):
    runs = {run.name: run for run in plan_runs(comparison, finished)}
    log = [json.loads(x) for x in (finished / "pna-2-0" / "log.jsonl").read_text().splitlines()]
    assert read_scores(runs["pna-2-0"]).losses == [(1, log[0]["P4"]), (2, log[1]["P4"])]
    assert read_scores(runs["again-2-0"]).losses == []


@pytest.mark.parametrize("text", ["{", "[]", '{"stages": {}}', '{"stages": {"P0": {}}}'])
def test_damaged_scores_are_named(comparison, finished, tmp_path, text):
    shutil.copytree(finished / "fcn-2-0", tmp_path / "fcn-2-0")
    (tmp_path / "fcn-2-0" / SCORES).write_text(text)
    with pytest.raises(ValueError, match=r"fcn-2-0/evaluation/scores\.json: expected the scores"):
        collect_scores(comparison, plan_runs(comparison, tmp_path))


def test_the_log_alone_gives_the_same_tables(results, comparison, kept):
    scores = collect_scores(comparison, plan_runs(comparison, kept))
    again = Results(comparison, scores, Costs({}))
    assert table_rows(again) == table_rows(results)
    assert run_rows(again) == run_rows(results)
    assert page(again, []) == page(results, [])
    assert [of.first.losses for of in again.scores] == [of.first.losses for of in results.scores]
    assert again.scores[0].first.machine["versions"]["torch"]


@pytest.mark.parametrize("line", ["{", "[]", "{}"])
def test_a_damaged_log_is_named(comparison, tmp_path, line):
    (tmp_path / RECORDS).write_text(f'{{"run": "fcn-2-0"}}\n{line}\n')
    with pytest.raises(ValueError, match=r"runs\.jsonl, line 2: expected a run in JSON"):
        plan_runs(comparison, tmp_path)
