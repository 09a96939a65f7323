"""Train the feature upsampler and probe it, beside other ways of upsampling.

    python benchmarks/upsampling.py train RUN --data PATH [--network upsampler] [--steps N]
    python benchmarks/upsampling.py probe RUN ... --data PATH [--set voc] [--strides 16 32]
    python benchmarks/upsampling.py time [--rounds 5]
    python benchmarks/upsampling.py bundle RUN

Networks: `upsampler` (the one that is bundled) and `naf`, at a quarter of the authors' width, which
makes it about as large (43,000 parameters against 28,000). PATH holds `crisp`, and `camvid` or
`voc2012`. `probe` writes `results/upsampling.json` and `upsampling.md`: the mIoU of a linear
classifier on the features of EfficientNet-Lite0 at strides 16 and 32, upsampled to stride 4. In
place of a RUN it takes `bilinear`, `joint-bilateral` and `upsampler`, the bundled network. `time`
measures milliseconds and memory of one call by the bundled network and by NAF at its authors'
width, with keys on the grid of the features and repeated to that of the result, and adds them to
these files.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from masks import NETWORK, find_scenes
from torch import Tensor, nn
from trained import read_results, write_results

import pna
from pna.data import create_dataset
from pna.data.dataset import SegmentationDataset
from pna.files import write_atomically
from pna.inference.upsample import WEIGHTS
from pna.lab.fitting import SETTINGS, FitSettings, fit
from pna.lab.machine import describe, sentence
from pna.lab.measure.memory import peak_memory
from pna.lab.measure.timing import Call, interleave, quartiles
from pna.lab.report import rounded, with_quartiles
from pna.lab.upsampling.bilateral import joint_bilateral
from pna.lab.upsampling.naf import NAF
from pna.lab.upsampling.probe import (
    ProbeSettings,
    Upsample,
    encode,
    score_probe,
    train_probe,
    upsampled,
)
from pna.lab.upsampling.training import draw_images, upsampling_losses
from pna.model.encoder import create_encoder
from pna.model.resize import resize
from pna.refinement.upsampler import FeatureUpsampler

NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "upsampler": FeatureUpsampler,
    "naf": partial(NAF, width=64),
}
ENCODER = "tf_efficientnet_lite0"


def bilinear(images: Tensor, features: Tensor, size: Any) -> Tensor:
    """Upsample without the image."""
    return resize(features, size)


def bundled(images: Tensor, features: Tensor, size: Any) -> Tensor:
    """Upsample by the network that comes with the package."""
    return pna.upsample(images, features, size)


FIXED: Mapping[str, Upsample] = {
    "bilinear": bilinear,
    "joint-bilateral": joint_bilateral,
    "upsampler": bundled,
}
TIMED: Mapping[str, Callable[[], Upsample]] = {
    "bilinear": lambda: bilinear,
    "upsampler": lambda: bundled,
    "NAF": lambda: NAF().eval(),
    "NAF, repeated": lambda: partial(NAF().eval(), repeated=True),
}
CELLS = 28
DATASETS: Mapping[str, Callable[[Path, str], SegmentationDataset]] = {
    "camvid": lambda data, split: create_dataset("camvid", data / "camvid", split=split),
    "voc": lambda data, split: create_dataset("voc2012", data / "voc2012", split=split),
}


def train(run: Path, data: Path, name: str, steps: int, seed: int) -> None:
    """Train, or go on training."""
    scenes, _ = find_scenes(data)
    torch.manual_seed(seed)
    network, encoder = NETWORKS[name](), create_encoder(ENCODER).eval().requires_grad_(False)

    def losses(step: int) -> dict[str, Tensor]:
        batch = draw_images(scenes, step, side=256, batch_size=4, seed=seed)
        return upsampling_losses(network, encoder, batch, step)

    fitted = fit(
        network,
        losses,
        run,
        FitSettings(steps=steps, lr=2e-3, head_lr=None),
        about={"network": name, "seed": seed},
    )
    write_atomically(run / NETWORK, partial(torch.save, fitted.state_dict()))


def load_run(run: Path) -> nn.Module:
    """The trained network of a run."""
    settings = json.loads((run / SETTINGS).read_text(encoding="utf-8"))
    network = NETWORKS[settings["network"]]()
    network.load_state_dict(torch.load(run / NETWORK, weights_only=True))
    return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class UpsamplingWork:
    """One call: features of 28x28 cells of an image of 448x448 pixels, made finer.

    Attributes:
        way: Of `TIMED`.
        channels: Of the features.
        ratio: Of the result's side to that of the features.
        device: "cpu".
    """

    way: str
    channels: int
    ratio: int
    device: str = "cpu"

    def prepare(self) -> Call:
        """Make the tensors and the network."""
        torch.manual_seed(0)
        image = torch.rand(1, 3, 16 * CELLS, 16 * CELLS)
        features = torch.randn(1, self.channels, CELLS, CELLS)
        upsample, size = TIMED[self.way](), (CELLS * self.ratio, CELLS * self.ratio)

        def call() -> None:
            with torch.inference_mode():
                upsample(image, features, size)

        return call


def measure_time(rounds: int) -> None:
    """Measure all ways at all ratios, in turns, and their memory."""
    rows = []
    for channels in (128, 384):
        for ratio in (2, 4, 8, 16):
            works = {way: UpsamplingWork(way, channels, ratio) for way in TIMED}
            peaks = {way: peak_memory(work).megabytes for way, work in works.items()}
            calls = {way: work.prepare() for way, work in works.items()}
            times = interleave(calls, rounds=rounds, device="cpu")
            for way in TIMED:
                row = {
                    "channels": channels,
                    "ratio": ratio,
                    "way": way,
                    "rounds_ms": rounded(times[way]),
                    "peak_mb": peaks[way],
                }
                print(row, flush=True)
                rows.append(row)
    results = read_results("upsampling")
    results["time"] = {"rows": rows, "machine": describe(torch.device("cpu"))}
    write_results("upsampling", results, table(results))


def probe(names: list[Path], data: Path, part: str, strides: list[int]) -> None:
    """Score ways, or runs, on a data set."""
    encoder = create_encoder(ENCODER).eval().requires_grad_(False)
    ways = {name.name: FIXED.get(str(name)) or load_run(name) for name in names}
    training, validation = (DATASETS[part](data, split) for split in ("train", "val"))
    classes = training.labels.num_classes
    for stride in strides:
        coarse = [list(encode(encoder, images, stride)) for images in (training, validation)]
        for name, way in ways.items():
            fitted = train_probe([upsampled(x, way) for x in coarse[0]], classes, ProbeSettings())
            score = score_probe(fitted, [upsampled(x, way) for x in coarse[1]], classes)
            print(f"{part}, stride {stride}, {name}: {100 * score:.2f}", flush=True)
            keep(f"{part}, stride {stride}", name, score)


def keep(part: str, way: str, score: float) -> None:
    """Write a score, and the table of all."""
    results = read_results("upsampling")
    results["machine"] = describe(torch.device("cpu"))
    results.setdefault("scores", {}).setdefault(part, {})[way] = score
    write_results("upsampling", results, table(results))


def table(results: Mapping[str, Any]) -> str:
    """The page in Markdown."""
    parts = list(results["scores"])
    ways = dict.fromkeys(way for scores in results["scores"].values() for way in scores)
    lines = [
        "# Upsampled features",
        "",
        "mIoU in per cent of a linear classifier on the features of a fixed EfficientNet-Lite0,",
        "upsampled to stride 4. Made by `benchmarks/upsampling.py probe RUN ... --data PATH`.",
        "",
        f"| | {' | '.join(parts)} |",
        f"|---|{'---|' * len(parts)}",
    ]
    for way in ways:
        cells = [
            f"{100 * scores[way]:.1f}" if way in scores else "–"
            for scores in results["scores"].values()
        ]
        lines.append(f"| {way} | {' | '.join(cells)} |")
    if "time" in results:
        lines += ["", *time_table(results["time"])]
    return "\n".join(lines) + "\n"


def time_table(measured: Mapping[str, Any]) -> list[str]:
    """The lines about time and memory."""
    rows = {(row["channels"], row["ratio"], row["way"]): row for row in measured["rows"]}
    cases = dict.fromkeys((channels, ratio) for channels, ratio, _ in rows)
    lines = [
        f"One call for {CELLS}x{CELLS} cells: ms (median [quartiles]), and MB. Made by",
        "`benchmarks/upsampling.py time`.",
        "",
        f"| channels, ratio | {' | '.join(TIMED)} |",
        f"|---|{'---|' * len(TIMED)}",
    ]
    for channels, ratio in cases:
        cells = [
            f"{with_quartiles(quartiles(row['rounds_ms']))}, {row['peak_mb']:.0f} MB"
            for row in (rows[channels, ratio, way] for way in TIMED)
        ]
        lines.append(f"| {channels}, x{ratio} | {' | '.join(cells)} |")
    return [*lines, "", sentence(measured["machine"])]


def bundle(run: Path) -> None:
    """Write a run's weights to the package."""
    from safetensors.torch import save_file

    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    state = load_run(run).state_dict()
    save_file({name: value.half().contiguous() for name, value in state.items()}, WEIGHTS)


