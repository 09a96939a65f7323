"""Suite `operator`: backends of the operator, other implementations, and the machine's bounds."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pna.errors import PnaError
from pna.lab.bench.candidates import Candidate, backends, flex, load_operator
from pna.lab.bench.charts import draw_operator
from pna.lab.bench.report import Log, Report, Row
from pna.lab.bench.trial import (
    TASKS,
    Channels,
    Dtype,
    Pass,
    floors,
    make_call,
    make_case,
    why_unfit,
)
from pna.lab.measure.timing import Quartiles, add_rounds, interleave, quartiles, ratios
from pna.lab.report import NOTHING, Table, number, rounded, with_quartiles


@dataclass(frozen=True)
class Settings:
    """Settings of the suite.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        dtype: Type of all tensors.
        batch: Maps per call.
        window: Cells per side, odd.
        stages: (side of the map, heads) of each stage; by default those of a 512x512 image.
        other: A Python file with another `neighborhood_attention`.
        compiled: Whether flex_attention is compiled.
        rounds: Measurements of each candidate.
    """

    device: str
    dtype: Dtype = "float32"
    batch: int = 1
    window: int = 9
    stages: tuple[tuple[int, int], ...] = ((16, 24), (32, 12), (64, 6), (128, 3))
    other: Path | None = None
    compiled: bool = True
    rounds: int = 9


def measure(settings: Settings, log: Log) -> Report:
    """Time all candidates on all stages.

    Raises:
        PnaError: The window is even, or the other operator cannot be loaded.
        MissingFileError: There is no file of the other operator.
    """
    if settings.window < 1 or settings.window % 2 == 0:
        raise PnaError(f"expected an odd window >= 1, got {settings.window}")
    others = [] if settings.other is None else [load_operator(settings.other)]
    bases = ("reference", *(other.name for other in others), "matmul floor", "memory floor")
    rows: list[Row] = []
    for task in TASKS:
        of_task: list[Row] = []
        for size, heads in settings.stages:
            log(f"{task}, {size}x{size} cells, {heads} heads")
            of_task += _measure_stage(settings, size, heads, task, others, bases)
        rows += of_task + _sums(of_task, task, bases)
    return Report(
        rows, _tables(rows, settings, bases), _notes(rows), partial(draw_operator, rows=rows)
    )


def _measure_stage(
    settings: Settings,
    size: int,
    heads: int,
    task: Pass,
    others: list[Candidate],
    bases: tuple[str, ...],
) -> list[Row]:
    case = make_case(
        size,
        size,
        Channels(heads),
        window=settings.window,
        batch=settings.batch,
        device=settings.device,
        dtype=settings.dtype,
    )
    candidates = backends(case.query)
    candidates += flex(case.query, case.window, compiled=settings.compiled) + others
    # Checked before they are timed: a fast wrong result is no result.
    reasons = {candidate.name: why_unfit(candidate, case, task) for candidate in candidates}
    calls = {
        candidate.name: make_call(candidate.operator, case, task)
        for candidate in candidates
        if candidate.operator is not None and reasons[candidate.name] is None
    }
    bounds = floors(case.query, case.window, task)
    calls |= {bound.name: bound.probe for bound in bounds}
    times = interleave(calls, rounds=settings.rounds, device=settings.device)
    for bound in bounds:
        times[bound.name] = [bound.share * time for time in times[bound.name]]
    stage = f"{size}x{size}x{heads}"
    return [_row(task, stage, name, times, bases) for name in times] + [
        {"task": task, "stage": stage, "name": name, "why_not": reason}
        for name, reason in reasons.items()
        if reason is not None
    ]


def _row(
    task: str, stage: str, name: str, times: dict[str, list[float]], bases: tuple[str, ...]
) -> Row:
    return {
        "task": task,
        "stage": stage,
        "name": name,
        "ms": rounded(quartiles(times[name])),
        "ratio": {
            base: rounded(quartiles(ratios(times[name], times[base])))
            for base in bases
            if base in times and base != name
        },
        "rounds_ms": rounded(times[name]),
    }


def _sums(rows: list[Row], task: str, bases: tuple[str, ...]) -> list[Row]:
    """Return rows "sum" over the stages, for those that ran on all of them."""
    stages = {row["stage"] for row in rows}
    parts: dict[str, list[list[float]]] = {}
    for row in rows:
        if "ms" in row:
            parts.setdefault(row["name"], []).append(row["rounds_ms"])
    sums = {name: add_rounds(part) for name, part in parts.items() if len(part) == len(stages)}
    return [_row(task, "sum", name, sums, bases) for name in sums]


def _tables(rows: list[Row], settings: Settings, bases: tuple[str, ...]) -> list[Table]:
    names = list(dict.fromkeys(row["name"] for row in rows if "ms" in row))
    what = f"{settings.dtype}, batch {settings.batch}, window {settings.window}"
    tables = []
    for task in TASKS:
        of_task = [row for row in rows if row["task"] == task]
        cells = {(row["stage"], row["name"]): row["ms"] for row in of_task if "ms" in row}
        lines = []
        for stage in dict.fromkeys(row["stage"] for row in of_task):
            times = (cells.get((stage, name)) for name in names)
            lines.append((stage, *(number(ms[1]) if ms else NOTHING for ms in times)))
        tables.append(Table(f"{task}, ms; {what}", ("cells x heads", *names), lines))
        tables.append(_ratios(of_task, f"{task}, ratio of the sums to", bases))
    return tables


def _ratios(rows: list[Row], title: str, bases: tuple[str, ...]) -> Table:
    sums = {row["name"]: row["ratio"] for row in rows if row["stage"] == "sum"}
    # A base that did not run on all stages has no sum to compare with.
    bases = tuple(base for base in bases if base in sums)
    lines = []
    for name, ratio in sums.items():
        if not name.endswith("floor"):
            cells = (with_quartiles(Quartiles(*ratio[b])) if b in ratio else NOTHING for b in bases)
            lines.append((name, *cells))
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
