"""`pna compare` and `pna comparisons` from the command line."""

import pytest
from accelerate.state import AcceleratorState

from pna.__main__ import main
from pna.data.synthetic import write_camvid
from pna.lab.compare import bundled_comparisons, work

TEXT = """
title: Shapes
encoder: test_efficientnet
encoder_weights: null
options: {{coarse_channels: 32, aux: false}}
data: {{name: camvid, root: {root}, crop: [64, 64], num_workers: 0}}
schedule: {{steps: 2}}
run: {{batch_size: 2, tensorboard: false}}
measure: {{size: [64, 64], rounds: 1}}
models:
  - {{name: fcn, preset: lite-fcn, seeds: [0, 1]}}
  - {{name: wide, preset: lite-fcn, options: {{coarse_channels: 64}}}}
"""


@pytest.fixture
def file(tmp_path):
    root = write_camvid(tmp_path / "camvid", num_train=2, num_val=1)
    path = tmp_path / "shapes.yaml"
    path.write_text(TEXT.format(root=root))
    yield str(path)
    AcceleratorState._reset_state(reset_partial_state=True)  # it keeps one state per process


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out")


def test_list(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["comparisons"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in bundled_comparisons())
    assert "the form of the paper's Table 2" in out


def test_dry_run(file, out, tmp_path, capsys):
    assert main(["compare", file, "-o", out, "--dry-run", "--only", "fcn"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "to do     fcn-2-0: fcn, 2 steps, seed 0",
        "to do     fcn-2-1: fcn, 2 steps, seed 1",
    ]
    assert not (tmp_path / "out").exists()


def test_dry_run_finds_a_network_that_cannot_be_built(file, out, capsys):
    wrong = ["--set", "encoder=test_vit", "--set", "options.output_stride=8"]
    assert main(["compare", file, "-o", out, "--dry-run", *wrong]) == 2
    assert "pna compare: " in capsys.readouterr().err


def test_from_nothing_to_tables(file, out, tmp_path, capsys):
    assert main(["compare", file, "-o", out, "--no-measure", "--seeds", "0"]) == 0
    printed = capsys.readouterr().out
    assert f"tables and figures: {tmp_path / 'out' / 'table.md'}" in printed
    table = (tmp_path / "out" / "table.md").read_text()
    assert "- Not finished: fcn-2-1." in table
    before = (tmp_path / "out" / "table.csv").read_text()
    (tmp_path / "out" / "table.csv").unlink()
    assert main(["compare", file, "-o", out, "--report-only"]) == 0
    assert (tmp_path / "out" / "table.csv").read_text() == before
    assert not (tmp_path / "out" / "fcn-2-1").exists()
    assert main(["compare", file, "-o", out, "--set", "run.batch_size=1"]) == 2
    assert "run.batch_size was 2, is 1" in capsys.readouterr().err


def test_no_tables_of_nothing(file, out, capsys):
    assert main(["compare", file, "-o", out, "--report-only"]) == 0
    assert "no run is finished yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("outcome", "code", "message"),
    [
        ("stopped", 130, "stopped; the same command continues"),
        (FloatingPointError("step 3: loss nan"), 1, "failed: fcn-2-0: FloatingPointError: step 3"),
    ],
)
def test_errors_are_printed_at_the_end(file, out, capsys, monkeypatch, outcome, code, message):
    def train(recipe, run, *, resume, presets, console):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(work, "train", train)
    assert main(["compare", file, "-o", out]) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["camvid-light", "-o", "out"], "camvid-light: expected a comparison file or one of"),
        (["camvid-lite", "-o", "out", "--only", "fnc"], "expected some of the models fcn-32,"),
    ],
)
def test_wrong_use(arguments, message, capsys):
    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err