def main() -> None:
    """Train, probe, time or bundle."""
    parser = argparse.ArgumentParser(description="Train and score feature upsamplers.")
    commands = parser.add_subparsers(dest="command", required=True)
    training = commands.add_parser("train")
    training.add_argument("run", type=Path)
    training.add_argument("--data", type=Path, required=True)
    training.add_argument("--network", choices=NETWORKS, default="upsampler")
    training.add_argument("--steps", type=int, default=2000)
    training.add_argument("--seed", type=int, default=0)
    training.set_defaults(
        work=lambda a: train(a.run, a.data, a.network, a.steps, a.seed),
    )
    probing = commands.add_parser("probe")
    probing.add_argument("runs", nargs="+", type=Path, help=f"or {', '.join(FIXED)}")
    probing.add_argument("--strides", nargs="+", type=int, choices=(16, 32), default=(16, 32))
    probing.add_argument("--data", type=Path, required=True)
    probing.add_argument("--set", choices=DATASETS, default="camvid")
    probing.set_defaults(work=lambda a: probe(a.runs, a.data, a.set, a.strides))
    timing = commands.add_parser("time")
    timing.add_argument("--rounds", type=int, default=5)
    timing.set_defaults(work=lambda a: measure_time(a.rounds))
    bundling = commands.add_parser("bundle")
    bundling.add_argument("run", type=Path)
    bundling.set_defaults(work=lambda a: bundle(a.run))
    arguments = parser.parse_args()
    arguments.work(arguments)


if __name__ == "__main__":
    main()
