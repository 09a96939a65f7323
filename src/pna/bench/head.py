"""Suite `head`: where the time of a picture goes, stage by stage and part by part."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from torch import nn

from pna.bench.charts import draw_head
from pna.bench.report import NOTHING, Report, Row, Say, Table, number, rounded
from pna.bench.stats import Spread, add_rounds, spread
from pna.bench.stopwatch import Place, Stopwatch
from pna.bench.workloads import Workload, build, inference, make_pictures
from pna.model.aggregation.head import PNAHead
from pna.model.counts import UNREFINED
from pna.model.segmenter import BaseSegmenter

PARTS = {
    "embedding": ("embed_feature", "embed_prediction"),
    "SAM": ("fusion.self_aggregation",),
    "NAM": ("fusion.neighborhood",),
    "MLP": ("fusion.norm_mlp", "fusion.mlp", "fusion.feed_forward"),
    "carried logits": ("carry",),
    "classifier": ("classifier",),
}
"""Modules of a stage by the part that they belong to; a stage has those of its variant."""

COLUMNS = ("embedding", "SAM", "projections", "attention", "MLP", "carried logits", "classifier")
"""NAM is told apart into its norms and linear layers, and the attention between them."""

_WHOLE = "whole"
_REST = "rest"


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        device: "cpu", "cuda" or "cuda:N".
        models: Presets with refinement or saved models.
        encoder: timm model to build presets on; their own by default.
        size: (H, W) of the picture.
        batch: Pictures per call.
        amp: Mixed precision.
        channels_last: Layout of weights and pictures.
        rounds: Calls that are watched.
    """

    device: str
    models: tuple[str, ...] = ("fcn-pna",)
    encoder: str | None = None
    size: tuple[int, int] = (512, 512)
    batch: int = 1
    amp: bool = False
    channels_last: bool = True
    rounds: int = 9


def measure(settings: Settings, say: Say) -> Report:
    """Watch the parts of each model at inference.

    Raises:
        ValueError: There is no such model, or it has no refinement.
    """
    rows: list[Row] = []
    for name in settings.models:
        say(f"parts of {name}")
        rows += _profile(name, settings)
    tables = [
        _table([row for row in rows if row["model"] == name], name, settings)
        for name in settings.models
    ]
    notes = [
        "projections: norms and linear layers of NAM; attention: the operator between them; rest: "
        "what is left of the whole, such as resizing and additions."
    ]
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
        raise ValueError(
            f"model {name!r} is not refined by PNA, so there is nothing to see; take one that is"
        )
    call = inference(model, make_pictures(work), work)
    call()
    rounds: list[dict[Place, float]] = []
    with Stopwatch(watched(model), settings.device) as stopwatch:
        for _ in range(settings.rounds):
            call()
            rounds.append(stopwatch.read())
    times = {place: [found[place] for found in rounds] for place in rounds[0]}
    return [
        {
            "model": name,
            "place": place,
            "part": part,
            "ms": rounded(spread(values)),
            "rounds_ms": rounded(values),
        }
        for (place, part), values in split_up(times).items()
    ]


def watched(model: BaseSegmenter) -> Iterator[tuple[Place, nn.Module]]:
    """The modules to watch: the whole, its boxes, and the parts of each stage."""
    yield ("model", _WHOLE), model
    for title, path in UNREFINED:
        if getattr(model, path, None) is not None:
            yield (title, _WHOLE), getattr(model, path)
    stages = model.refiner.stages if isinstance(model.refiner, PNAHead) else ()
    for m, stage in enumerate(stages, 1):
        place = f"stage {m}"
        yield (place, _WHOLE), stage
        modules = dict(stage.named_modules())
        for part, paths in PARTS.items():
            for path in paths:
                if path in modules:
                    yield (place, part), modules[path]
        for child in modules["fusion.neighborhood"].children():
            yield (place, "projections"), child


def split_up(times: dict[Place, list[float]]) -> dict[Place, list[float]]:
    """Turn what was watched into times that don't overlap, round by round.

    NAM becomes projections and attention; every whole that has parts gets a rest.
    """
    found: dict[Place, list[float]] = {}
    places = [place for place in dict.fromkeys(place for place, _ in times) if place != "model"]
    for place in places:
        parts = {part: values for (where, part), values in times.items() if where == place}
        whole = parts.pop(_WHOLE)
        if "NAM" in parts:
            parts["attention"] = _difference(parts.pop("NAM"), [parts["projections"]])
        parts = {column: parts[column] for column in COLUMNS if column in parts}
        if parts:
            parts[_REST] = _difference(whole, list(parts.values()))
        found |= {(place, part): values for part, values in parts.items()}
        found[place, _WHOLE] = whole
    boxes = [times[place, _WHOLE] for place in places]
    found["model", _REST] = _difference(times["model", _WHOLE], boxes)
    found["model", _WHOLE] = times["model", _WHOLE]
    return found


def _difference(whole: list[float], parts: list[list[float]]) -> list[float]:
    # Not below 0: a clock's noise can make parts that are almost the whole exceed it.
    return [max(a - b, 0.0) for a, b in zip(whole, add_rounds(parts), strict=True)]


def _table(rows: list[Row], name: str, settings: Settings) -> Table:
    cells = {(row["place"], row["part"]): Spread(*row["ms"]) for row in rows}
    H, W = settings.size
    columns = [c for c in COLUMNS if any(part == c for _, part in cells)]
    whole = cells["model", _WHOLE].median
    lines = []
    for place in dict.fromkeys(place for place, _ in cells):
        found = (cells.get((place, part)) for part in (*columns, _REST))
        medians = (NOTHING if value is None else number(value.median) for value in found)
        total = cells[place, _WHOLE]
        share = f"{100 * total.median / whole:.0f} %"
        lines.append((place, *medians, number(total.median), share))
    title = f"{name}, inference, {H}x{W}, batch {settings.batch}, ms"
    return Table(title, ("", *columns, _REST, _WHOLE, "share"), lines)
