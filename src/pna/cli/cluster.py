"""`pna segment --engine ray`: many images on many machines."""

import argparse
import sys
from pathlib import Path

from pna.cli.options import tiling_of
from pna.errors import PnaError


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--engine`, `--address`, `--replicas`, `--cpus`, `--gpus` and `--batch`."""
    group = parser.add_argument_group(
        "clusters",
        "With --engine ray, inputs may also be Parquet files (columns name and bytes, or "
        "image_path), WebDataset's shards (.tar) and lists (.txt, a path a line).",
    )
    group.add_argument("--engine", choices=("ray",), help="distribute the images by Ray")
    group.add_argument(
        "--address",
        help="a running cluster, such as auto or ray://HOST:10001 (default: start Ray here)",
    )
    group.add_argument(
        "--replicas", type=int, metavar="N", help="copies of the model (default: all that fit)"
    )
    group.add_argument("--cpus", type=int, metavar="N", help="cores of a replica (default: 1)")
    group.add_argument("--gpus", type=float, metavar="N", help="GPUs of a replica (default: 0)")
    group.add_argument(
        "--batch", type=int, metavar="N", help="images that a replica takes at a time (default: 16)"
    )


def check_cluster_arguments(args: argparse.Namespace) -> None:
    """Refuse arguments that do not go together.

    Raises:
        PnaError: Options of a cluster without one, or options that a cluster does not have.
    """
    names = ["address", "replicas", "cpus", "gpus", "batch"]
    why = "is for --engine ray"
    if args.engine is not None:
        names = ["stages", "similar", "memory", "bands", "scale", "polygons", "smooth", "frames"]
        why = "is not for --engine ray, which writes the label maps of images, and --scores"
    for name in names:
        if getattr(args, name) not in (None, False):
            raise PnaError(f"--{name} {why}")


def run_on_cluster(args: argparse.Namespace) -> int:
    """Segment all inputs; 0 if all went well, 1 if some failed."""
    from pna.cluster.run import Count, Replicas, segment_images

    replicas = Replicas(args.replicas, args.cpus or 1, args.gpus or 0)
    is_terminal = sys.stderr.isatty()

    def show(count: Count) -> None:
        if is_terminal or count.finished % 1000 == 0:
            of = "" if count.total is None else f" of {count.total}"
            end = "" if is_terminal else "\n"
            print(f"\r{count.finished}{of} images", end=end, file=sys.stderr, flush=True)

    report = segment_images(
        args.paths,
        args.model,
        args.out,
        address=args.address,
        replicas=replicas,
        device=args.device,
        tiling=tiling_of(args),
        scores=args.scores,
        batch_size=args.batch or 16,
        progress=show,
    )
    if is_terminal:
        print(file=sys.stderr)
    print(
        f"{report.done} images segmented by {report.replicas} replicas in {report.seconds:.0f} s "
        f"({report.images_per_second:.1f} a second), {report.found} were there already, "
        f"{report.failed} failed: {Path(report.manifest)}"
    )
    if report.errors is not None:
        print(f"the errors are in {report.errors}", file=sys.stderr)
    return 1 if report.failed else 0
