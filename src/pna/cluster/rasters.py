"""One raster on many machines: its blocks are shared out, and its result is put together here."""

import os
import pickle
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pna.cluster.run import Replicas, connected, number_of, pool
from pna.extras import require
from pna.inference.devices import find_device
from pna.inference.opening import open_model
from pna.inference.raster.blocks import Block
from pna.inference.raster.run import BlockJob, RasterReport, segment_raster


class BlockWorker:
    """Segments blocks; Ray makes one in each of its actors.

    Args:
        model: Name or path.
        device: Such as "cpu" or "cuda".
        job: The pickled `BlockJob`.
    """

    def __init__(self, model: str, device: str, job: bytes) -> None:
        import torch

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
        target = find_device(device)
        self.model = open_model(model, device=target).to(target).eval()
        self.job: BlockJob = pickle.loads(job)

    def __call__(self, batch: Any) -> Any:
        """Segment a batch, a pyarrow table of pickled blocks; returns their numbers."""
        blocks = [pickle.loads(block) for block in batch.column("block").to_pylist()]
        done = [block.index for block in self.job.compute(self.model, blocks)]
        return require("pyarrow").table({"index": done})


def segment_raster_on_cluster(
    model: str | Path,
    path: str | Path,
    out: str | Path,
    *,
    address: str | None = None,
    replicas: Replicas = Replicas(),
    device: str | None = None,
    **options: Any,
) -> RasterReport:
    """Segment a raster of any size by Ray Data, block by block.

    Workers and machines that fail are replaced by Ray, which repeats their blocks; a run that was
    killed goes on. Raster, model and output must have the same paths on all machines.

    Args:
        model: Name or path of a model; each replica loads it.
        path: The raster.
        out: The folder of the results.
        address: As for `pna.cluster.run.segment_images`.
        replicas: Copies of the model.
        device: Where a replica runs; None takes its GPU where it has one.
        options: Those of `segment_raster`; `memory` is what each replica may take.

    Raises:
        MissingFileError: There is no such file.
        PnaError: As `segment_raster`; or the cluster cannot be reached, or has no room for a
            replica.
    """
    ray = require("ray")
    cpu = find_device("cpu")

    def distribute(job: BlockJob, blocks: Sequence[Block]) -> Generator[Mapping[str, Any]]:
        if not blocks:
            return
        pyarrow, data = require("pyarrow"), require("ray.data")
        with connected(ray, address):
            number = min(number_of(ray, replicas), len(blocks))
            table = pyarrow.table({"block": [pickle.dumps(block) for block in blocks]})
            arguments = {
                "model": str(model),
                "device": device or replicas.device,
                "job": pickle.dumps(job),
            }
            rows = (
                data.from_arrow(table)
                .repartition(len(blocks))
                .map_batches(
                    BlockWorker,
                    fn_constructor_kwargs=arguments,
                    batch_size=1,
                    batch_format="pyarrow",
                    **pool(replicas, number),
                )
            )
            yield from rows.iter_rows()

    return segment_raster(
        open_model(model, device=cpu), path, out, device=cpu, distribute=distribute, **options
    )
