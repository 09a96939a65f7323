"""`pna segment`: label maps and overlays of images, rasters and videos."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pna.cli.batch import check_names, find_images, in_order, report_left_out, run_each
from pna.cli.cluster import add_cluster_arguments, check_cluster_arguments, run_on_cluster
from pna.cli.options import add_device_argument, add_tiling_arguments, load_model, tiling_of
from pna.cli.progress import ProgressLine
from pna.cli.rasters import (
    add_raster_arguments,
    describe_report,
    is_raster,
    raster_options,
    refuse_with_rasters,
    write_preview,
)
from pna.cli.videos import (
    VIDEO_SUFFIXES,
    add_video_arguments,
    check_video_options,
    describe_clip,
    is_video,
    segment_clip,
)

if TYPE_CHECKING:
    from pna.inference.predictor import Prediction

EPILOG = """\
examples:
  pna segment photo.jpg -o out
  pna segment photos/ --model voc-lite --stages --similar 318,170 -o out
  pna segment 'tiles/*.png' --model runs/own/model --tile 1024,1024 -o out
  pna segment scene.tif --model runs/own/model --memory 4GB --polygons gpkg -o out
  pna segment clip.mp4 --smooth 0.8 -o out
  pna segment list.txt --model /shared/model --engine ray --address auto -o /shared/out
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="images, videos, folders (without the folders inside) or quoted patterns such as "
        "'photos/*.jpg'",
    )
    parser.add_argument(
        "--model",
        default="voc-lite",
        help="a bundled model's name, a saved model's folder, or an .onnx file of `pna export` "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="folder for the results, made if missing"
    )
    parser.add_argument(
        "--stages", action="store_true", help="also write NAME_stages.png: P0 to Pn side by side"
    )
    parser.add_argument(
        "--similar",
        type=parse_point,
        metavar="X,Y",
        help="also write NAME_similar.png: the neighborhood weights of this pixel at each stage; "
        "0,0 is at the top left",
    )
    parser.add_argument(
        "--scores",
        action="store_true",
        help="also write NAME_scores.npz: `scores`, float16 probabilities (classes, height, "
        "width), and `classes`, their names; of a raster NAME_scores.tif, a band for each class",
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="images of one size that run together (default: 1; on a CPU more are no faster); with "
        "--engine ray, images that a replica takes at a time, run together on a GPU (default: 16)",
    )
    add_device_argument(parser)
    add_tiling_arguments(parser)
    add_raster_arguments(parser)
    add_video_arguments(parser)
    add_cluster_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment the files; 0 if all went well, 1 if some could not be segmented."""
    check_cluster_arguments(args)
    return _run_here(args) if args.engine is None else run_on_cluster(args)


def _run_here(args: argparse.Namespace) -> int:
    from pna.data.pairs import IMAGE_SUFFIXES
    from pna.inference.predictor import ImageTooLargeError, Predictor
    from pna.inference.raster.run import segment_raster

    # All names are checked before the model is read: hours later an overwrite would be too late.
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    paths, skipped = find_images(args.paths, suffixes)
    videos = [path for path in paths if is_video(path)]
    images = [path for path in paths if not is_video(path)]
    check_names(images, args.out, endings=("_labels.png",), verb="segment", noun="image")
    check_names(videos, args.out, endings=("_overlay.mp4",), verb="segment", noun="video")
    report_left_out(skipped, suffixes)
    tiling, options = tiling_of(args), raster_options(args)
    check_video_options(args, videos)
    rasters = set(images) if options else {path for path in images if is_raster(path)}
    if rasters:
        refuse_with_rasters(args, ("stages", "similar"))
    batch_size = 1 if args.batch is None else args.batch
    predictor = Predictor(
        load_model(args), device=args.device, tiling=tiling, batch_size=batch_size
    )
    args.out.mkdir(parents=True, exist_ok=True)

    def segment_large(path: Path) -> str:
        with ProgressLine(path.name, "blocks") as progress:
            report = segment_raster(
                predictor.model,
                path,
                args.out,
                device=args.device,
                tiling=tiling,
                scores=args.scores,
                progress=progress,
                **options,
            )
        write_preview(report, path, predictor.model, args.bands, args.scale)
        return describe_report(report)

    photos = [path for path in images if path not in rasters]
    results = in_order(
        predictor.each(photos, stages=args.stages, similar=args.similar, scores=args.scores)
    )

    def segment(path: Path) -> str:
        if is_video(path):
            smooth = args.smooth or 0.0
            report = segment_clip(predictor, path, args.out, smooth=smooth, frames=args.frames)
            return describe_clip(report)
        if path in rasters:
            return segment_large(path)
        result = next(results)
        if isinstance(result, Exception):
            raise result
        write_results(result, args.out, path.stem, point=args.similar)
        return describe(result)

    def hint(error: Exception) -> str:
        is_large = isinstance(error, ImageTooLargeError) and args.similar is None
        return "; on the command line: --tile 512,512" if is_large else ""

    noun = "files" if videos else "images"
    return run_each(paths, segment, noun=noun, debug=args.debug, hint=hint)


def write_results(
    prediction: "Prediction", out: Path, stem: str, *, point: tuple[int, int] | None = None
) -> None:
    """Write STEM_labels.png and STEM_overlay.png, and a file for whatever else was asked for.

    Args:
        prediction: From a `Predictor`.
        out: An existing folder.
        stem: Beginning of the files' names.
        point: The pixel (x, y) of the prediction's similarity.
    """
    from pna.draw import overlay, save_labels, similarity_figure, strip, write_image

    image, space = prediction.image, prediction.label_space
    save_labels(prediction.labels, space, out / f"{stem}_labels.png")
    write_image(overlay(image, prediction.labels, space), out / f"{stem}_overlay.png")
    if prediction.stages:
        panels = [(f"P{stage}", labels) for stage, labels in enumerate(prediction.stages)]
        write_image(strip(image, panels, space), out / f"{stem}_stages.png")
    if prediction.similarity is not None:
        assert point is not None
        figure = similarity_figure(image, point, prediction.similarity)
        write_image(figure, out / f"{stem}_similar.png")
    if prediction.scores is not None:
        prediction.save_scores(out / f"{stem}_scores.npz")


def describe(prediction: "Prediction") -> str:
    """Return size and largest classes, for example "500 x 375, background 81 %, horse 19 %"."""
    import numpy as np

    from pna.draw.palette import count_labels

    height, width = prediction.labels.shape
    counts = count_labels(prediction.labels)  # (256,)
    largest = [int(c) for c in np.argsort(-counts, kind="stable")[:4] if counts[c]]
    shares = [
        f"{prediction.label_space.classes[c]} {100 * counts[c] / prediction.labels.size:.0f} %"
        for c in largest
    ]
    return ", ".join([f"{width} x {height}", *shares])


def parse_point(text: str) -> tuple[int, int]:
    """Read "X,Y" as a pixel."""
    try:
        x, y = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a pixel as X,Y, for example 120,80; got {text!r}"
        ) from None
    return x, y
