"""Suite `models`: whole models, relative to the first of them, at inference and in training."""

import gc
from dataclasses import dataclass
from functools import partial

import torch

from pna.lab.bench.charts import draw_models
from pna.lab.bench.report import Log, Report, Row
from pna.lab.measure.memory import Peak, peak_memory
from pna.lab.measure.timing import Quartiles, interleave, quartiles, ratios
from pna.lab.measure.workloads import Task, Workload, build
from pna.lab.report import NOTHING, Table, number, rounded, with_quartiles

TASKS: tuple[Task, ...] = ("inference", "training")


@dataclass(frozen=True)
class Settings:
    """Settings of the suite.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        models: Presets or saved models; the others are compared with the first.
        encoder: timm model to build presets on; their own by default.
        size: (H, W) of the images.
        batch: Images per call at inference.
        train_batch: Images per training step.
        compiled: Whether to measure `torch.compile` too.
        amp: Mixed precision.
        channels_last: Memory format of weights and images.
        rounds: Measurements of each.
    """

    device: str
    models: tuple[str, ...] = (
        *("fcn", "fcn-os8", "fpn", "upernet"),
        *("fcn-pna-nam", "fcn-pna", "fcn-pna-gather"),
    )
    encoder: str | None = None
    size: tuple[int, int] = (512, 512)
    batch: int = 1
    train_batch: int = 2
    compiled: bool = False
    amp: bool = False
    channels_last: bool = True
    rounds: int = 5

    def workload(self, model: str, task: Task, *, compiled: bool) -> Workload:
        """Return one model at one task."""
        return Workload(
            model,
            task,
            self.size,
            self.batch if task == "inference" else self.train_batch,
            self.device,
            encoder=self.encoder,
            compiled=compiled,
            amp=self.amp,
            channels_last=self.channels_last,
        )


def measure(settings: Settings, log: Log) -> Report:
    """Measure memory and time of all models, first at inference, then in training.

    Raises:
        PnaError: There is no such model or encoder.
    """
    works = {
        task: [
            settings.workload(model, task, compiled=compiled)
            for compiled in ((False, True) if settings.compiled else (False,))
            for model in settings.models
        ]
        for task in TASKS
    }
    for work in works["inference"]:
        build(work)  # a wrong name fails now, not in an hour
    rows = [row for task in TASKS for row in _measure(works[task], settings.rounds, log)]
    return Report(rows, _tables(rows, settings), _notes(rows), partial(draw_models, rows=rows))


def _measure(works: list[Workload], rounds: int, log: Log) -> list[Row]:
    peaks = {}
    for work in works:
        if work.compiled and torch.device(work.device).type == "cpu":
            peaks[work] = Peak()  # the compiler's own memory is part of the process's
        else:
            log(f"memory of {work.model}, {work.task}, {_mode(work)}")
            peaks[work] = peak_memory(work)
    running = [work for work in works if peaks[work].why_not is None]
    log(f"time of {', '.join(f'{work.model} ({_mode(work)})' for work in running)}")
    calls = {work: work.prepare() for work in running}
    times = interleave(calls, rounds=rounds, device=works[0].device)
    # Models, optimizers and compiled graphs of this task would count in the memory of the next.
    calls.clear()
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return [_row(work, works, times, peaks) for work in works]


def _row(
    work: Workload,
    works: list[Workload],
    times: dict[Workload, list[float]],
    peaks: dict[Workload, Peak],
) -> Row:
    row: Row = {
        "model": work.model,
        "task": work.task,
        "mode": _mode(work),
        "batch": work.batch,
        "peak_mb": None if (peak := peaks[work].megabytes) is None else rounded([peak])[0],
        "why_not": peaks[work].why_not,
    }
    if work not in times:
        return row
    # The first model in the same mode: compiled is compared with compiled.
    base = next(other for other in works if other.compiled == work.compiled)
    took = quartiles(times[work])
    row |= {
        "ms": rounded(took),
        "images_per_second": rounded([1e3 * work.batch / took.median])[0],
        "rounds_ms": rounded(times[work]),
    }
    if base in times:
        row["ratio"] = rounded(quartiles(ratios(times[work], times[base])))
    if (own := peaks[work].megabytes) and (others := peaks[base].megabytes):
        row["peak_ratio"] = rounded([own / others])[0]
    return row


def _mode(work: Workload) -> str:
    return "compiled" if work.compiled else "eager"


def _tables(rows: list[Row], settings: Settings) -> list[Table]:
    H, W = settings.size
    precision = "mixed precision" if settings.amp else "float32"
    base = settings.models[0]
    columns = ("model", "mode", "ms", "images/s", f"time / {base}", "peak MB", f"peak / {base}")
    return [
        Table(
            f"{task}, {H}x{W}, batch {of_task[0]['batch']}, {precision}",
            columns,
            [_line(row) for row in of_task],
        )
        for task in TASKS
        if (of_task := [row for row in rows if row["task"] == task])
    ]


def _line(row: Row) -> tuple[str, ...]:
    def quartiles_of(key: str) -> str:
        return with_quartiles(Quartiles(*row[key])) if key in row else NOTHING

    def number_of(key: str) -> str:
        return NOTHING if row.get(key) is None else number(row[key])

    return (
        row["model"],
        row["mode"],
        quartiles_of("ms"),
        number_of("images_per_second"),
        quartiles_of("ratio"),
        number_of("peak_mb"),
        number_of("peak_ratio"),
    )


def _notes(rows: list[Row]) -> list[str]:
    return [
        f"{row['model']} ({row['mode']}, {row['task']}) did not run: {row['why_not']}"
        for row in rows
        if row["why_not"] is not None
    ]
