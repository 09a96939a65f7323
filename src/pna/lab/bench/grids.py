"""Suite `grids`: the operator with keys and values on another grid than the queries.

Every layout of grids is timed in turns with the same-grid operator, its base. One layout is how
others do without an operator across grids (NAF, AnyUp): they repeat coarse keys and values up to
the grid of the queries and dilate the window by as much. The repetition is part of its time.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from torch import Tensor

from pna.errors import PnaError
from pna.lab.bench.candidates import Candidate
from pna.lab.bench.charts import draw_grids
from pna.lab.bench.report import Log, Report, Row
from pna.lab.bench.trial import (
    TASKS,
    Channels,
    Dtype,
    Pass,
    make_call,
    make_case,
    why_unfit,
)
from pna.lab.measure.timing import Quartiles, interleave, quartiles, ratios
from pna.lab.report import NOTHING, Table, rounded, with_quartiles
from pna.ops import Backend, neighborhood_attention, why_not


@dataclass(frozen=True)
class Settings:
    """Settings of the suite.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        dtype: Type of all tensors.
        batch: Maps per call.
        cells: Side of the finest map, a multiple of 4.
        channels: Heads, width of queries and keys, width of values; by default those of a stage at
            stride 4, and of the one head that gathers logits of 11 classes by 16 channels and
            colors.
        backends: Backends of the operator.
        rounds: Measurements of each layout.
    """

    device: str
    dtype: Dtype = "float32"
    batch: int = 1
    cells: int = 128
    channels: tuple[tuple[int, int, int], ...] = ((3, 32, 32), (1, 20, 11))
    backends: tuple[Backend, ...] = ("numba", "blocked")
    rounds: int = 9


class Layout(NamedTuple):
    """Sides of the two maps.

    Attributes:
        queries: Cells per side of the queries.
        keys: Cells per side of keys and values.
        window: Keys per side of a window.
        repeat: How often keys and values are repeated along each axis before they are attended to.
    """

    queries: int
    keys: int
    window: int
    repeat: int = 1

    def __str__(self) -> str:
        how = f" repeated to {self.keys * self.repeat}" if self.repeat > 1 else ""
        return f"{self.queries} on {self.keys}{how}, window {self.window}"


def layouts(cells: int) -> list[Layout]:
    """List the layouts for maps of `cells` x `cells` and coarser; the first is the base.

    Raises:
        PnaError: `cells` is no multiple of 4.
    """
    if cells < 4 or cells % 4:
        raise PnaError(f"expected cells per side in a multiple of 4, got {cells}")
    half, quarter = cells // 2, cells // 4
    return [
        Layout(cells, cells, 9),
        Layout(cells, half, 5),
        Layout(cells, half, 9),
        Layout(cells, quarter, 5),
        Layout(cells, half + 1, 5),  # no whole ratio
        Layout(half, cells, 5),
        Layout(cells, half, 5, repeat=2),
    ]


def measure(settings: Settings, log: Log) -> Report:
    """Time all layouts.

    Raises:
        PnaError: The cells are no multiple of 4, or a backend is unknown.
    """
    chosen = layouts(settings.cells)
    rows: list[Row] = []
    for task in TASKS:
        for channels in settings.channels:
            log(f"{task}, {Channels(*channels)} channels")
            rows += _measure(settings, chosen, Channels(*channels), task)
    notes = [
        "128 on 64: queries on 128x128 cells, keys and values on 64x64; channels: heads x width of "
        "queries and keys x width of values.",
        "repeated: keys and values are repeated to the grid of the queries in every call, and the "
        "window is dilated by as much.",
    ]
    return Report(
        rows, _tables(rows, settings), notes + _gaps(rows), partial(draw_grids, rows=rows)
    )


def _measure(settings: Settings, chosen: list[Layout], channels: Channels, task: Pass) -> list[Row]:
    reasons: dict[tuple[Backend, Layout], str | None] = {}
    calls = {}
    for layout in chosen:
        case = make_case(
            layout.queries,
            layout.keys,
            channels,
            window=layout.window,
            batch=settings.batch,
            device=settings.device,
            dtype=settings.dtype,
        )
        for backend in settings.backends:
            operator = partial(attend, backend=backend, repeat=layout.repeat)
            truth = partial(attend, backend="reference", repeat=layout.repeat)
            reason = why_not(backend, case.query)
            candidate = Candidate(backend, None if reason else operator, reason, is_ours=True)
            # Checked before they are timed: a fast wrong result is no result.
            reason = reasons[backend, layout] = why_unfit(candidate, case, task, truth)
            if reason is None:
                calls[backend, layout] = make_call(operator, case, task)
    times = interleave(calls, rounds=settings.rounds, device=settings.device)
    rows: list[Row] = []
    for (backend, layout), reason in reasons.items():
        row: Row = {
            "task": task,
            "channels": str(channels),
            "backend": backend,
            "layout": str(layout),
        }
        if reason is None:
            took = times[backend, layout]
            row |= {"ms": rounded(quartiles(took)), "rounds_ms": rounded(took)}
            if base := times.get((backend, chosen[0])):
                row["ratio"] = rounded(quartiles(ratios(took, base)))
        else:
            row["why_not"] = reason
        rows.append(row)
    return rows


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    window: int,
    scale: float,
    *,
    backend: Backend,
    repeat: int,
) -> Tensor:
    """Attend to keys and values that are first repeated along each axis, as in `Layout`."""
    if repeat > 1:
        key, value = _repeat(key, repeat), _repeat(value, repeat)
    return neighborhood_attention(
        query, key, value, bias, window=window, dilation=repeat, scale=scale, backend=backend
    )


def _repeat(x: Tensor, times: int) -> Tensor:
    """Upsample (B, heads, h, w, d) to the nearest: (B, heads, times * h, times * w, d)."""
    B, heads, h, w, d = x.shape
    # One copy, and its gradient one sum; repeat_interleave copies once per axis.
    spread = x[:, :, :, None, :, None].expand(-1, -1, -1, times, -1, times, -1)
    return spread.reshape(B, heads, times * h, times * w, d)


def _tables(rows: list[Row], settings: Settings) -> list[Table]:
    backends = settings.backends
    columns = [text for name in backends for text in (f"{name}, ms", f"{name} / base")]
    tables = []
    for task, channels in dict.fromkeys((row["task"], row["channels"]) for row in rows):
        found = {
            (row["layout"], row["backend"]): row
            for row in rows
            if (row["task"], row["channels"]) == (task, channels)
        }
        lines = []
        for layout in dict.fromkeys(layout for layout, _ in found):
            cells = [
                with_quartiles(Quartiles(*row[key])) if key in row else NOTHING
                for row in (found[layout, backend] for backend in backends)
                for key in ("ms", "ratio")
            ]
            lines.append((layout, *cells))
        title = f"{task}, channels {channels}; {settings.dtype}, batch {settings.batch}"
        tables.append(Table(title, ("cells per side", *columns), lines))
    return tables


def _gaps(rows: list[Row]) -> list[str]:
    missing: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "why_not" in row:
            where = f"{row['task']}, {row['channels']}, {row['layout']}"
            missing.setdefault((row["backend"], row["why_not"]), []).append(where)
    return [
        f"{backend} did not run ({'; '.join(where)}): {reason}"
        for (backend, reason), where in missing.items()
    ]
