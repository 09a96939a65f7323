"""What the models take: parameters and multiply-accumulates, counted; time and memory, measured.

Both are read off networks built anew from the recipes of finished runs, with random weights, which
change neither: the weights that were trained may be gone. Counts never change and are taken once.
Times do, so a pass measures all models in turns, and is worth repeating on a machine that has
nothing else to do.
"""

import json
import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from pna.bench.clock import interleave, use_threads
from pna.bench.machine import describe
from pna.bench.memory import peak_memory
from pna.bench.report import Say, rounded
from pna.bench.stats import spread
from pna.bench.workloads import Workload, prepare
from pna.compare.comparison import MeasureSection
from pna.compare.locks import LOCKS, try_lock
from pna.compare.scores import Entry
from pna.labels import generic
from pna.model.counts import count
from pna.model.segmenter import BaseSegmenter
from pna.predict import default_device
from pna.train.assemble import create_network
from pna.writing import replace_text

FILE = "costs.json"

When = Literal["missing", "again", "never"]


@dataclass(frozen=True)
class Cost:
    """What one model takes.

    Attributes:
        model: The recipe's section, in plain values: another one is another model.
        size: (H, W) of the picture, in pixels.
        parameters: Number of them, an auxiliary head's among them.
        macs: Multiply-accumulates for a picture, without the attention product.
        attention_macs: Those of the attention product.
        ms: Quartiles of milliseconds for a picture; None before it was measured.
        peak_mb: Peak memory, 10^6 bytes; None if it wasn't measured or the system doesn't say.
        why_not: Why it could not run.
    """

    model: dict[str, Any]
    size: tuple[int, int]
    parameters: int
    macs: int
    attention_macs: int
    ms: tuple[float, float, float] | None = None
    peak_mb: float | None = None
    why_not: str | None = None

    @property
    def is_measured(self) -> bool:
        """Whether time and memory were tried."""
        return self.ms is not None or self.why_not is not None


@dataclass(frozen=True)
class Costs:
    """Costs by the model's name, and the machine that the times are of (None before any)."""

    models: Mapping[str, Cost]
    machine: dict[str, Any] | None = None


def update_costs(
    folder: Path, entries: Sequence[Entry], measure: MeasureSection, when: When, say: Say
) -> Costs:
    """Count what wasn't counted, measure if that is due, and write what came of it.

    Args:
        folder: The comparison's.
        entries: Whose models.
        measure: Size and rounds.
        when: Measure where a model of these wasn't measured, all again, or never.
        say: Takes a line about what is being measured.
    """
    costs = read_costs(folder, entries, measure)
    with try_lock(folder / LOCKS / "costs") as is_ours:
        if not is_ours:  # another process is at it
            return costs
        costs = count_models(costs, entries, measure)
        write_costs(costs, folder)
        is_missing = not all(cost.is_measured for cost in costs.models.values())
        if when == "again" or (when == "missing" and is_missing):
            costs = measure_models(costs, entries, measure, say)
            write_costs(costs, folder)
    return costs


def read_costs(folder: Path, entries: Sequence[Entry], measure: MeasureSection) -> Costs:
    """What was found before, of the models as they are now and at this size.

    Raises:
        ValueError: The file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return Costs({})
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        costs = {name: _restore(values) for name, values in saved["models"].items()}
        machine = saved["machine"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected costs that pna compare wrote, got {error!r}: remove the file"
        ) from error
    now = {entry.row.name: (_section(entry), measure.size) for entry in entries}
    known = {n: cost for n, cost in costs.items() if now.get(n) == (cost.model, cost.size)}
    return Costs(known, machine)


def count_models(costs: Costs, entries: Sequence[Entry], measure: MeasureSection) -> Costs:
    """Count parameters and multiply-accumulates where that hasn't been done."""
    found = dict(costs.models)
    for name, entry in _one_each(entries).items():
        if name not in found:
            found[name] = _count(entry, measure.size)
    return Costs(found, costs.machine)


def measure_models(
    costs: Costs, entries: Sequence[Entry], measure: MeasureSection, say: Say
) -> Costs:
    """Measure time and peak memory of all models anew, one picture a call; they are counted.

    Args:
        costs: What `count_models` returned.
        entries: Whose models.
        measure: Size and rounds.
        say: Takes a line about what is being measured.
    """
    with TemporaryDirectory() as folder:
        return _measure(costs, _one_each(entries), measure, say, Path(folder))


def _measure(
    costs: Costs, models: Mapping[str, Entry], measure: MeasureSection, say: Say, folder: Path
) -> Costs:
    device = str(default_device())
    machine = describe(device)
    for name, entry in models.items():  # saved, for the processes that measure them
        _build(entry).save_pretrained(folder / name)
    works = {
        name: Workload(str(folder / name), "inference", measure.size, 1, device) for name in models
    }
    peaks = {}
    for name, work in works.items():
        say(f"memory of {name}")
        peaks[name] = peak_memory(work)
    say(f"time of {', '.join(works)}")
    running = {name: works[name] for name, peak in peaks.items() if peak.why_not is None}
    times = _time(running, measure.rounds, device)
    measured = {
        name: replace(
            costs.models[name],
            ms=_quartiles(times[name]) if name in times else None,
            peak_mb=None if peak.megabytes is None else rounded([peak.megabytes])[0],
            why_not=peak.why_not,
        )
        for name, peak in peaks.items()
    }
    return Costs({**costs.models, **measured}, machine)


def _time(works: dict[str, Workload], rounds: int, device: str) -> dict[str, list[float]]:
    """Time models in turns, in a new process: training changes how this one allocates memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_time_here, works, rounds, device, torch.get_num_threads()).result()


def _time_here(
    works: dict[str, Workload], rounds: int, device: str, threads: int
) -> dict[str, list[float]]:
    with use_threads(threads):
        calls = {name: prepare(work) for name, work in works.items()}
        return interleave(calls, rounds=rounds, device=device)


def write_costs(costs: Costs, folder: Path) -> None:
    """Write them for `read_costs`."""
    data = {
        "machine": costs.machine,
        "models": {name: asdict(cost) for name, cost in costs.models.items()},
    }
    replace_text(folder / FILE, json.dumps(data, indent=1) + "\n")


def _one_each(entries: Sequence[Entry]) -> dict[str, Entry]:
    """One entry of each model: budgets and seeds leave its cost as it is."""
    return {entry.row.name: entry for entry in entries}


def _section(entry: Entry) -> dict[str, Any]:
    run = next(iter(entry.runs.values())).run
    return run.recipe.model.model_dump(mode="json")


def _build(entry: Entry) -> BaseSegmenter:
    """The network that was trained, with random weights."""
    scored = next(iter(entry.runs.values()))
    labels = generic(len(scored.class_scores))
    return create_network(scored.run.recipe.model, labels, pretrained=False)


def _count(entry: Entry, size: tuple[int, int]) -> Cost:
    parts = count(_build(entry), size)
    return Cost(
        _section(entry),
        size,
        parameters=sum(part.parameters for part in parts),
        macs=sum(part.macs for part in parts),
        attention_macs=sum(part.attention_macs for part in parts),
    )


def _quartiles(times: Sequence[float]) -> tuple[float, float, float]:
    low, median, high = rounded(spread(times))
    return low, median, high


def _restore(values: dict[str, Any]) -> Cost:
    ms = values["ms"]
    return Cost(
        **{**values, "size": tuple(values["size"]), "ms": None if ms is None else tuple(ms)}
    )
