"""Peak memory of segmenting one large picture: `python benchmarks/memory.py [SIZE] [MODEL]`.

Runs in a process of its own; the peak is the process's resident memory (Linux), Python, PyTorch and
weights included.
"""

import resource
import sys

import numpy as np
from machine import write

from pna import Predictor


def main() -> None:
    """Segment noise of SIZE x SIZE pixels twice and write the peak."""
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 2448
    model = sys.argv[2] if len(sys.argv) > 2 else "voc-lite"
    picture = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    predictor = Predictor(model)
    rows = []
    for call in (1, 2):
        predictor(picture)
        row = {
            "model": model,
            "picture": [size, size],
            "call": call,
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9, 2),
        }
        rows.append(row)
        print(row)
    print(write(f"memory-{model}-{size}", f"python benchmarks/memory.py {size} {model}", rows))


if __name__ == "__main__":
    main()
