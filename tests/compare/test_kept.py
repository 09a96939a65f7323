"""What the repository keeps of comparisons: tables say what the runs beside them say."""

from pathlib import Path

import pytest

from pna.compare.comparison import Comparison
from pna.compare.costs import read_costs
from pna.compare.files import bundled_comparisons, load_comparison
from pna.compare.report import write_report
from pna.compare.runs import check_runs, plan
from pna.compare.scores import collect
from pna.compare.tables import Findings

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
KEPT = [name for name in bundled_comparisons() if (RESULTS / name).is_dir()]


def report(comparison: Comparison, folder: Path, out: Path) -> None:
    runs = plan(comparison, folder)
    check_runs(runs)
    entries = collect(comparison, runs)
    costs = read_costs(folder, entries, comparison.measure)
    missing = [run for run in runs if not run.is_finished]
    write_report(Findings(comparison, entries, costs), missing, out)


def test_there_are_some() -> None:
    assert KEPT


@pytest.mark.parametrize("name", KEPT)
def test_tables_are_those_of_the_kept_runs(name: str, tmp_path: Path) -> None:
    report(load_comparison(name), RESULTS / name, tmp_path)
    for table in ("table.md", "table.csv", "runs.csv"):
        assert (tmp_path / table).read_text() == (RESULTS / name / table).read_text(), table


@pytest.mark.parametrize("name", KEPT)
def test_kept_runs_are_the_comparisons(name: str) -> None:
    planned = {run.name for run in plan(load_comparison(name), RESULTS / name)}
    kept = {path.parent.name for path in (RESULTS / name).glob("*/recipe.yaml")}
    assert kept
    assert kept <= planned
