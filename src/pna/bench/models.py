"""Suite `models`: whole models against the first, at inference and in training."""

import gc
from dataclasses import dataclass
from functools import partial

import torch
from torch._dynamo import config as dynamo_config

from pna.bench.charts import draw_models
from pna.bench.clock import interleave
from pna.bench.memory import Peak, peak_memory
from pna.bench.report import NOTHING, Report, Row, Say, Table, number, rounded, with_spread
from pna.bench.stats import Spread, ratios, spread
from pna.bench.workloads import Task, Workload, build, prepare

TASKS: tuple[Task, ...] = ("inference", "training")


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        models: Presets or saved models; the others are compared with the first.
        encoder: timm model to build presets on; their own by default.
        size: (H, W) of the pictures.
        batch: Pictures per call at inference.
        train_batch: Pictures per training step.
        compiled: Measure `torch.compile` beside eager mode.
        amp: Mixed precision.
        channels_last: Layout of weights and pictures.
        rounds: Turns of each.
    """

    device: str
    models: tuple[str, ...] = ("fcn", "fcn-os8", "fpn", "upernet", "fcn-pna-nam", "fcn-pna")
    encoder: str | None = None
    size: tuple[int, int] = (512, 512)
    batch: int = 1
    train_batch: int = 2
    compiled: bool = False
    amp: bool = False
    channels_last: bool = True
    rounds: int = 5

    def workload(self, model: str, task: Task, *, compiled: bool) -> Workload:
        """One model doing one thing."""
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


def measure(settings: Settings, say: Say) -> Report:
    """Measure memory and time of all models, first at inference, then in training.

    Raises:
        ValueError: There is no such model or encoder.
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
        build(work)  # a wrong name ends it now, not in an hour
    rows = [row for task in TASKS for row in _measure(works[task], settings.rounds, say)]
    return Report(rows, _tables(rows, settings), _notes(rows), partial(draw_models, rows=rows))


def _measure(works: list[Workload], rounds: int, say: Say) -> list[Row]:
    peaks = {}
    for work in works:
        peaks[work] = _peak(work, say)
    running = [work for work in works if peaks[work].why_not is None]
    say(f"time of {', '.join(f'{work.model} ({_mode(work)})' for work in running)}")
    # Presets share their code, and each is one more compilation of it.
    with dynamo_config.patch(recompile_limit=len(works) + 1):
        calls = {work: prepare(work) for work in running}
        times = interleave(calls, rounds=rounds, device=works[0].device)
    calls.clear()
    _release()
    return [_row(work, works, times, peaks) for work in works]


def _peak(work: Workload, say: Say) -> Peak:
    if work.compiled and torch.device(work.device).type == "cpu":
        return Peak()  # it can't be told from the compiler's own memory
    say(f"memory of {work.model}, {work.task}, {_mode(work)}")
    return peak_memory(work)


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
        "peak_mb": _megabytes(peaks[work]),
        "why_not": peaks[work].why_not,
    }
    if work not in times:
        return row
    base = next(other for other in works if other.compiled == work.compiled)
    took = spread(times[work])
    row |= {
        "ms": rounded(took),
        "pictures_per_second": rounded([1e3 * work.batch / took.median])[0],
        "rounds_ms": rounded(times[work]),
    }
    if base in times:
        row["ratio"] = rounded(spread(ratios(times[work], times[base])))
    if (own := peaks[work].megabytes) and (others := peaks[base].megabytes):
        row["peak_ratio"] = rounded([own / others])[0]
    return row


def _megabytes(peak: Peak) -> float | None:
    return None if peak.megabytes is None else rounded([peak.megabytes])[0]


def _mode(work: Workload) -> str:
    return "compiled" if work.compiled else "eager"


def _release() -> None:
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _tables(rows: list[Row], settings: Settings) -> list[Table]:
    H, W = settings.size
    precision = "mixed precision" if settings.amp else "float32"
    base = settings.models[0]
    columns = ("model", "mode", "ms", "pictures/s", f"time / {base}", "peak MB", f"peak / {base}")
    return [
        Table(
            f"{task}, {H}x{W}, batch {found[0]['batch']}, {precision}",
            columns,
            [_line(row) for row in found],
        )
        for task in TASKS
        if (found := [row for row in rows if row["task"] == task])
    ]


def _line(row: Row) -> tuple[str, ...]:
    def spread_of(key: str) -> str:
        return with_spread(Spread(*row[key])) if key in row else NOTHING

    def number_of(key: str) -> str:
        return NOTHING if row.get(key) is None else number(row[key])

    return (
        row["model"],
        row["mode"],
        spread_of("ms"),
        number_of("pictures_per_second"),
        spread_of("ratio"),
        number_of("peak_mb"),
        number_of("peak_ratio"),
    )


def _notes(rows: list[Row]) -> list[str]:
    return [
        f"{row['model']} ({row['mode']}, {row['task']}) did not run: {row['why_not']}"
        for row in rows
        if row["why_not"] is not None
    ]
