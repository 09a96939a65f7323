import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pna.train.log import Meter, RunLog, cut_log, read_log


def open_log(run: Path, *, start: int = 0, is_terminal: bool = False) -> tuple[RunLog, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=is_terminal, width=200)
    return RunLog(run, start=start, steps=10, tensorboard=False, console=console), text


def test_rows_are_json_and_a_line_of_text_each(tmp_path: Path) -> None:
    log, text = open_log(tmp_path)
    with log:
        log.write("train", 2, {"loss": 1.5})
        log.write("eval", 2, {"miou": {"P0": 0.25, "P1": 0.5}})
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows == [
        {"kind": "train", "step": 2, "loss": 1.5},
        {"kind": "eval", "step": 2, "miou": {"P0": 0.25, "P1": 0.5}},
    ]
    assert text.getvalue() == "train 2: loss 1.5\neval 2: miou/P0 0.25  miou/P1 0.5\n"


def test_a_terminal_shows_a_bar_instead_of_lines(tmp_path: Path) -> None:
    log, text = open_log(tmp_path, is_terminal=True)
    with log:
        log.write("train", 2, {"loss": 1.5})
        log.advance(2)
    assert "2/10" in text.getvalue()
    assert "train 2" not in text.getvalue()


def test_resuming_cuts_what_comes_again(tmp_path: Path) -> None:
    log, _ = open_log(tmp_path)
    with log:
        for kind, step in [("train", 2), ("train", 4), ("eval", 4), ("train", 6)]:
            log.write(kind, step, {})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    log, _ = open_log(tmp_path, start=4)
    with log:
        log.write("eval", 4, {})
    rows = [(row["kind"], row["step"]) for row in read_log(tmp_path / "log.jsonl")]
    assert rows == [("train", 2), ("train", 4), ("eval", 4)]


def test_cutting_a_log_that_is_not_there(tmp_path: Path) -> None:
    cut_log(tmp_path / "log.jsonl", 3)
    assert read_log(tmp_path / "log.jsonl") == []


def test_meter_means_start_anew_and_survive_a_checkpoint() -> None:
    meter = Meter()
    meter.add({"loss": torch.tensor(1.0)})
    other = Meter()
    other.load_state_dict(meter.state_dict(), torch.device("cpu"))
    meter.add({"loss": torch.tensor(4.0)})
    other.add({"loss": torch.tensor(4.0)})
    assert float(meter.means()["loss"]) == float(other.means()["loss"]) == 2.5
    assert meter.means() == {}


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    console = Console(file=io.StringIO())
    with RunLog(tmp_path, start=0, steps=2, tensorboard=True, console=console) as log:
        log.write("eval", 1, {"miou": {"P0": 0.25}})
    events = list((tmp_path / "tensorboard").glob("events.*"))
    assert len(events) == 1
    assert b"eval/miou/P0" in events[0].read_bytes()
