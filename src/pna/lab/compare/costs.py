"""Cost of the models: parameters and multiply-accumulates, counted; time and memory, measured.

The networks are built from the recipes of finished runs with random weights, which change no cost.
Counts are taken once. Times are measured with the models in turns, so that a machine that slows
down for a while slows all of them.
"""

import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from filelock import Timeout

from pna.errors import PnaError
from pna.files import write_text_atomically
from pna.inference.devices import default_device
from pna.lab.baselines import PRESETS
from pna.lab.compare.comparison import MeasureSection
from pna.lab.compare.scores import ModelScores
from pna.lab.compare.work import run_lock
from pna.lab.machine import describe
from pna.lab.measure.memory import peak_memory
from pna.lab.measure.timing import interleave, quartiles, use_threads
from pna.lab.measure.workloads import Workload
from pna.lab.report import rounded
from pna.labels import generic
from pna.model.counts import count
from pna.model.segmenter import BaseSegmenter
from pna.train.build import create_network

FILE = "costs.json"

When = Literal["missing", "again", "never"]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Cost:
    """Cost of one model.

    Attributes:
        model: The recipe's section, in plain values: another one is another model.
        size: (H, W) of the image, in pixels.
        parameters: Their number, those of an auxiliary head included.
        macs: Multiply-accumulates for an image, without the attention product.
        attention_macs: Multiply-accumulates of the attention product.
        ms: Quartiles of milliseconds for an image; None if not measured.
        peak_mb: Peak memory, 10^6 bytes; None if not measured, or unknown to the system.
        why_not: Why the model could not run.
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
    """Costs by the model's name, and the machine of the times (None before any)."""

    models: Mapping[str, Cost]
    machine: dict[str, Any] | None = None


def update_costs(
    folder: Path, scores: Sequence[ModelScores], measure: MeasureSection, when: When, log: Log
) -> Costs:
    """Count the models that were not counted, measure if that is due, and write `costs.json`.

    Args:
        folder: The comparison's.
        scores: The finished runs, whose models are measured.
        measure: Size and rounds.
        when: Measure if a model was not measured, measure all again, or never.
        log: Called with a line about the current measurement.
    """
    costs = read_costs(folder, scores, measure)
    lock = run_lock(folder, "costs")
    try:
        lock.acquire()
    except Timeout:  # another process is measuring
        return costs
    try:
        models = _by_name(scores)
        counted = {
            name: costs.models[name] if name in costs.models else _count(of, measure.size)
            for name, of in models.items()
        }
        costs = Costs(counted, costs.machine)
        _write_costs(costs, folder)
        is_missing = not all(cost.is_measured for cost in counted.values())
        if when == "again" or (when == "missing" and is_missing):
            costs = _measure(costs, models, measure, log)
            _write_costs(costs, folder)
    finally:
        lock.release()
    return costs


def read_costs(folder: Path, scores: Sequence[ModelScores], measure: MeasureSection) -> Costs:
    """Read the costs in `costs.json`, of models that are still the same and of this image size.

    Raises:
        PnaError: The file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return Costs({})
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
        costs = {}
        for name, values in saved["models"].items():
            ms = values["ms"]
            costs[name] = Cost(
                **values | {"size": tuple(values["size"]), "ms": None if ms is None else tuple(ms)}
            )
        machine = saved["machine"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise PnaError(
            f"{path}: expected costs that pna compare wrote, got {error!r}: remove the file"
        ) from error
    # Counts of a model whose section has changed since are those of another model.
    now = {name: (_given(_section(of)), measure.size) for name, of in _by_name(scores).items()}
    known = {n: c for n, c in costs.items() if now.get(n) == (_given(c.model), c.size)}
    return Costs(known, machine)


def _given(section: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is not given: options that a later version adds do not change a model."""
    return {
        key: _given(value) if isinstance(value, Mapping) else value
        for key, value in section.items()
        if value is not None
    }


def _measure(
    costs: Costs, models: Mapping[str, ModelScores], measure: MeasureSection, log: Log
) -> Costs:
    """Measure time and peak memory of all models, one image per call."""
    device = str(default_device())
    machine = describe(device)
    with TemporaryDirectory() as folder:
        works, peaks = {}, {}
        for name, of in models.items():  # saved, for the processes that measure them
            _build(of).save_pretrained(Path(folder) / name)
            path = str(Path(folder) / name)
            works[name] = Workload(path, "inference", measure.size, 1, device)
        for name, work in works.items():
            log(f"memory of {name}")
            peaks[name] = peak_memory(work)
        running = {name: work for name, work in works.items() if peaks[name].why_not is None}
        log(f"time of {', '.join(running)}")
        # In a new process: training changes how this one allocates memory.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            threads = torch.get_num_threads()
            times = pool.submit(_time, running, measure.rounds, device, threads).result()
    measured = {}
    for name, peak in peaks.items():
        ms = None
        if name in times:
            low, median, high = rounded(quartiles(times[name]))
            ms = (low, median, high)
        peak_mb = None if peak.megabytes is None else rounded([peak.megabytes])[0]
        cost = costs.models[name]
        measured[name] = replace(cost, ms=ms, peak_mb=peak_mb, why_not=peak.why_not)
    return Costs({**costs.models, **measured}, machine)


def _time(
    works: dict[str, Workload], rounds: int, device: str, threads: int
) -> dict[str, list[float]]:
    with use_threads(threads):
        calls = {name: work.prepare() for name, work in works.items()}
        return interleave(calls, rounds=rounds, device=device)


def _write_costs(costs: Costs, folder: Path) -> None:
    data = {
        "machine": costs.machine,
        "models": {name: asdict(cost) for name, cost in costs.models.items()},
    }
    write_text_atomically(folder / FILE, json.dumps(data, indent=1) + "\n")


def _by_name(scores: Sequence[ModelScores]) -> dict[str, ModelScores]:
    """Return one of each model: lengths and seeds do not change its cost."""
    return {of.model.name: of for of in scores}


def _section(of: ModelScores) -> dict[str, Any]:
    return of.first.run.recipe.model.model_dump(mode="json")


def _build(of: ModelScores) -> BaseSegmenter:
    """Build the network that was trained, with random weights."""
    labels = generic(len(of.first.report["classes"]))
    return create_network(of.first.run.recipe.model, labels, pretrained=False, presets=PRESETS)


def _count(of: ModelScores, size: tuple[int, int]) -> Cost:
    parts = count(_build(of), size)
    return Cost(
        _section(of),
        size,
        parameters=sum(part.parameters for part in parts),
        macs=sum(part.macs for part in parts),
        attention_macs=sum(part.attention_macs for part in parts),
    )
