"""Segment a video frame by frame, in bounded memory, and write it with the labels drawn in."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pna.data.images import UInt8Array
from pna.data.video import Video
from pna.errors import PnaError
from pna.files import write_atomically
from pna.inference.predictor import Predictor
from pna.inference.progress import Pace, Progress
from pna.inference.video.smoothing import Flicker, Smoother, is_steady
from pna.inference.video.write import VideoWriter, check_target, even
from pna.labels import LabelSpace


@dataclass(frozen=True, eq=False)
class LabeledFrame:
    """A frame and its labels.

    Attributes:
        number: From 0.
        seconds: Its time in the video.
        image: (H, W, 3) uint8 RGB, upright.
        labels: (H, W) uint8, the class of every pixel, smoothed if that is asked for.
        label_space: Names and colors of the classes.
    """

    number: int
    seconds: float
    image: UInt8Array
    labels: UInt8Array
    label_space: LabelSpace


@dataclass(frozen=True)
class VideoReport:
    """What a run wrote.

    Attributes:
        path: The written video.
        size: Height and width of its frames; even.
        num_frames: Number of its frames.
        num_damaged: Pieces of the read video that could not be decoded, most often a frame each.
        num_audio: Number of audio streams that were copied.
        pixels: Pixels of each class that occurs, over all frames, by name, most first.
        raw_flicker: Share of the pixels whose class changes from one frame to the next, among those
            whose color hardly changes; in the network's own labels.
        flicker: The same in the labels that were drawn; `raw_flicker` without smoothing.
        seconds: What the run took.
    """

    path: Path
    size: tuple[int, int]
    num_frames: int
    num_damaged: int
    num_audio: int
    pixels: dict[str, int]
    raw_flicker: float
    flicker: float
    seconds: float


def segment_video(
    predictor: Predictor,
    path: str | Path,
    out: str | Path,
    *,
    draw: Callable[[LabeledFrame], Image.Image | UInt8Array],
    smooth: float = 0.0,
    progress: Callable[[Progress], None] = lambda progress: None,
) -> VideoReport:
    """Segment each frame of a video, and write a video of what is drawn of it.

    Frames keep their times, variable rates too; audio is copied as it is. The result is H.264 in
    the colors of BT.709. It appears under its name only when it is complete. One frame is held at a
    time, and for smoothing the probabilities of one more, 4 K bytes a pixel.

    Args:
        predictor: The model, its device and tiling.
        path: The video.
        out: The file to write, NAME.mp4, .mov or .mkv; its folder is made if it is not there.
        draw: Called with each frame in turn; returns the image to write, of the frame's size,
            (H, W, 3) uint8 RGB. Where H or W is odd, the last row or column is written twice:
            H.264 for all players has even sides.
        smooth: Share of the past in an exponential average of the probabilities, in [0, 1), where
            the color does not change; see `pna.inference.video.smoothing`. 0 is off.
        progress: Called before the first frame and after each.

    Raises:
        MissingFileError: There is no such file.
        PnaError: PyAV is missing; the file cannot be read or has no frame; `out` has another
            ending, or is the video itself; `smooth` is out of range; or `draw` returns another
            size.

    Example:
        >>> import av
        >>> import pna
        >>> from tempfile import mkdtemp
        >>> from pna.draw import overlay
        >>> file = Path(mkdtemp()) / "clip.mp4"
        >>> with av.open(file, "w") as clip:
        ...     stream = clip.add_stream("mpeg4", rate=10, width=64, height=48)
        ...     for shade in (90, 100, 0):
        ...         image = np.full((48, 64, 3), shade, np.uint8)
        ...         clip.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        ...     clip.mux(stream.encode(None))
        >>> report = pna.segment_video(
        ...     pna.Predictor("voc-lite", device="cpu"),
        ...     file,
        ...     file.with_name("clip_overlay.mp4"),
        ...     draw=lambda frame: overlay(frame.image, frame.labels, frame.label_space),
        ...     smooth=0.6,
        ... )
        >>> report.path.name, report.size, report.num_frames
        ('clip_overlay.mp4', (48, 64), 3)
    """
    begin = time.perf_counter()
    path, out = Path(path), Path(out)
    check_target(out)
    if not 0 <= smooth < 1:  # false for NaN, too
        raise PnaError(f"expected smooth in [0, 1), got {smooth}: 1 would keep the first frame")
    if out.resolve() == path.resolve():
        raise PnaError(f"{out} is the video itself: choose another name for the result")
    space = predictor.model.labels
    counts = _Counts(space.num_classes)
    smoother = Smoother(smooth) if smooth else None
    num_audio = 0

    def write(beside: Path) -> None:
        nonlocal num_audio
        pace = Pace(video.num_frames)
        progress(pace.after(0))
        with VideoWriter(beside, video) as writer:
            num_audio = writer.num_audio
            for number, (image, pts) in enumerate(video.frames(writer.copy)):
                prediction = predictor(image, scores=smoother is not None)
                labels = prediction.labels
                if smoother is not None:
                    assert prediction.scores is not None
                    labels = smoother(image, prediction.scores)
                counts.add(image, prediction.labels, labels)
                seconds = float(pts * video.time_base)
                frame = LabeledFrame(number, seconds, image, labels, space)
                writer.add(_check(draw(frame), frame), pts)
                progress(pace.after(number + 1))
            writer.finish()

    with Video(path) as video:
        height, width = video.size
        if (even(height), even(width)) != video.size:
            warnings.warn(
                f"{path} has {width} x {height} pixels, and H.264 has even sides: the last row or "
                f"column is written twice, {even(width)} x {even(height)}",
                stacklevel=2,
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, write)
    order = [int(c) for c in np.argsort(-counts.pixels, kind="stable") if counts.pixels[c]]
    return VideoReport(
        path=out,
        size=(even(height), even(width)),
        num_frames=counts.num_frames,
        num_damaged=video.num_damaged,
        num_audio=num_audio,
        pixels={space.classes[c]: int(counts.pixels[c]) for c in order},
        raw_flicker=counts.raw_flicker.share,
        flicker=counts.flicker.share,
        seconds=time.perf_counter() - begin,
    )


class _Counts:
    """What is counted on the way; holds one frame, to compare the next one with it."""

    def __init__(self, num_classes: int) -> None:
        self.num_frames = 0
        self.pixels = np.zeros(num_classes, np.int64)
        self.raw_flicker, self.flicker = Flicker(), Flicker()
        self._before: tuple[UInt8Array, UInt8Array, UInt8Array] | None = None

    def add(self, image: UInt8Array, raw: UInt8Array, labels: UInt8Array) -> None:
        """Count a frame (H, W, 3), the network's labels (H, W), and those that are drawn."""
        self.num_frames += 1
        self.pixels += np.bincount(labels.ravel(), minlength=len(self.pixels))
        if self._before is not None:
            steady = is_steady(image, self._before[0])
            self.raw_flicker.add(raw, self._before[1], steady)
            self.flicker.add(labels, self._before[2], steady)
        self._before = image, raw, labels


def _check(drawn: Image.Image | UInt8Array, frame: LabeledFrame) -> UInt8Array:
    image = np.asarray(drawn)
    if image.shape != frame.image.shape or image.dtype != np.uint8:
        raise PnaError(
            f"expected draw to return an image of shape {frame.image.shape} of uint8, got shape "
            f"{image.shape} of {image.dtype}"
        )
    return image
