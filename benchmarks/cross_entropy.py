"""Time of cross-entropy of channels-last logits, forward and backward, by the axis of the softmax.

    python benchmarks/cross_entropy.py [--classes 2 11 ...] [--size 8 256 320] [--rounds 9]

"rows": logits as a matrix of pixels, softmax over the last axis; "maps": logits (B, K, H, W),
softmax over the second axis. `pna.train.losses` uses rows from 16 classes on. Writes
`results/cross_entropy.json` and `.md`, measured on one thread.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pna.files import write_text_atomically
from pna.lab.machine import describe, sentence
from pna.lab.measure.timing import Call, interleave, quartiles, ratios, use_threads
from pna.lab.report import Table, rounded, with_quartiles
from pna.labels import IGNORE_INDEX
from pna.train.malloc import keep_freed_memory

RESULTS = Path(__file__).parent / "results"


def loss_of_rows(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of the losses, pixels as rows."""
    rows = logits.permute(0, 2, 3, 1).flatten(end_dim=2)
    return F.cross_entropy(rows, labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum")


def loss_of_maps(logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of the losses, logits as they are."""
    return F.cross_entropy(logits, labels, ignore_index=IGNORE_INDEX, reduction="sum")


def calls(num_classes: int, size: tuple[int, int, int]) -> dict[str, Call]:
    """Forward and backward of both, on the same logits and labels."""
    batch, height, width = size
    logits = torch.randn(batch, num_classes, height, width)
    logits = logits.contiguous(memory_format=torch.channels_last).requires_grad_()
    labels = torch.randint(num_classes, size)

    def rows() -> None:
        torch.autograd.grad(loss_of_rows(logits, labels), logits)

    def maps() -> None:
        torch.autograd.grad(loss_of_maps(logits, labels), logits)

    return {"rows": rows, "maps": maps}


def measure(num_classes: int, size: tuple[int, int, int], rounds: int) -> dict[str, Any]:
    """Milliseconds of both in every round, and the ratio of rows to maps."""
    times = interleave(calls(num_classes, size), rounds=rounds, device="cpu")
    ratio = quartiles(ratios(times["rows"], times["maps"]))
    return {
        "classes": num_classes,
        "ratio": rounded(ratio),
        **{name: rounded(values) for name, values in times.items()},
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """Medians and quartiles."""
    cells = []
    for row in rows:
        ratio = quartiles(ratios(row["rows"], row["maps"]))
        times = (with_quartiles(quartiles(row[name])) for name in ("rows", "maps"))
        cells.append((str(row["classes"]), *times, with_quartiles(ratio)))
    return Table("Milliseconds", ("classes", "rows", "maps", "rows / maps"), cells)


def main() -> None:
    """Measure each number of classes and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, nargs="+", default=[2, 6, 11, 15, 16, 19, 21, 60])
    parser.add_argument("--size", type=int, nargs=3, default=[8, 256, 320], help="B H W")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    keep_freed_memory()  # as the trainer does
    with use_threads(1):
        machine = describe("cpu")
        rows = [measure(k, tuple(args.size), args.rounds) for k in args.classes]
    size = "x".join(map(str, args.size))
    command = (
        f"python benchmarks/cross_entropy.py --classes {' '.join(map(str, args.classes))} "
        f"--size {' '.join(map(str, args.size))} --rounds {args.rounds}"
    )
    result = {"command": command, "machine": machine, "rows": rows}
    write_text_atomically(RESULTS / "cross_entropy.json", json.dumps(result, indent=1) + "\n")
    page = [f"`{command}`", sentence(machine), f"Logits {size} (B, H, W), channels-last, float32."]
    page.append(table(rows).markdown())
    write_text_atomically(RESULTS / "cross_entropy.md", "\n\n".join(page) + "\n")
    print("\n\n".join(page))


if __name__ == "__main__":
    main()
