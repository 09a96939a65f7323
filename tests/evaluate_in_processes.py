"""One of several processes that evaluate together; writes its reports to a file."""

import json
import sys
from pathlib import Path

import torch.distributed

from gray_dataset import GRAYS, Grays
from pna.data import DataError
from pna.evaluate import evaluate
from pna.evaluate.shares import Share, exchange
from pna.inference.segment import stage_labels
from tiny_segmenter import by_brightness


def report(num_images):
    dataset = Grays(num_images=num_images, bad=(1,))
    model = by_brightness(GRAYS)
    return evaluate(model, dataset, skip_bad=True, progress=False).to_dict()


def error():
    """Every process is told of the image that one of them could not read."""
    try:
        evaluate(by_brightness(GRAYS), Grays(bad=(1,)), progress=False)
    except DataError as problem:
        return str(problem)
    return None


def confusion(rank, world_size):
    share, model, dataset = Share(GRAYS, 3), by_brightness(GRAYS).eval(), Grays()
    for index in range(rank, len(dataset), world_size):
        sample = dataset[index]
        prediction = stage_labels(model, sample.image[None]).stages[0][0]
        share.update(sample.labels, {"P0": prediction})
    return exchange(share, world_size).counts["P0"].confusion.tolist()


if __name__ == "__main__":
    rank, world_size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    place = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group(
        "gloo", init_method=place, rank=rank, world_size=world_size
    )
    found = {f"report of {n}": report(n) for n in (1, 7)}
    found["error"] = error()
    found["confusion"] = confusion(rank, world_size)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()
