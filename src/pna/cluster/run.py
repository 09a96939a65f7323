"""Segment many images on a Ray cluster, or on all cores of one machine."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pna.cluster.items import create_dataset, find_inputs
from pna.cluster.worker import Worker
from pna.errors import PnaError
from pna.extras import require
from pna.files import write_atomically, write_text_atomically
from pna.inference.devices import find_device
from pna.inference.opening import open_model
from pna.inference.progress import Pace, Progress
from pna.inference.runs import fingerprint, read_run
from pna.inference.tiling import WHOLE, TilingConfig

MANIFEST, ERRORS, RUN = "manifest.jsonl", "errors.jsonl", "run.json"


@dataclass(frozen=True)
class Replicas:
    """The copies of the model.

    Attributes:
        number: How many; None takes as many as the cluster has cores or GPUs for.
        cpus: Cores of each.
        gpus: GPUs of each; a share, such as 0.5, puts several on one.
    """

    number: int | None = None
    cpus: int = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        if (self.number is not None and self.number < 1) or self.cpus < 1 or self.gpus < 0:
            raise PnaError(f"expected replicas and their cores from 1, got {self}")

    @property
    def device(self) -> str:
        """Where each runs, unless said otherwise."""
        return "cuda" if self.gpus else "cpu"


@dataclass(frozen=True)
class ClusterReport:
    """What a run did.

    Attributes:
        manifest: File of a JSON object a line for every image that has results: `source`, `file`
            (of the labels), `size` (height, width) and `pixels` by class.
        errors: File of a JSON object a line for every image that failed, `source` and `error`; None
            if none did.
        done: Images that this run segmented.
        found: Images whose results were there already.
        failed: Images that failed.
        replicas: The most copies of the model that ran at a time.
        seconds: What the run took.
    """

    manifest: Path
    errors: Path | None
    done: int
    found: int
    failed: int
    replicas: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Images that were segmented in a second."""
        return self.done / self.seconds


def segment_images(
    inputs: Sequence[str | Path],
    model: str | Path,
    out: str | Path,
    *,
    address: str | None = None,
    replicas: Replicas = Replicas(),
    device: str | None = None,
    tiling: TilingConfig = WHOLE,
    scores: bool = False,
    batch_size: int = 16,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> ClusterReport:
    """Segment images of any number by Ray Data.

    Every result is renamed into its place when it is complete, and an image that has one is not
    segmented again: the same call goes on after a fault, of a worker, of a machine or of the whole
    run. Workers and machines that fail are replaced by Ray, which repeats what they had not
    finished.

    Args:
        inputs: See `pna.cluster.items.find_inputs`. Files must be seen under the same path by all
            machines.
        model: Name or path of a model, as `pna.Predictor` takes it; each replica loads it.
        out: The folder of the results, seen by all machines, made if it is not there. An image's
            are OUT/ec/STEM-ec4a536d_labels.png, with `scores` also ..._scores.npz.
        address: Of a running cluster, such as "auto" or "ray://HOST:10001"; None starts Ray on this
            machine.
        replicas: Copies of the model.
        device: Where a replica runs; None takes its GPU where it has one.
        tiling: As for `Predictor`.
        scores: Also write the probabilities.
        batch_size: Images that a replica takes at a time; those of one size run together on a GPU.
        progress: Called before the first image and after each.

    Raises:
        MissingFileError: An input leads to nothing.
        PnaError: There is no such model; `out` holds results of another model, tiling or choice of
            scores; a Parquet file lacks the columns, or its names are not unique; the cluster
            cannot be reached, or has no room for a replica; the batch is below 1.
    """
    if batch_size < 1:
        raise PnaError(f"expected batches of at least 1 image, got {batch_size=}")
    ray = require("ray")
    begin = time.perf_counter()
    found_inputs, out = find_inputs(inputs), Path(out).absolute()
    # Here first: what is wrong with it comes as one clear error, not out of every worker.
    opened = open_model(model, device=find_device("cpu"))
    run = {"model": fingerprint(opened), "tiling": str(tiling), "scores": scores}
    is_new = read_run(out / RUN, run) is None
    with connected(ray, address):
        number, images = number_of(ray, replicas), create_dataset(found_inputs)
        if is_new:  # nothing is written where nothing could begin
            out.mkdir(parents=True, exist_ok=True)
            write_text_atomically(out / RUN, json.dumps({"run": run}, indent=1))
        rows = images.map_batches(
            Worker,
            fn_constructor_kwargs={
                "model": str(model),
                "out": str(out),
                "device": device or replicas.device,
                "tiling": tiling,
                "scores": scores,
                # On a CPU a batch is no faster and takes its memory.
                "batch_size": batch_size if replicas.gpus else 1,
            },
            batch_size=batch_size,
            batch_format="pyarrow",
            **pool(replicas, number),
        )
        counts = _write_manifest(rows.iter_rows(), out, found_inputs.total, progress)
    return ClusterReport(
        manifest=out / MANIFEST,
        errors=out / ERRORS if counts["failed"] else None,
        done=counts["done"],
        found=counts["found"],
        failed=counts["failed"],
        replicas=number,
        seconds=time.perf_counter() - begin,
    )


def _write_manifest(
    rows: Iterator[dict[str, Any]],
    out: Path,
    total: int | None,
    progress: Callable[[Progress], None],
) -> dict[str, int]:
    """Write a line for each row as it comes; return how many there are of each status."""
    counts = {"done": 0, "found": 0, "failed": 0}
    pace = Pace(total)
    progress(pace.after(0))

    def write(beside: Path) -> None:
        errors = beside.with_name(f"{beside.name}.errors")
        try:
            with beside.open("w", encoding="utf-8") as good, errors.open("w") as bad:
                for row in rows:
                    status = row.pop("status")
                    counts[status] += 1
                    (bad if status == "failed" else good).write(row["line"] + "\n")
                    progress(pace.after(sum(counts.values())))
            if counts["failed"]:
                errors.replace(out / ERRORS)
            else:
                (out / ERRORS).unlink(missing_ok=True)
        finally:
            errors.unlink(missing_ok=True)

    write_atomically(out / MANIFEST, write)
    return counts


@contextmanager
def connected(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start Ray here; leave one that the caller has connected to alone."""
    if ray.is_initialized():
        yield
        return
    # Where the output is no terminal, Ray Data would log its progress beside ours.
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    require("ray.data").DataContext.get_current().enable_progress_bars = False
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise PnaError(f"no Ray cluster at {address or 'this machine'}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def pool(replicas: Replicas, number: int) -> dict[str, Any]:
    """Return the arguments of Ray Data's `map_batches` for a pool of replicas."""
    return {
        "num_cpus": replicas.cpus,
        "num_gpus": replicas.gpus or None,
        "compute": require("ray.data").ActorPoolStrategy(min_size=1, max_size=number),
    }


def number_of(ray: Any, replicas: Replicas) -> int:
    """Return how many replicas the cluster has room for, at most the number asked for."""
    resources = ray.cluster_resources()
    room = int(resources.get("CPU", 0) // replicas.cpus)
    if replicas.gpus:
        room = min(room, int(resources.get("GPU", 0) / replicas.gpus))
    if room < 1:
        raise PnaError(
            f"a replica needs {replicas.cpus} CPUs and {replicas.gpus:g} GPUs, and the cluster has "
            f"{resources.get('CPU', 0):g} and {resources.get('GPU', 0):g}"
        )
    return room if replicas.number is None else min(room, replicas.number)


def read_manifest(out: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a run's manifest.

    Args:
        out: The folder of the results.
    """
    with (Path(out) / MANIFEST).open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
