"""One of several processes that evaluate together; writes what it was told to a file."""

import json
import sys
from pathlib import Path

import torch.distributed

from greys import GREYS, Greys
from pna.data import DataError
from pna.evaluate import evaluate
from pna.evaluate.shares import Share, exchange
from pna.predict import stage_labels
from tiny_segmenter import by_brightness


def report(num_pictures, rank, world_size):
    dataset = Greys(num_pictures=num_pictures, bad=(1,))
    model = by_brightness(GREYS)
    return evaluate(
        model, dataset, skip_bad=True, progress=False, rank=rank, world_size=world_size
    ).to_dict()


def error(rank, world_size):
    """Every process is told of the picture that one of them could not read."""
    try:
        evaluate(
            by_brightness(GREYS), Greys(bad=(1,)), progress=False, rank=rank, world_size=world_size
        )
    except DataError as problem:
        return str(problem)
    return None


def confusion(rank, world_size):
    share, model, dataset = Share(GREYS, 3), by_brightness(GREYS).eval(), Greys()
    for index in range(rank, len(dataset), world_size):
        sample = dataset.load(index)
        prediction = stage_labels(model, sample.picture[None]).stages[0][0]
        share.update("P0", prediction, sample.labels)
    return exchange(share, world_size).counts["P0"].confusion.tolist()


if __name__ == "__main__":
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    place = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group(
        "gloo", init_method=place, rank=rank, world_size=world_size
    )
    found = {f"report of {n}": report(n, rank, world_size) for n in (2, 7)}
    found["error"] = error(rank, world_size)
    found["confusion"] = confusion(rank, world_size)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
