"""Committed results of comparisons: their tables are those of their logs."""

import csv
from pathlib import Path

import pytest

from pna.lab.compare.comparison import bundled_comparisons, load_comparison
from pna.lab.compare.costs import read_costs
from pna.lab.compare.runs import RECORDS, check_run, plan_runs, read_records
from pna.lab.compare.scores import collect_scores
from pna.lab.compare.tables import Results, run_rows, table_rows

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
KEPT = [name for name in bundled_comparisons() if (RESULTS / name).is_dir()]


def test_there_are_some() -> None:
    assert {"camvid-control", "camvid-lite", "damage-control"} <= set(KEPT)


def test_results_are_few_files() -> None:
    assert sum(path.is_file() for path in RESULTS.rglob("*")) < 110


@pytest.mark.parametrize("name", KEPT)
def test_tables_are_those_of_the_log(name: str) -> None:
    folder, comparison = RESULTS / name, load_comparison(name)
    # What is kept is a part of what is planned: longer trainings may follow.
    runs = plan_runs(comparison, folder)
    for run in runs:
        check_run(run)
    finished = [run for run in runs if run.is_finished]
    assert {run.name for run in finished} == read_records(folder / RECORDS).keys() != set()
    scores = collect_scores(comparison, runs)
    costs = read_costs(folder, scores, comparison.measure)
    assert costs.models.keys() == {run.model.name for run in finished}
    results = Results(comparison, scores, costs)
    for file, rows in (("table.csv", table_rows(results)), ("runs.csv", run_rows(results))):
        with (folder / file).open(encoding="utf-8") as lines:
            kept = list(csv.DictReader(lines))
        for old, new in zip(kept, rows, strict=True):
            assert old.keys() == new.keys()
            for key, value in new.items():
                if isinstance(value, float):
                    assert float(old[key]) == pytest.approx(value, rel=1e-3), key
                else:
                    assert old[key] == ("" if value is None else str(value)), key
