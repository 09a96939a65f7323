"""Tables, numbers and figures; a suite's files."""

import json

import pytest
from matplotlib.figure import Figure

from pna.lab.bench.report import Report
from pna.lab.machine import describe, sentence
from pna.lab.measure.timing import Quartiles
from pna.lab.report import Table, add_legend, number, with_quartiles


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (56789.0, "56789")],
)
def test_three_digits(value, text):
    assert number(value) == text


def test_quartiles_in_a_cell():
    assert with_quartiles(Quartiles(0.98, 1.0, 1.0342)) == "1 [0.98, 1.03]"


def test_files_of_a_suite(tmp_path):
    table = Table("Times", ("name", "ms"), [("blocked", "1.5"), ("reference", "30")])
    report = Report([{"ms": 1.5}], [table], ["It rained."], lambda figure: figure.text(0, 0, "x"))
    path = tmp_path / "made" / "operator.json"
    machine = describe("cpu")
    report.write(path, command="pna bench operator", settings={"batch": 1}, machine=machine)
    written = json.loads(path.read_text())
    assert {*written} == {"command", "machine", "settings", "rows", "notes"}
    assert {"processor", "threads", "versions", "date"} <= {*written["machine"]}
    page = path.with_suffix(".md").read_text()
    assert page.startswith(f"`pna bench operator`\n\n{sentence(machine)}\n\n")
    assert (
        "**Times**\n\n| name | ms |\n| :-- | --: |\n| blocked | 1.5 |\n| reference | 30 |" in page
    )
    assert "- It rained." in page
    assert "(operator.png)" in page
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert len(list(path.parent.iterdir())) == 3  # no temporary file is left


def test_a_chart_that_fails_leaves_no_half_file(tmp_path):
    def fail(figure):
        raise RuntimeError("no colors")

    report = Report([], [], [], fail)
    with pytest.raises(RuntimeError, match=r"^no colors"):
        report.write(tmp_path / "x.json", command="", settings={}, machine=describe("cpu"))
    assert list(tmp_path.iterdir()) == []


def test_a_legend_has_each_label_once():
    figure = Figure(figsize=(11, 5), layout="constrained")
    for axes in figure.subplots(1, 2):
        for i in range(8):
            axes.plot([i], label=f"model {i}")
    add_legend(figure)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [f"model {i}" for i in range(8)]
