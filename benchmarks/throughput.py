"""Images a second of many images: batches on one machine, and replicas of a cluster.

    python benchmarks/throughput.py batches FOLDER [--images 64] [--sizes 1 2 4 8] [--rounds 5]
    python benchmarks/throughput.py replicas FOLDER [--images 320] [--rounds 2] [--model NAME]

`batches` reads and segments the first images of a folder by `Predictor.each`, with each batch size
in turns. `replicas` segments them by Ray, by one replica and by two, of one core each, in turns;
the start of Ray and of its replicas is part of the time, as it is of a user's. Both write
`results/throughput.json` and `throughput.md`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trained import read_results, write_results

import pna
from pna.cluster.run import Replicas, segment_images
from pna.data.pairs import IMAGE_SUFFIXES
from pna.inference.devices import default_device
from pna.lab.machine import describe, sentence
from pna.lab.measure.timing import quartiles, ratios
from pna.lab.report import with_quartiles

_NAME = "throughput"


def take_turns(ways: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run all ways in turns; return images a second."""
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            rates[name].append(way())
            print(f"{name}: {rates[name][-1]:.2f} images a second", flush=True)
    return rates


def batches(images: list[Path], model: str, sizes: list[int], rounds: int) -> dict[str, Any]:
    """Compare batch sizes."""
    network = pna.load(model)
    pna.Predictor(network)(images[0])  # compiles

    def way(size: int) -> Callable[[], float]:
        predictor = pna.Predictor(network, batch_size=size)

        def run() -> float:
            begin = time.perf_counter()
            for _, result in predictor.each(images):
                if isinstance(result, Exception):
                    raise result
            return len(images) / (time.perf_counter() - begin)

        return run

    return take_turns({f"batches of {size}": way(size) for size in sizes}, rounds)


def replicas(images: list[Path], model: str, rounds: int) -> dict[str, Any]:
    """Compare one replica with two."""

    def way(number: int) -> Callable[[], float]:
        def run() -> float:
            with tempfile.TemporaryDirectory() as out:
                report = segment_images(
                    images, model, out, replicas=Replicas(number), device="cpu", batch_size=8
                )
            if report.done != len(images):
                raise SystemExit(f"only {report.done} of {len(images)} images were segmented")
            return report.images_per_second

        return run

    return take_turns({"1 replica": way(1), "2 replicas": way(2)}, rounds)


def write(kind: str, model: str, images: list[Path], rates: dict[str, Any]) -> None:
    """Replace the rates of one kind, and write the tables."""
    content = read_results(_NAME)
    content[kind] = {
        "model": model,
        "images": len(images),
        "threads": torch.get_num_threads(),
        "rates": rates,
        "machine": describe(default_device()),
    }
    lines = ["# Many images"]
    for name, found in content.items():
        lines += [
            "",
            f"## {name.capitalize()}",
            "",
            f"`python benchmarks/throughput.py {name} FOLDER --images {found['images']} --model "
            f"{found['model']}`: images a second, and the rate over that of the first line in the "
            "same round (median [quartiles]).",
            "",
            "| | images a second | ratio |",
            "|---|---|---|",
        ]
        first = next(iter(found["rates"].values()))
        for way, values in found["rates"].items():
            ratio = with_quartiles(quartiles(ratios(values, first)))
            lines.append(f"| {way} | {with_quartiles(quartiles(values))} | {ratio} |")
        lines += ["", sentence(found["machine"])]
    write_results(_NAME, content, "\n".join(lines) + "\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Measure images a second.")
    commands = parser.add_subparsers(dest="command", required=True)
    batching, replicating = (commands.add_parser(name) for name in ("batches", "replicas"))
    for command, count, rounds in ((batching, 64, 5), (replicating, 320, 2)):
        command.add_argument("folder", type=Path)
        command.add_argument("--images", type=int, default=count)
        command.add_argument("--model", default="voc-lite")
        command.add_argument("--rounds", type=int, default=rounds)
    batching.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8])
    args = parser.parse_args()
    found = sorted(p for p in args.folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    images = found[: args.images]
    if len(images) < args.images:
        parser.error(f"{args.folder}: expected {args.images} images, found {len(found)}")
    if args.command == "batches":
        rates = batches(images, args.model, args.sizes, args.rounds)
    else:
        rates = replicas(images, args.model, args.rounds)
    write(args.command, args.model, images, rates)


if __name__ == "__main__":
    main()
