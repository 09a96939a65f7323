"""The written forms of a result, and numbers for people."""

import json

import pytest

from pna.bench.machine import describe
from pna.bench.report import Report, Table, number, with_spread
from pna.bench.stats import Spread


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (56789.0, "56789")],
)
def test_three_digits(value, text):
    assert number(value) == text


def test_quartiles_in_a_cell():
    assert with_spread(Spread(0.98, 1.0, 1.0342)) == "1 [0.98, 1.03]"


def test_written_forms(tmp_path):
    table = Table("Times", ("name", "ms"), [("blocked", "1.5"), ("reference", "30")])
    report = Report([{"ms": 1.5}], [table], ["It rained."], lambda figure: figure.text(0, 0, "x"))
    path = tmp_path / "made" / "operator.json"
    report.write(path, command="pna bench operator", settings={"batch": 1}, machine=describe("cpu"))
    written = json.loads(path.read_text())
    assert {*written} == {"command", "machine", "settings", "rows", "notes"}
    assert {"processor", "threads", "versions", "date"} <= {*written["machine"]}
    page = path.with_suffix(".md").read_text()
    assert page.startswith("`pna bench operator`\n\n")
    assert (
        "**Times**\n\n| name | ms |\n| :-- | --: |\n| blocked | 1.5 |\n| reference | 30 |" in page
    )
    assert "- It rained." in page
    assert "(operator.png)" in page
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(list(path.parent.iterdir())) == 3  # nothing is left beside


def test_a_chart_that_fails_leaves_no_half_file(tmp_path):
    def fail(figure):
        raise RuntimeError("no colours")

    report = Report([], [], [], fail)
    with pytest.raises(RuntimeError, match="no colours"):
        report.write(tmp_path / "x.json", command="", settings={}, machine=describe("cpu"))
    assert {path.name for path in tmp_path.iterdir()} == {"x.json", "x.md"}
