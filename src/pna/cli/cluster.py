"""`pna segment --engine ray`: many images, and rasters, on many machines."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pna.cli.batch import run_each
from pna.cli.options import load_model, tiling_of
from pna.cli.progress import ProgressLine
from pna.cli.rasters import describe_report, is_raster, raster_options, write_preview
from pna.cli.videos import is_video
from pna.errors import PnaError

if TYPE_CHECKING:
    from pna.cluster.run import Replicas


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--engine`, `--address`, `--replicas`, `--cpus` and `--gpus`."""
    group = parser.add_argument_group(
        "clusters",
        "With --engine ray, inputs may also be Parquet files (columns name and bytes, or "
        "image_path), WebDataset's shards (.tar) and lists (.txt, a path a line).",
    )
    group.add_argument(
        "--engine", choices=("ray",), help="distribute images, and blocks of rasters, by Ray"
    )
    group.add_argument(
        "--address",
        help="a running cluster, such as auto or ray://HOST:10001 (default: start Ray here)",
    )
    group.add_argument(
        "--replicas", type=int, metavar="N", help="copies of the model (default: all that fit)"
    )
    group.add_argument("--cpus", type=int, metavar="N", help="cores of a replica (default: 1)")
    group.add_argument("--gpus", type=float, metavar="N", help="GPUs of a replica (default: 0)")


def check_cluster_arguments(args: argparse.Namespace) -> None:
    """Refuse arguments that do not go together.

    Raises:
        PnaError: Options of a cluster without one, or options that a cluster does not have.
    """
    names = ["address", "replicas", "cpus", "gpus"]
    why = "is for --engine ray"
    if args.engine is not None:
        names = ["stages", "similar", "smooth", "frames"]
        why = "is not for --engine ray, which segments images and rasters"
    for name in names:
        if getattr(args, name) not in (None, False):
            raise PnaError(f"--{name} {why}")
    if args.engine is not None and (videos := [t for t in args.paths if is_video(Path(t))]):
        raise PnaError(f"{videos[0]}: videos are not for --engine ray: leave it out")


def run_on_cluster(args: argparse.Namespace) -> int:
    """Segment all inputs; 0 if all went well, 1 if some failed."""
    from pna.cluster.run import Replicas

    options = raster_options(args)
    # Of folders, patterns and lists files are images: opening millions to look takes hours.
    rasters = [
        path
        for path in map(Path, args.paths)
        if path.is_file()
        and path.suffix.lower() not in (".txt", ".parquet", ".tar")
        and (options or is_raster(path))
    ]
    others = [text for text in args.paths if Path(text) not in rasters]
    if options and others:
        given = ", ".join(f"--{name}" for name in options)
        raise PnaError(f"{given}: expected rasters that are named themselves, got {others[0]}")
    replicas = Replicas(args.replicas, args.cpus or 1, args.gpus or 0)
    status = _segment_rasters(args, rasters, replicas, options) if rasters else 0
    return max(status, _segment_images(args, others, replicas) if others else 0)


def _segment_rasters(
    args: argparse.Namespace, rasters: list[Path], replicas: "Replicas", options: dict[str, Any]
) -> int:
    from pna.cluster.rasters import segment_raster_on_cluster

    model = load_model(args)

    def segment(path: Path) -> str:
        with ProgressLine(path.name, "blocks") as progress:
            report = segment_raster_on_cluster(
                args.model,
                path,
                args.out,
                address=args.address,
                replicas=replicas,
                device=args.device,
                tiling=tiling_of(args),
                scores=args.scores,
                progress=progress,
                **options,
            )
        write_preview(report, path, model, args.bands, args.scale)
        return describe_report(report)

    return run_each(rasters, segment, noun="rasters", debug=args.debug)


def _segment_images(args: argparse.Namespace, inputs: list[str], replicas: "Replicas") -> int:
    from pna.cluster.run import segment_images

    with ProgressLine(str(args.out), "images") as progress:
        report = segment_images(
            inputs,
            args.model,
            args.out,
            address=args.address,
            replicas=replicas,
            device=args.device,
            tiling=tiling_of(args),
            scores=args.scores,
            batch_size=16 if args.batch is None else args.batch,
            progress=progress,
        )
    print(
        f"{report.done} images segmented by at most {report.replicas} replicas in "
        f"{report.seconds:.0f} s ({report.images_per_second:.1f} a second), {report.found} were "
        f"there already, {report.failed} failed: {report.manifest}"
    )
    if report.errors is not None:
        print(f"the errors are in {report.errors}", file=sys.stderr)
    return 1 if report.failed else 0
