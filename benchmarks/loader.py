"""Pictures per second that a recipe's loader prepares, by workers, with and without caches.

    python benchmarks/loader.py [RECIPE] [--root DATA] [--workers 0 1 2 4] [--pictures 512]

Without `--root` it makes a Pascal VOC of its own, at that data set's usual size of 375 x 500. What
is measured is reading, augmenting and stacking, as in training, with nobody computing on the side.
The caches are filled before the clock starts; they need room for all masks and decoded pictures.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pna.bench.machine import describe
from pna.data import Batch, StepBatchSampler, train_loader
from pna.data.synthetic import write_voc
from pna.train import Recipe, load_recipe
from pna.train.assemble import create_split
from pna.train.batches import augment

RESULTS = Path(__file__).parent / "results"
CACHES = ("none", "labels", "all")


def measure(recipe: Recipe, num_workers: int, num_pictures: int) -> float:
    """Pictures per second, once the workers are at it.

    Args:
        recipe: Data, augmentation and batch size.
        num_workers: Processes that prepare pictures; 0 prepares in this one.
        num_pictures: How many to time, at least.
    """
    dataset = augment(create_split(recipe.data, "train"), recipe.data, seed=recipe.run.seed)
    batch_size = recipe.run.batch_size
    # Workers are two batches ahead each: so much is drawn before the clock starts, and is left to
    # do when it stops, or else batches would count that were prepared outside of its time.
    num_ahead, num_timed = 2 * num_workers + 1, -(-num_pictures // batch_size)
    sampler = StepBatchSampler(
        len(dataset), batch_size, seed=recipe.run.seed, num_steps=num_timed + 2 * num_ahead
    )
    batches = iter(train_loader(dataset, sampler, num_workers=num_workers))
    _draw(batches, num_ahead)
    start = time.perf_counter()
    _draw(batches, num_timed)
    return num_timed * batch_size / (time.perf_counter() - start)


def _draw(batches: Iterator[Batch], number: int) -> None:
    for _ in itertools.islice(batches, number):
        pass


def with_caches(recipe: Recipe, folder: Path, caches: str) -> Recipe:
    """The recipe with converted masks and decoded pictures kept in folders, which are filled here.

    Args:
        recipe: Without caches.
        folder: Where they go.
        caches: "none", "labels", or "all": pictures too.
    """
    update: dict[str, Any] = {"label_cache": None, "picture_cache": None}
    if caches != "none":
        update["label_cache"] = str(folder / "labels")
    if caches == "all":
        update |= {"picture_cache": str(folder / "pictures"), "picture_cache_gb": 1000.0}
    data = recipe.data.model_copy(update=update)
    if caches != "none":
        dataset = create_split(data, "train")
        for index in range(len(dataset)):
            dataset.read(index)
    return recipe.model_copy(update={"data": data})


def write(name: str, result: dict[str, Any]) -> Path:
    """Write `results/NAME.json` beside its place, then rename it."""
    path = RESULTS / f"{name}.json"
    beside = path.with_suffix(".writing")
    beside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    beside.replace(path)
    return path


def main() -> None:
    """Measure each number of workers with and without cache, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="voc-fcn-r50-pna")
    parser.add_argument("--root", help="where the recipe's data set lies; none makes one")
    parser.add_argument("--caches", help="folder for the caches, kept; none takes a temporary one")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--pictures", type=int, default=512)
    args = parser.parse_args()
    rows, machine = [], describe("cpu")  # before the run, whose own load is not of interest
    with tempfile.TemporaryDirectory() as folder:
        root = args.root
        if root is None:
            root = write_voc(Path(folder) / "voc", num_train=64, num_val=1, size=(375, 500))
        recipe = load_recipe(args.recipe, [f"data.root={root}"])
        for caches in CACHES:
            cached = with_caches(recipe, Path(args.caches or folder), caches)
            for num_workers in args.workers:
                row = {
                    "recipe": args.recipe,
                    "data": "made" if args.root is None else recipe.data.name,
                    "crop": list(recipe.data.crop),
                    "batch_size": recipe.run.batch_size,
                    "workers": num_workers,
                    "caches": caches,
                    "pictures_per_second": round(measure(cached, num_workers, args.pictures), 1),
                }
                rows.append(row)
                print(row)
    options = f"{args.recipe} --workers {' '.join(map(str, args.workers))}"
    command = f"python benchmarks/loader.py {options} --pictures {args.pictures}"
    command += " --root DATA" if args.root else ""
    result = {"command": command, "machine": machine, "rows": rows}
    print(write(f"loader-{args.recipe}", result))


if __name__ == "__main__":
    main()
