"""Suite `operator`: the backends of the operator against each other, others, and the floor."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pna.bench.charts import draw_operator
from pna.bench.clock import interleave
from pna.bench.entrants import Entrant, backends, flex, load_yardstick
from pna.bench.floors import floors
from pna.bench.report import NOTHING, Report, Row, Say, Table, number, rounded, with_spread
from pna.bench.stats import Spread, add_rounds, ratios, spread
from pna.bench.trial import Dtype, Pass, make_call, make_case, why_unfit

TASKS: tuple[Pass, ...] = ("forward", "forward+backward")
BASES = ("reference", "yardstick", "matmul floor", "memory floor")
"""Those that the others are compared with, where they ran."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        dtype: Of all tensors.
        batch: Maps per call.
        window: Cells per side, odd.
        stages: (side of the map, heads) of each stage; by default those of a 512x512 picture.
        yardstick: A file with somebody else's operator.
        compiled: Whether flex_attention is compiled.
        rounds: Turns of each entrant.
    """

    device: str
    dtype: Dtype = "float32"
    batch: int = 1
    window: int = 9
    stages: tuple[tuple[int, int], ...] = ((16, 24), (32, 12), (64, 6), (128, 3))
    yardstick: Path | None = None
    compiled: bool = True
    rounds: int = 9


def measure(settings: Settings, say: Say) -> Report:
    """Time all entrants on all stages.

    Raises:
        ValueError: The window or the yardstick isn't usable.
        FileNotFoundError: There is no such yardstick.
    """
    if settings.window < 1 or settings.window % 2 == 0:
        raise ValueError(f"expected an odd window >= 1, got {settings.window}")
    others = [load_yardstick(settings.yardstick)] if settings.yardstick else []
    rows: list[Row] = []
    for task in TASKS:
        found: list[Row] = []
        for size, heads in settings.stages:
            say(f"{task}, {size}x{size} cells, {heads} heads")
            found += _measure_stage(settings, size, heads, task, others)
        rows += found + _sums(found, task)
    return Report(rows, _tables(rows, settings), _notes(rows), partial(draw_operator, rows=rows))


def _measure_stage(
    settings: Settings, size: int, heads: int, task: Pass, others: list[Entrant]
) -> list[Row]:
    case = make_case(
        size,
        heads,
        window=settings.window,
        batch=settings.batch,
        device=settings.device,
        dtype=settings.dtype,
    )
    entrants = backends(case.query, case.window)
    entrants += flex(case.query, case.window, compiled=settings.compiled) + others
    reasons = {entrant.name: why_unfit(entrant, case, task) for entrant in entrants}
    calls = {
        entrant.name: make_call(entrant.operator, case, task)
        for entrant in entrants
        if entrant.operator is not None and reasons[entrant.name] is None
    }
    bounds = floors(case.query, case.window, task)
    calls |= {bound.name: bound.probe for bound in bounds}
    times = interleave(calls, rounds=settings.rounds, device=settings.device)
    for bound in bounds:
        times[bound.name] = [bound.share * time for time in times[bound.name]]
    stage = f"{size}x{size}x{heads}"
    return [_row(task, stage, name, times) for name in times] + [
        {"task": task, "stage": stage, "name": name, "why_not": reason}
        for name, reason in reasons.items()
        if reason is not None
    ]


def _row(task: str, stage: str, name: str, times: dict[str, list[float]]) -> Row:
    return {
        "task": task,
        "stage": stage,
        "name": name,
        "ms": rounded(spread(times[name])),
        "ratio": {
            base: rounded(spread(ratios(times[name], times[base])))
            for base in BASES
            if base in times and base != name
        },
        "rounds_ms": rounded(times[name]),
    }


def _sums(rows: list[Row], task: str) -> list[Row]:
    """Rows "sum" over the stages, for those that ran on all of them."""
    stages = {row["stage"] for row in rows}
    parts: dict[str, list[list[float]]] = {}
    for row in rows:
        if "ms" in row:
            parts.setdefault(row["name"], []).append(row["rounds_ms"])
    sums = {name: add_rounds(part) for name, part in parts.items() if len(part) == len(stages)}
    return [_row(task, "sum", name, sums) for name in sums]


def _tables(rows: list[Row], settings: Settings) -> list[Table]:
    names = list(dict.fromkeys(row["name"] for row in rows if "ms" in row))
    what = f"{settings.dtype}, batch {settings.batch}, window {settings.window}"
    return [
        table
        for task in TASKS
        for table in (
            _times([row for row in rows if row["task"] == task], names, f"{task}, ms; {what}"),
            _ratios([row for row in rows if row["task"] == task], f"{task}, ratio of the sums to"),
        )
    ]


def _times(rows: list[Row], names: list[str], title: str) -> Table:
    cells = {(row["stage"], row["name"]): row["ms"] for row in rows if "ms" in row}
    lines = []
    for stage in dict.fromkeys(row["stage"] for row in rows):
        found = (cells.get((stage, name)) for name in names)
        lines.append((stage, *(number(ms[1]) if ms else NOTHING for ms in found)))
    return Table(title, ("cells x heads", *names), lines)


def _ratios(rows: list[Row], title: str) -> Table:
    sums = {row["name"]: row["ratio"] for row in rows if row["stage"] == "sum"}
    bases = [base for base in BASES if base in sums]
    lines = [
        (
            name,
            *(with_spread(Spread(*ratio[base])) if base in ratio else NOTHING for base in bases),
        )
        for name, ratio in sums.items()
        if not name.endswith("floor")
    ]
    return Table(title, ("", *bases), lines)


def _notes(rows: list[Row]) -> list[str]:
    missing: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "why_not" in row:
            where = f"{row['stage']} {row['task']}"
            missing.setdefault((row["name"], row["why_not"]), []).append(where)
    return [
        f"{name} did not run ({', '.join(where)}): {reason}"
        for (name, reason), where in missing.items()
    ]
