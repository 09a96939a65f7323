"""Large images whole, and in patches: scores, seconds and memory of one model or of several.

    python benchmarks/patches.py MODEL [MODEL ...] --dataset deepglobe --root PATH --split test
        --tile 508,508 [--overlap 0.1] [--limit N]

The asterisk of the paper's Table 5 marks results of patches. Each model is evaluated twice, each
time in a process of its own, whose peak memory is read: on whole images, and by a sliding window of
that tile. MODEL is a saved model, such as `RUN/model`, or a bundled one. Writes each result to
`results/patches.json` and `patches.md` as it comes; those of other models, tiles and numbers of
images stay.
"""

import argparse
import multiprocessing
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from typing import Any

from trained import read_results, write_results

import pna
import pna.data
from pna.cli.options import (
    add_dataset_arguments,
    check_dataset_arguments,
    create_dataset_of,
    parse_size,
)
from pna.evaluate import evaluate
from pna.inference.devices import default_device
from pna.inference.tiling import TilingConfig
from pna.lab.baselines import PRESETS
from pna.lab.machine import describe, sentence
from pna.model.segmenter import BaseSegmenter

_NAME = "patches"


def measure(arguments: argparse.Namespace, model: str, tiling: TilingConfig) -> dict[str, Any]:
    """Evaluate a model in this process, whole or in tiles."""
    network = pna.load(model, device=default_device(), presets=PRESETS)
    dataset = _dataset(arguments, network)
    start = time.perf_counter()
    report = evaluate(
        network, dataset, limit=arguments.limit, tiling=tiling, num_workers=0, progress=False
    )
    seconds = time.perf_counter() - start
    return {
        "dataset": " ".join(filter(None, (arguments.dataset, arguments.split))),
        "model": model,
        "tiling": str(tiling),
        "images": report.num_images,
        "miou": report.final.miou,
        "boundary_iou": report.final.boundary_miou,
        # The time of reading and scoring included, which is the same for both.
        "seconds": seconds / report.num_images,
        "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def _dataset(arguments: argparse.Namespace, network: BaseSegmenter) -> pna.data.SegmentationDataset:
    labels = network.labels if arguments.dataset == "folder" else None
    return create_dataset_of(arguments, arguments.split, labels, network.bands)


def table(results: dict[str, Any]) -> str:
    """The page in Markdown."""
    parts = [
        "# Large images whole and in patches\n",
        "Made by `python benchmarks/patches.py`. mIoU and boundary IoU in per cent; seconds for an",
        "image, with reading and scoring; peak memory of the process.\n",
        "| data set | images | model | protocol | mIoU | boundary IoU | s | GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    parts += [
        f"| {row['dataset']} | {row['images']} | `{row['model']}` | {row['tiling']} | "
        f"{100 * row['miou']:.1f} | {100 * row['boundary_iou']:.1f} | {row['seconds']:.2f} | "
        f"{row['peak'] / 1e9:.2f} |"
        for row in results.values()
    ]
    machines = {sentence(row["machine"]) for row in results.values()}
    return "\n".join([*parts, "", *(f"{machine}." for machine in sorted(machines))]) + "\n"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Whole images against patches.")
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--tile", type=parse_size, metavar="H,W", required=True)
    parser.add_argument("--overlap", type=float, default=0.1)
    parser.add_argument("--limit", type=int)
    add_dataset_arguments(parser)
    arguments = parser.parse_args()
    machine = describe(default_device())
    try:
        check_dataset_arguments(arguments)
        protocols = TilingConfig(), TilingConfig(tile=arguments.tile, overlap=arguments.overlap)
        for model in arguments.models:  # all of them, before hours go into the first
            _dataset(arguments, pna.load(model, presets=PRESETS))
        for model, tiling in product(arguments.models, protocols):
            # A process of its own, whose memory is its own.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                row = pool.submit(measure, arguments, model, tiling).result()
            print(row, flush=True)
            results = read_results(_NAME)
            key = ", ".join(str(row[name]) for name in ("dataset", "images", "model", "tiling"))
            results[key] = row | {"machine": machine}
            write_results(_NAME, results, table(results))
    except pna.PnaError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
