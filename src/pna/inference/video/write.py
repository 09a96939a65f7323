"""The written video: H.264 from frames with their times, and the audio as it was."""

import contextlib
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from pna.data.images import UInt8Array
from pna.data.video import Video
from pna.errors import PnaError
from pna.extras import require

SUFFIXES = (".mp4", ".mov", ".mkv")
"""Endings of files that hold H.264 and the time of each frame."""

_BEST, _FALLBACK = "libx264", "mpeg4"
_OPTIONS = {
    _BEST: {"crf": "18"},  # hardly to be told from the original, by x264's own scale
    _FALLBACK: {"flags": "+qscale", "global_quality": str(3 * 118)},  # 3 of 31; 118 is its unit
}
# MPEG-4's limit on the units in a second; with it, times are within 8 microseconds.
_FALLBACK_UNITS = 65535
_BT709 = 1  # FFmpeg's number for it, as a color space, as primaries and as a transfer curve
_LIMITED_RANGE = 1


def even(side: int) -> int:
    """Round a side up to an even number: colors are stored at half the resolution."""
    return side + side % 2


class VideoWriter:
    """A video file under way; a context that closes it.

    Args:
        path: The file; its ending is one of `SUFFIXES`.
        video: The video that the frames and the audio come from: gives size, times and streams.

    Attributes:
        codec: FFmpeg's name of the encoder.
        num_audio: Number of audio streams that are copied.
    """

    def __init__(self, path: Path, video: Video) -> None:
        self._av = require("av")
        self._path, self._video = path, video
        self.codec = _BEST if _BEST in self._av.codecs_available else _FALLBACK
        if self.codec != _BEST:
            warnings.warn(
                f"this PyAV has no {_BEST}: the overlay of {video.path} is written as MPEG-4 "
                "part 2, which takes more space; PyAV's wheels from PyPI have it",
                stacklevel=2,
            )
        self._units = video.time_base
        if self.codec == _FALLBACK and self._units.denominator > _FALLBACK_UNITS:
            self._units = Fraction(1, _FALLBACK_UNITS)
        self._last: int | None = None
        try:
            self._start(video.audio)
        except self._av.FFmpegError:
            if not video.audio:
                raise
            # That the container refuses a stream may come out only with its header.
            self._file.close()
            self._start([])
        if len(self._audio) < len(video.audio):
            lost = [s for s in video.audio if s.index not in self._audio]
            codecs = ", ".join(s.codec_context.name if s.codec_context else "?" for s in lost)
            warnings.warn(
                f"audio of {video.path} is left out: {path.suffix} files cannot hold its codec "
                f"({codecs}); convert it to AAC first to keep it",
                stacklevel=2,
            )
        self.num_audio = len(self._audio)

    def _start(self, audio: Sequence[Any]) -> None:
        # MP4 keeps the start of a stream in these units, by default in milliseconds.
        units = {"movie_timescale": str(self._units.denominator)}
        options = {} if self._path.suffix.lower() == ".mkv" else units
        self._file = self._av.open(f"file:{self._path}", "w", options=options)
        height, width = map(even, self._video.size)
        stream = self._file.add_stream(
            self.codec, rate=self._video.rate, options=_OPTIONS[self.codec]
        )
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        self._stream, context = stream, stream.codec_context
        context.time_base = self._units
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED_RANGE
        if self._video.pixel_aspect is not None:
            context.sample_aspect_ratio = self._video.pixel_aspect
        self._audio: dict[int, Any] = {}  # by the index in the video
        for source in audio:
            with contextlib.suppress(ValueError):  # a codec that the container cannot hold
                copy = self._audio[source.index] = self._file.add_stream_from_template(source)
                if source.language:
                    copy.metadata["language"] = source.language
        self._file.start_encoding()

    def add(self, image: UInt8Array, pts: int) -> None:
        """Encode a frame.

        Args:
            image: (H, W, 3) uint8 RGB of the video's size. A last row and column are repeated
                where H and W are odd.
            pts: Its time in units of the video's `time_base`, larger than that of the frame before.
        """
        height, width = image.shape[:2]
        padding = (0, even(height) - height), (0, even(width) - width), (0, 0)
        frame = self._av.VideoFrame.from_ndarray(np.pad(image, padding, mode="edge"))
        # FFmpeg takes BT.601 unless it is told: players take BT.709 for anything large.
        frame = frame.reformat(
            format="yuv420p", dst_colorspace="itu709", dst_color_range=_LIMITED_RANGE
        )
        time = round(pts * self._video.time_base / self._units)
        if self._last is not None:  # two times may be one in coarser units
            time = max(time, self._last + 1)
        frame.pts, frame.time_base = time, self._units
        self._last = time
        self._file.mux(self._stream.encode(frame))

    def copy(self, packet: Any) -> None:
        """Copy one of PyAV's audio packets as it is."""
        stream = self._audio.get(packet.stream_index)
        if stream is None or packet.dts is None:  # left out, or the mark of the stream's end
            return
        packet.stream = stream
        self._file.mux(packet)

    def finish(self) -> None:
        """Write what the encoder still holds, and the index of the file."""
        self._file.mux(self._stream.encode(None))
        self._file.close()

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(self._av.FFmpegError):  # of a file that is given up
            self._file.close()


def check_target(path: Path) -> None:
    """Refuse a file whose ending is none of `SUFFIXES`.

    Raises:
        PnaError: It is another one.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise PnaError(
            f"{path}: expected the name of a video to end in {', '.join(SUFFIXES)}, got "
            f"{path.suffix!r}"
        )
