"""Suite `runtimes`: models in ONNX Runtime, relative to PyTorch on the same CPU and threads."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from pna.errors import PnaError
from pna.export.session import Session
from pna.export.write import export_model
from pna.lab.bench.charts import draw_runtimes
from pna.lab.bench.report import Log, Report, Row
from pna.lab.measure.timing import Call, Quartiles, interleave, quartiles, ratios
from pna.lab.measure.workloads import Workload, build, inference, make_images
from pna.lab.report import Table, number, rounded, with_quartiles
from pna.model.presets import PRESETS

TORCH, ONNX = "PyTorch", "ONNX Runtime"


@dataclass(frozen=True)
class Settings:
    """Settings of the suite.

    Attributes:
        device: "cpu".
        models: Presets or saved models.
        encoder: timm model to build presets on; their own by default.
        size: (H, W) of the images; the files take any.
        batch: Images per call.
        rounds: Measurements of each.
    """

    device: str
    models: tuple[str, ...] = tuple(PRESETS)
    encoder: str | None = None
    size: tuple[int, int] = (512, 512)
    batch: int = 1
    rounds: int = 5


def measure(settings: Settings, log: Log) -> Report:
    """Export each model, and time the file and the model in turns.

    Raises:
        PnaError: The device is no CPU, or a model is unknown or has no graph.
    """
    if settings.device != "cpu":
        raise PnaError(f"runtimes are compared on the CPU, got {settings.device}: --device cpu")
    rows = []
    with TemporaryDirectory() as folder:
        for model in settings.models:
            rows += _measure(model, settings, Path(folder) / "model.onnx", log)
    return Report(rows, [_table(rows, settings)], [], partial(draw_runtimes, rows=rows))


def _measure(name: str, settings: Settings, file: Path, log: Log) -> list[Row]:
    work = Workload(
        name, "inference", settings.size, settings.batch, "cpu", encoder=settings.encoder
    )
    model, images = build(work), make_images(work)
    log(f"export of {name}")
    report = export_model(model, file)
    session, plain = Session(file), images.contiguous()  # the order that ONNX has
    calls: dict[str, Call] = {
        TORCH: inference(model, images, work),
        ONNX: lambda: session.run([plain])[0],
    }
    log(f"time of {name}")
    times = interleave(calls, rounds=settings.rounds, device="cpu")
    return [
        {
            "model": name,
            "runtime": runtime,
            "ms": rounded(quartiles(took)),
            "ratio": rounded(quartiles(ratios(took, times[TORCH]))),
            "rounds_ms": rounded(took),
            "difference": max(parity.difference for parity in report.parity),
        }
        for runtime, took in times.items()
    ]


def _table(rows: list[Row], settings: Settings) -> Table:
    H, W = settings.size
    lines: list[tuple[str, ...]] = []
    for row in rows:
        ms, ratio = (with_quartiles(Quartiles(*row[key])) for key in ("ms", "ratio"))
        lines.append((row["model"], row["runtime"], ms, ratio, number(row["difference"])))
    columns = ("model", "runtime", "ms", f"time / {TORCH}", "largest difference of logits")
    return Table(f"inference, {H}x{W}, batch {settings.batch}, float32", columns, lines)
