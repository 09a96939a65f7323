"""Train the feature upsampler and probe it, beside other ways of upsampling.

    python benchmarks/upsampling.py train RUN --data PATH [--network upsampler] [--steps N]
    python benchmarks/upsampling.py probe [RUN ...] --data PATH [--set voc]
    python benchmarks/upsampling.py bundle RUN

Networks: `upsampler` (the one that is bundled) and `naf`, at a quarter of the authors' width, which
makes it about as large (43,000 parameters against 28,000). PATH holds `crisp`, and `camvid` or
`voc2012`. `probe` writes `results/upsampling.json` and `upsampling.md`: the mIoU of a linear
classifier on the features of EfficientNet-Lite0 at strides 16 and 32, upsampled to stride 4, by
every run, by the bundled network and by bilinear and joint bilateral upsampling.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

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
from pna.lab.machine import describe
from pna.lab.upsampling.bilateral import joint_bilateral
from pna.lab.upsampling.naf import HEADS, NAF
from pna.lab.upsampling.probe import (
    ProbeSettings,
    Way,
    cache_features,
    score_probe,
    train_probe,
)
from pna.lab.upsampling.training import draw_images, upsampling_losses
from pna.model.encoder import create_encoder
from pna.model.resize import resize
from pna.refinement.upsampler import FeatureUpsampler


class Network(NamedTuple):
    """A network that can be trained.

    Attributes:
        create: Makes one with new weights.
        groups: Number of groups of channels that have weights of their own.
    """

    create: Callable[[], nn.Module]
    groups: int = 1


NETWORKS: Mapping[str, Network] = {
    "upsampler": Network(FeatureUpsampler),
    "naf": Network(partial(NAF, width=64), groups=HEADS),
}
ENCODER = "tf_efficientnet_lite0"


def bilinear(images: Tensor, features: Tensor, size: Any) -> Tensor:
    """Upsample without the image."""
    return resize(features, size)


def bundled(images: Tensor, features: Tensor, size: Any) -> Tensor:
    """Upsample by the network that comes with the package."""
    return pna.upsample(images, features, size)


FIXED: Mapping[str, Way] = {
    "bilinear": Way(bilinear),
    "joint bilateral": Way(joint_bilateral),
    "upsampler": Way(bundled),
}
DATASETS: Mapping[str, Callable[[Path, str], SegmentationDataset]] = {
    "camvid": lambda data, split: create_dataset("camvid", data / "camvid", split=split),
    "voc": lambda data, split: create_dataset("voc2012", data / "voc2012", split=split),
}


def train(run: Path, data: Path, name: str, steps: int, seed: int) -> None:
    """Train, or go on training."""
    scenes, _ = find_scenes(data)
    torch.manual_seed(seed)
    network, encoder = NETWORKS[name].create(), create_encoder(ENCODER).eval().requires_grad_(False)

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


def load_run(run: Path) -> tuple[nn.Module, int]:
    """The trained network of a run, and its groups of channels."""
    settings = json.loads((run / SETTINGS).read_text(encoding="utf-8"))
    create, groups = NETWORKS[settings["network"]]
    network = create()
    network.load_state_dict(torch.load(run / NETWORK, weights_only=True))
    return network.eval().requires_grad_(False), groups


def probe(runs: list[Path], data: Path, part: str) -> None:
    """Score all ways on a data set, at both strides."""
    encoder = create_encoder(ENCODER).eval().requires_grad_(False)
    ways = {**FIXED, **{run.name: Way(*load_run(run)) for run in runs}}
    training, validation = (DATASETS[part](data, split) for split in ("train", "val"))
    classes = training.labels.num_classes
    for stride in (16, 32):
        items = [list(cache_features(encoder, images, stride)) for images in (training, validation)]
        for name, way in ways.items():
            fitted = train_probe(items[0], classes, way, ProbeSettings())
            score = score_probe(fitted, items[1], classes, way)
            print(f"{part}, stride {stride}, {name}: {100 * score:.2f}", flush=True)
            keep(f"{part}, stride {stride}", name, score)


def keep(part: str, way: str, score: float) -> None:
    """Write a score, and the table of all."""
    results = read_results("upsampling")
    results["machine"] = describe(torch.device("cpu"))
    results.setdefault("scores", {}).setdefault(part, {})[way] = score
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
    write_results("upsampling", results, "\n".join(lines) + "\n")


def bundle(run: Path) -> None:
    """Write a run's weights to the package."""
    from safetensors.torch import save_file

    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    state = load_run(run)[0].state_dict()
    save_file({name: value.half().contiguous() for name, value in state.items()}, WEIGHTS)


def main() -> None:
    """Train, probe or bundle."""
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
    probing.add_argument("runs", nargs="*", type=Path)
    probing.add_argument("--data", type=Path, required=True)
    probing.add_argument("--set", choices=DATASETS, default="camvid")
    probing.set_defaults(work=lambda a: probe(a.runs, a.data, a.set))
    bundling = commands.add_parser("bundle")
    bundling.add_argument("run", type=Path)
    bundling.set_defaults(work=lambda a: bundle(a.run))
    arguments = parser.parse_args()
    arguments.work(arguments)


if __name__ == "__main__":
    main()
