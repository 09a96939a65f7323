"""Suite `growth`: how time and memory of a model grow with the picture."""

from dataclasses import dataclass
from functools import partial

from pna.bench.charts import draw_growth
from pna.bench.clock import interleave
from pna.bench.memory import peak_memory
from pna.bench.report import NOTHING, Report, Row, Say, Table, number, rounded
from pna.bench.stats import exponent, spread
from pna.bench.workloads import Workload, build, prepare

LINEAR = (0.95, 1.1)
"""Exponents of time against pixels that are called linear."""


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        models: Presets or saved models.
        encoder: timm model to build presets on; their own by default.
        sides: Of the square pictures, in pixels.
        batch: Pictures per call.
        amp: Mixed precision.
        channels_last: Layout of weights and pictures.
        rounds: Turns of each model at each size.
    """

    device: str
    models: tuple[str, ...] = ("fcn", "fcn-pna-nam", "fcn-pna")
    encoder: str | None = None
    sides: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    batch: int = 1
    amp: bool = False
    channels_last: bool = True
    rounds: int = 3

    def workload(self, model: str, side: int) -> Workload:
        """One model on one size."""
        return Workload(
            model,
            "inference",
            (side, side),
            self.batch,
            self.device,
            encoder=self.encoder,
            amp=self.amp,
            channels_last=self.channels_last,
        )


def measure(settings: Settings, say: Say) -> Report:
    """Measure memory and time of all models at all sizes, and fit the exponents.

    Raises:
        ValueError: There is no such model or encoder.
    """
    for model in settings.models:
        build(settings.workload(model, settings.sides[0]))  # a wrong name ends it now
    rows: list[Row] = []
    for side in settings.sides:
        rows += _measure_side(settings, side, say)
    rows += [fit(rows, model) for model in settings.models]
    return Report(rows, _tables(rows, settings), _notes(rows), partial(draw_growth, rows=rows))


def _measure_side(settings: Settings, side: int, say: Say) -> list[Row]:
    works = {model: settings.workload(model, side) for model in settings.models}
    peaks = {}
    for model, work in works.items():
        say(f"memory of {model} at {side}x{side}")
        peaks[model] = peak_memory(work)
    say(f"time at {side}x{side}")
    calls = {model: prepare(work) for model, work in works.items() if peaks[model].why_not is None}
    times = interleave(calls, rounds=settings.rounds, device=settings.device)
    rows = []
    for model, peak in peaks.items():
        row: Row = {"model": model, "side": side, "pixels": side**2, "why_not": peak.why_not}
        row["peak_mb"] = None if peak.megabytes is None else rounded([peak.megabytes])[0]
        if model in times:
            row |= {"ms": rounded(spread(times[model])), "rounds_ms": rounded(times[model])}
        rows.append(row)
    return rows


def fit(rows: list[Row], model: str) -> Row:
    """The row that says how a model's time grows with the pixels: an exponent for each round."""
    found = [row for row in rows if row["model"] == model and "ms" in row]
    pixels = [row["pixels"] for row in found]
    row: Row = {"model": model, "side": "all", "pixels": pixels}
    if len(set(pixels)) < 2:
        return row
    rounds = zip(*(row["rounds_ms"] for row in found), strict=True)
    low, median, high = rounded(spread([exponent(pixels, times) for times in rounds]))
    is_linear = LINEAR[0] <= median <= LINEAR[1]
    return row | {"exponent": [low, median, high], "is_linear": is_linear}


def _tables(rows: list[Row], settings: Settings) -> list[Table]:
    cells = {(row["model"], row["side"]): row for row in rows}
    columns = ("model", *(f"{side}x{side}" for side in settings.sides))
    what = f"inference, batch {settings.batch}"
    times, peaks = [], []
    for model in settings.models:
        found = [cells[model, side] for side in settings.sides]
        times.append((model, *(_cell_ms(row) for row in found), _verdict(cells[model, "all"])))
        peaks.append((model, *(_cell_mb(row) for row in found)))
    return [
        Table(f"Time, ms, {what}", (*columns, "exponent"), times),
        Table(f"Peak memory, MB, {what}", columns, peaks),
    ]


def _cell_ms(row: Row) -> str:
    return number(row["ms"][1]) if "ms" in row else NOTHING


def _cell_mb(row: Row) -> str:
    return NOTHING if row["peak_mb"] is None else number(row["peak_mb"])


def _verdict(row: Row) -> str:
    if "exponent" not in row:
        return NOTHING
    low, median, high = row["exponent"]
    less_or_more = "less than " if median < LINEAR[0] else "more than "
    return f"{median:.2f} [{low:.2f}, {high:.2f}], {'' if row['is_linear'] else less_or_more}linear"


def _notes(rows: list[Row]) -> list[str]:
    notes = [
        "exponent: the b of time = a * pixels^b, fitted over all sizes that ran; "
        f"{LINEAR[0]} to {LINEAR[1]} is called linear."
    ]
    notes += [
        f"{row['model']} did not run at {row['side']}x{row['side']}: {row['why_not']}"
        for row in rows
        if row.get("why_not") is not None
    ]
    return notes
