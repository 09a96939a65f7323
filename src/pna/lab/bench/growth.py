"""Suite `growth`: growth of time and memory of a model with the size of the image."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pna.lab.bench.charts import draw_growth
from pna.lab.bench.report import Log, Report, Row
from pna.lab.measure.memory import Peak, Work, peak_memory
from pna.lab.measure.timing import exponent, interleave, quartiles
from pna.lab.measure.workloads import Workload, build
from pna.lab.report import NOTHING, Table, number, rounded

LINEAR = (0.95, 1.1)
"""Exponents of time against pixels that are called linear."""


@dataclass(frozen=True)
class Settings:
    """Settings of the suite.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        models: Presets or saved models.
        encoder: timm model to build presets on; their own by default.
        sides: Sides of the square images, in pixels.
        batch: Images per call.
        amp: Mixed precision.
        channels_last: Memory format of weights and images.
        rounds: Measurements of each model at each size.
    """

    device: str
    models: tuple[str, ...] = ("fcn", "fcn-pna-nam", "fcn-pna", "fcn-pna-gather")
    encoder: str | None = None
    sides: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    batch: int = 1
    amp: bool = False
    channels_last: bool = True
    rounds: int = 3

    def workload(self, model: str, side: int) -> Workload:
        """Return one model on one size."""
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


def measure(settings: Settings, log: Log) -> Report:
    """Measure memory and time of all models at all sizes, and fit the exponents.

    Raises:
        PnaError: There is no such model or encoder.
    """
    for model in settings.models:
        build(settings.workload(model, settings.sides[0]))  # a wrong name fails now
    rows = measure_growth(
        settings.models, settings.workload, settings.sides, settings.rounds, settings.device, log
    )
    task = f"inference, batch {settings.batch}"
    return Report(
        rows, growth_tables(rows, task), growth_notes(rows), partial(draw_growth, rows=rows)
    )


def measure_growth(
    names: Sequence[str],
    work_of: Callable[[str, int], Work | str],
    sides: Sequence[int],
    rounds: int,
    device: str,
    log: Log,
) -> list[Row]:
    """Measure memory and time of works of all sizes, in turns at each, and fit the exponents.

    Args:
        names: Of the works; "model" in the rows.
        work_of: From a name and the side of the images to the work, or to why it is left out.
        sides: In pixels.
        rounds: Measurements of each.
        device: The device that all run on.
        log: Called with a line about the current measurement.
    """
    rows: list[Row] = []
    for side in sides:
        works = {name: work_of(name, side) for name in names}
        rows += _measure_side(works, side, rounds, device, log)
    return rows + [fit(rows, name) for name in names]


def _measure_side(
    works: Mapping[str, Work | str], side: int, rounds: int, device: str, log: Log
) -> list[Row]:
    peaks, calls = {}, {}
    for model, work in works.items():
        if isinstance(work, str):
            peaks[model] = Peak(why_not=work)
            continue
        log(f"memory of {model} at {side}x{side}")
        peaks[model] = peak_memory(work)
        # A model that ran out of memory in a process of its own is not tried in this one.
        if not peaks[model].why_not:
            calls[model] = work.prepare()
    log(f"time at {side}x{side}")
    times = interleave(calls, rounds=rounds, device=device)
    rows = []
    for model, peak in peaks.items():
        row: Row = {"model": model, "side": side, "pixels": side**2, "why_not": peak.why_not}
        row["peak_mb"] = None if peak.megabytes is None else rounded([peak.megabytes])[0]
        if model in times:
            row |= {"ms": rounded(quartiles(times[model])), "rounds_ms": rounded(times[model])}
        rows.append(row)
    return rows


def fit(rows: list[Row], model: str) -> Row:
    """Fit the exponent of a model's time in the number of pixels, per round; return its row."""
    timed = [row for row in rows if row["model"] == model and "ms" in row]
    pixels = [row["pixels"] for row in timed]
    row: Row = {"model": model, "side": "all", "pixels": pixels}
    if len(set(pixels)) < 2:
        return row
    # One fit per round; their quartiles show the spread.
    rounds = zip(*(row["rounds_ms"] for row in timed), strict=True)
    low, median, high = rounded(quartiles([exponent(pixels, times) for times in rounds]))
    is_linear = LINEAR[0] <= median <= LINEAR[1]
    return row | {"exponent": [low, median, high], "is_linear": is_linear}


def growth_tables(rows: list[Row], task: str) -> list[Table]:
    """Make the tables of time and memory by the side of the image."""
    cells = {(row["model"], row["side"]): row for row in rows}
    models = list(dict.fromkeys(row["model"] for row in rows))
    sides = [row["side"] for row in rows if row["model"] == models[0] and row["side"] != "all"]
    columns = ("model", *(f"{side}x{side}" for side in sides))
    times, peaks = [], []
    for model in models:
        of_model = [cells[model, side] for side in sides]
        ms = (number(row["ms"][1]) if "ms" in row else NOTHING for row in of_model)
        mb = (NOTHING if row["peak_mb"] is None else number(row["peak_mb"]) for row in of_model)
        times.append((model, *ms, _verdict(cells[model, "all"])))
        peaks.append((model, *mb))
    return [
        Table(f"Time, ms, {task}", (*columns, "exponent"), times),
        Table(f"Peak memory, MB, {task}", columns, peaks),
    ]


def _verdict(row: Row) -> str:
    if "exponent" not in row:
        return NOTHING
    low, median, high = row["exponent"]
    less_or_more = "less than " if median < LINEAR[0] else "more than "
    return f"{median:.2f} [{low:.2f}, {high:.2f}], {'' if row['is_linear'] else less_or_more}linear"


def growth_notes(rows: list[Row]) -> list[str]:
    """Say what the exponent is, and what did not run."""
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
