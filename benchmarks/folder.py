"""A folder of images: one after the other, against reading and writing while the network works.

    python benchmarks/folder.py IMAGE [IMAGE ...] [--model NAME] [--rounds N]

segments the images both ways in turns, in one process, and writes the images a second and their
ratio to `results/folder.json` and `folder.md`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles

from trained import RESULTS

import pna
from pna.cli.batch import overlap
from pna.cli.segment import describe, write_results
from pna.inference.predictor import LoadedImage
from pna.lab.machine import describe as describe_machine
from pna.lab.machine import sentence


def one_by_one(predictor: pna.Predictor, images: list[Path], out: Path) -> None:
    """Read, segment and write an image, then the next."""
    for image in images:
        prediction = predictor(image)
        write_results(prediction, out, image.stem)
        describe(prediction)


def overlapped(predictor: pna.Predictor, images: list[Path], out: Path) -> None:
    """Read the next images and write those before in threads, as `pna segment` does."""

    def segment(path: Path, image: LoadedImage) -> pna.Prediction:
        return predictor(image)

    def write(path: Path, prediction: pna.Prediction) -> str:
        write_results(prediction, out, path.stem)
        return describe(prediction)

    for text in overlap(images, predictor.load, segment, write):
        text.result()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--model", default="voc-lite")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    predictor = pna.Predictor(args.model)
    ways: dict[str, Callable[[pna.Predictor, list[Path], Path], None]] = {
        "one by one": one_by_one,
        "overlapped": overlapped,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(args.rounds + 1):
            for name, run in ways.items():
                begin = time.perf_counter()
                run(predictor, args.images, Path(folder))
                if turn:  # the first compiles and fills caches
                    seconds[name].append(time.perf_counter() - begin)
    ratios = [a / b for a, b in zip(seconds["one by one"], seconds["overlapped"], strict=True)]
    rates = {name: [len(args.images) / s for s in of] for name, of in seconds.items()}
    low, middle, high = quantiles(ratios, n=4)
    machine = describe_machine("cpu")
    content = {
        "model": args.model,
        "images": len(args.images),
        "images_per_second": rates,
        "ratio": [low, middle, high],
        "machine": machine,
    }
    (RESULTS / "folder.json").write_text(json.dumps(content, indent=1) + "\n")
    rows = "\n".join(f"| {name} | {quantiles(of, n=4)[1]:.2f} |" for name, of in rates.items())
    (RESULTS / "folder.md").write_text(
        f"# A folder of {len(args.images)} images, `{args.model}`\n\n"
        f"| | images a second |\n|---|---|\n{rows}\n\n"
        f"Overlapped over one by one: {middle:.2f} [{low:.2f}, {high:.2f}], median, quartiles of "
        f"{args.rounds} turns.\n\n{sentence(machine)}\n"
    )
    print((RESULTS / "folder.md").read_text())


if __name__ == "__main__":
    main()
