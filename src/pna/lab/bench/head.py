"""Suite `head`: time of a model by stage and by part of a stage."""

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch import nn

from pna.errors import PnaError
from pna.lab.bench.charts import draw_head
from pna.lab.bench.report import Log, Report, Row
from pna.lab.bench.stopwatch import Key, Stopwatch
from pna.lab.measure.timing import Quartiles, add_rounds, quartiles
from pna.lab.measure.workloads import Workload, build, inference, make_images
from pna.lab.report import NOTHING, Table, number, rounded
from pna.model.counts import UNREFINED
from pna.model.pna.head import PNAHead
from pna.model.segmenter import BaseSegmenter

_WHOLE = "whole"
_REST = "rest"

PARTS = {
    "embedding": ("embed_feature", "embed_prediction", "receive"),
    "SAM": ("fusion.self_aggregation",),
    "NAM": ("fusion.neighborhood",),
    "mixing": ("fusion.blocks.*.mix",),
    "MLP": (
        "fusion.norm_mlp",
        "fusion.mlp",
        "fusion.feed_forward",
        "fusion.blocks.*.norm_mlp",
        "fusion.blocks.*.mlp",
    ),
    "carried logits": ("carry",),
    "classifier": ("classifier",),
}
"""Modules of a stage by part, as patterns; a stage has those of its variant."""

COLUMNS = (
    "embedding",
    "SAM",
    "projections",
    "attention",
    "mixing",
    "MLP",
    "carried logits",
    "classifier",
)
"""NAM is split into projections, its norms and linear layers, and the attention between them."""

MEANINGS = {
    "embedding": "1x1 convolutions of features and prediction, and of the features handed on",
    "projections": "norms and linear layers of NAM",
    "attention": "the operator between the projections of NAM",
    "mixing": "depth-wise convolutions",
    "carried logits": "their gathering: projections and operator",
    _REST: "the whole less its parts, such as resizing and additions",
}
"""Of the columns whose names do not say it."""


@dataclass(frozen=True)
class Settings:
    """Settings of the suite.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        models: Presets with refinement or saved models.
        encoder: timm model to build presets on; their own by default.
        size: (H, W) of the image.
        batch: Images per call.
        amp: Mixed precision.
        channels_last: Memory format of weights and images.
        rounds: Measured calls.
    """

    device: str
    models: tuple[str, ...] = ("fcn-pna",)
    encoder: str | None = None
    size: tuple[int, int] = (512, 512)
    batch: int = 1
    amp: bool = False
    channels_last: bool = True
    rounds: int = 9


def measure(settings: Settings, log: Log) -> Report:
    """Measure the parts of each model at inference.

    Raises:
        PnaError: There is no such model, or it has no refinement.
    """
    rows: list[Row] = []
    for name in settings.models:
        log(f"parts of {name}")
        rows += _profile(name, settings)
    tables = [
        _table([row for row in rows if row["model"] == name], name, settings)
        for name in settings.models
    ]
    found = {row["part"] for row in rows}
    notes = [f"{part}: {meaning}" for part, meaning in MEANINGS.items() if part in found]
    return Report(rows, tables, notes, partial(draw_head, rows=rows))


def _profile(name: str, settings: Settings) -> list[Row]:
    work = Workload(
        name,
        "inference",
        settings.size,
        settings.batch,
        settings.device,
        encoder=settings.encoder,
        amp=settings.amp,
        channels_last=settings.channels_last,
    )
    model = build(work)
    if not isinstance(model.refiner, PNAHead):
        raise PnaError(
            f"model {name!r} is not refined by PNA: it has no stages to measure; take one that is"
        )
    call = inference(model, make_images(work), work)
    call()  # compiles and fills caches
    rounds: list[dict[Key, float]] = []
    with Stopwatch(timed_modules(model), settings.device) as stopwatch:
        for _ in range(settings.rounds):
            call()
            rounds.append(stopwatch.read())
    times = {key: [took[key] for took in rounds] for key in rounds[0]}
    return [
        {
            "model": name,
            "component": component,
            "part": part,
            "ms": rounded(quartiles(values)),
            "rounds_ms": rounded(values),
        }
        for (component, part), values in split_up(times).items()
    ]


def timed_modules(model: BaseSegmenter) -> Iterator[tuple[Key, nn.Module]]:
    """Yield the modules to time: the model, its components, and the parts of each stage."""
    yield ("model", _WHOLE), model
    for title, path in UNREFINED:
        if getattr(model, path, None) is not None:
            yield (title, _WHOLE), getattr(model, path)
    assert isinstance(model.refiner, PNAHead)
    if model.refiner.stem is not None:
        yield ("image stem", _WHOLE), model.refiner.stem
    for m, stage in enumerate(model.refiner.stages, 1):
        component = f"stage {m}"
        yield (component, _WHOLE), stage
        modules = dict(stage.named_modules())
        for part, patterns in PARTS.items():
            for pattern in patterns:
                for path in fnmatch.filter(modules, pattern):
                    yield (component, part), modules[path]
        # The children of NAM are its norms and linear layers; the operator is no module.
        if "fusion.neighborhood" in modules:
            for child in modules["fusion.neighborhood"].children():
                yield (component, "projections"), child


def split_up(times: dict[Key, list[float]]) -> dict[Key, list[float]]:
    """Turn the measured times into times that do not overlap, round by round.

    NAM becomes projections and attention; every whole that has parts gets a rest.
    """
    split: dict[Key, list[float]] = {}
    components = [name for name in dict.fromkeys(name for name, _ in times) if name != "model"]
    for component in components:
        parts = {part: values for (where, part), values in times.items() if where == component}
        whole = parts.pop(_WHOLE)
        if "NAM" in parts:
            parts["attention"] = _difference(parts.pop("NAM"), [parts["projections"]])
        parts = {column: parts[column] for column in COLUMNS if column in parts}
        if parts:
            parts[_REST] = _difference(whole, list(parts.values()))
        split |= {(component, part): values for part, values in parts.items()}
        split[component, _WHOLE] = whole
    tops = [times[component, _WHOLE] for component in components]
    split["model", _REST] = _difference(times["model", _WHOLE], tops)
    split["model", _WHOLE] = times["model", _WHOLE]
    return split


def _difference(whole: list[float], parts: list[list[float]]) -> list[float]:
    # Not below 0: parts that are almost the whole may exceed it by noise of the clock.
    return [max(a - b, 0.0) for a, b in zip(whole, add_rounds(parts), strict=True)]


def _table(rows: list[Row], name: str, settings: Settings) -> Table:
    cells = {(row["component"], row["part"]): Quartiles(*row["ms"]) for row in rows}
    H, W = settings.size
    columns = [c for c in COLUMNS if any(part == c for _, part in cells)]
    whole = cells["model", _WHOLE].median
    lines = []
    for component in dict.fromkeys(component for component, _ in cells):
        values = (cells.get((component, part)) for part in (*columns, _REST))
        medians = (NOTHING if value is None else number(value.median) for value in values)
        total = cells[component, _WHOLE]
        share = f"{100 * total.median / whole:.0f} %"
        lines.append((component, *medians, number(total.median), share))
    title = f"{name}, inference, {H}x{W}, batch {settings.batch}, ms"
    return Table(title, ("", *columns, _REST, _WHOLE, "share"), lines)
