"""Images per second that a recipe's loader prepares, by number of workers.

    python benchmarks/loader.py [RECIPE] [--root DATA] [--workers 0 1 2 4] [--images 512]

Without `--root` it makes a Pascal VOC of random scenes of 375 x 500 pixels, that data set's usual
size. Images are read, augmented and stacked as in training, while nothing else computes.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from pna.data import Batch, StepBatchSampler, train_loader
from pna.data.synthetic import write_voc
from pna.files import write_text_atomically
from pna.lab.baselines import PRESETS
from pna.lab.machine import describe
from pna.train import Recipe, load_recipe
from pna.train.build import augment, create_split
from pna.train.recipe import RECIPES

RESULTS = Path(__file__).parent / "results"
FOLDERS = (RECIPES, resources.files("pna.lab") / "recipes")


def measure(recipe: Recipe, num_workers: int, num_images: int) -> float:
    """Images per second, after the workers have started.

    Args:
        recipe: Data, augmentation and batch size.
        num_workers: Processes that prepare images; 0 prepares in this one.
        num_images: Least number of images to time.
    """
    dataset = augment(create_split(recipe.data, "train"), recipe.data, seed=recipe.run.seed)
    batch_size = recipe.run.batch_size
    # Each worker prepares two batches ahead. Draw as many before the clock starts, and leave as
    # many when it stops, so that all counted batches are prepared in the measured time.
    num_ahead, num_timed = 2 * num_workers + 1, -(-num_images // batch_size)
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


def main() -> None:
    """Measure each number of workers, and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="voc-fcn-r50-pna")
    parser.add_argument("--root", help="where the recipe's data set lies; none makes one")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--images", type=int, default=512)
    args = parser.parse_args()
    rows, machine = [], describe("cpu")  # its load is that before the run
    with tempfile.TemporaryDirectory() as folder:
        root = args.root
        if root is None:
            root = write_voc(Path(folder) / "voc", num_train=64, num_val=1, size=(375, 500))
        recipe = load_recipe(args.recipe, [f"data.root={root}"], folders=FOLDERS, presets=PRESETS)
        for num_workers in args.workers:
            row = {
                "recipe": args.recipe,
                "data": "made" if args.root is None else recipe.data.name,
                "crop": list(recipe.data.crop),
                "batch_size": recipe.run.batch_size,
                "workers": num_workers,
                "images_per_second": round(measure(recipe, num_workers, args.images), 1),
            }
            rows.append(row)
            print(row)
    options = f"{args.recipe} --workers {' '.join(map(str, args.workers))}"
    command = f"python benchmarks/loader.py {options} --images {args.images}"
    command += " --root DATA" if args.root else ""
    result = {"command": command, "machine": machine, "rows": rows}
    path = RESULTS / f"loader-{args.recipe}.json"
    write_text_atomically(path, json.dumps(result, indent=1) + "\n")
    print(path)


if __name__ == "__main__":
    main()
