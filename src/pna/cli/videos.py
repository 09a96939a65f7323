"""Videos on the command line: which files they are, their options and results."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from pna.cli.progress import ProgressLine
from pna.errors import PnaError

if TYPE_CHECKING:
    from PIL import Image

    from pna.inference.predictor import Predictor
    from pna.inference.video.run import LabeledFrame, VideoReport

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v")
"""Endings by which a file is taken for a video."""

_REASONS = {
    "stages": "would be a second video: take frames out as images",
    "similar": "is for one image: take the frame out as an image",
    "scores": "would take 4 bytes for each class, pixel and frame: take frames out as images, or "
    "pna.Predictor in Python",
    "memory": "is for rasters, which have no limit in size; --tile bounds the memory of a frame",
    "bands": "is for rasters: frames are red, green and blue",
    "scale": "is for rasters: frames have 8 bits",
    "polygons": "is for rasters: --frames writes label maps of the frames",
}


def add_video_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--smooth` and `--frames`."""
    group = parser.add_argument_group(
        "videos",
        f"Files ending in {', '.join(VIDEO_SUFFIXES)}. NAME_overlay.mp4 has the frames with the "
        "classes laid over them at their times, and the audio.",
    )
    group.add_argument(
        "--smooth",
        type=_parse_share,
        metavar="SHARE",
        help="average the probabilities over frames, with this share of the past in [0, 1) where "
        "the color does not change, such as 0.8 (default: off)",
    )
    group.add_argument(
        "--frames",
        action="store_true",
        help="also write the label map of each frame: NAME_labels/000000.png and so on",
    )


def is_video(path: Path) -> bool:
    """Return whether a file is a video, by its ending."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def check_video_options(args: argparse.Namespace, videos: Sequence[Path]) -> None:
    """Refuse options that make no sense for videos, or without one; and a missing PyAV.

    Raises:
        PnaError: One of them is given, or PyAV is missing.
    """
    from pna.extras import require

    if not videos:
        # Silently ignored, they would leave the user with something else than was asked for.
        for name in ("smooth", "frames"):
            if getattr(args, name):
                raise PnaError(
                    f"--{name} is for videos, and there is none: expected a file ending in "
                    f"{', '.join(VIDEO_SUFFIXES)}"
                )
        return
    for name, reason in _REASONS.items():
        if getattr(args, name):
            raise PnaError(f"--{name} is not for videos such as {videos[0]}: it {reason}")
    require("av")


def segment_clip(
    predictor: "Predictor", path: Path, out: Path, *, smooth: float, frames: bool
) -> "VideoReport":
    """Write NAME_overlay.mp4, and the folder NAME_labels if it is asked for.

    Args:
        predictor: The model, its device and tiling.
        path: The video.
        out: The folder of the results.
        smooth: As in `segment_video`.
        frames: Also write the label maps of the frames.
    """
    from pna.draw import overlay, save_labels
    from pna.files import replacing_files
    from pna.inference.video.run import segment_video

    with ExitStack() as stack:
        progress = stack.enter_context(ProgressLine(path.name, "frames"))
        folder: Path | None = None

        def draw(frame: "LabeledFrame") -> "Image.Image":
            nonlocal folder
            if frames:
                if folder is None:  # not before a frame is there: a damaged video makes no folder
                    folder = stack.enter_context(replacing_files(out / f"{path.stem}_labels"))
                save_labels(frame.labels, frame.label_space, folder / f"{frame.number:06d}.png")
            return overlay(frame.image, frame.labels, frame.label_space)

        return segment_video(
            predictor,
            path,
            out / f"{path.stem}_overlay.mp4",
            draw=draw,
            smooth=smooth,
            progress=progress,
        )


def describe_clip(report: "VideoReport") -> str:
    """Return size, length, largest classes and flicker."""
    height, width = report.size
    total = sum(report.pixels.values())
    shares = [f"{name} {100 * n / total:.0f} %" for name, n in list(report.pixels.items())[:4]]
    text = ", ".join([f"{width} x {height}", f"{report.num_frames} frames", *shares])
    text += f"; flicker {100 * report.raw_flicker:.2f} %"
    if report.flicker != report.raw_flicker:
        text += f", smoothed {100 * report.flicker:.2f} %"
    if report.num_damaged:
        text += f"; {report.num_damaged} damaged frames left out"
    return text


def _parse_share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise argparse.ArgumentTypeError(f"expected a share in [0, 1), such as 0.8; got {text!r}")
    return share
