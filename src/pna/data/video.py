"""Videos: frame after frame, upright and with their times.

FFmpeg decodes them, by PyAV (`pip install "pna[video]"`).

| in the file | becomes |
|---|---|
| any pixel format, limited or full range | 8-bit RGB, by the color space that the file names |
| rotation and mirroring, as phones write them | applied |
| several video streams | the first that is no cover picture |
| a frame of another size | resized to the first one's |
| a frame without a time, or not later than the one before | one average step after that one |
| data that cannot be decoded | left out, and counted |
"""

import contextlib
from collections.abc import Callable, Generator, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pna.data.images import UInt8Array
from pna.errors import MissingFileError, PnaError
from pna.extras import require

_ANY_RATE = Fraction(25)


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        image: (H, W, 3) uint8 RGB, upright.
        pts: Its time in units of the video's `time_base`; larger than that of the frame before.
    """

    image: UInt8Array
    pts: int


class Video:
    """A file that is read frame by frame, once.

    Args:
        path: The file.

    Attributes:
        path: The file.
        size: Height and width of the upright frames.
        time_base: Seconds in a unit of time.
        rate: Frames a second, on average.
        num_frames: Number of frames by the file's header, which may be wrong; None if it has none.
        pixel_aspect: Width of an upright pixel by its height; None if the file has none.
        audio: PyAV's audio streams.
        num_damaged: Pieces of the video that could not be decoded so far.

    Raises:
        MissingFileError: There is no such file.
        PnaError: PyAV is missing; the file is no video, is damaged, or has no frame.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._av = require("av")
        if not path.is_file():
            raise MissingFileError(f"no video at {path}")
        self._coded_size: tuple[int, int] | None = None
        self._is_transposed = False
        self._open()
        try:
            # Only frames hold the rotation, and thereby the upright size; so one is decoded ahead.
            with contextlib.closing(self.frames()) as frames:
                first = next(frames, None)
        finally:
            self.close()
        if first is None:
            raise PnaError(
                f"{path} has no frame that can be decoded: it is damaged, was cut off, or has a "
                "codec that this FFmpeg lacks; if other programs play it, convert it by them"
            )
        self.size: tuple[int, int] = first.image.shape[0], first.image.shape[1]
        self._open()

    def _open(self) -> None:
        # The protocol is named: FFmpeg would take the beginning of "a:b.mp4" for another one.
        with _naming(self.path, self._av):
            self._file = self._av.open(f"file:{self.path}")
        # The picture of a cover is a stream of one frame.
        cover = self._av.stream.Disposition.attached_pic
        streams = [s for s in self._file.streams.video if not s.disposition & cover]
        if not streams:
            found = ", ".join(sorted({s.type for s in self._file.streams})) or "nothing"
            self.close()
            raise PnaError(
                f"{self.path} holds no video: expected a stream of frames, got {found}; a file "
                "that was cut off may have lost its index"
            )
        stream = self._stream = streams[0]
        self.audio = list(self._file.streams.audio)
        self.time_base: Fraction = stream.time_base
        self.rate: Fraction = stream.average_rate or stream.guessed_rate or _ANY_RATE
        self.num_frames: int | None = stream.frames or self._frames_by_duration()
        aspect: Fraction | None = stream.sample_aspect_ratio
        self.pixel_aspect = 1 / aspect if aspect and self._is_transposed else aspect
        self.num_damaged = 0

    def _frames_by_duration(self) -> int | None:
        duration = self._file.duration  # in microseconds
        return round(self.rate * duration / self._av.time_base) or None if duration else None

    def __enter__(self) -> "Video":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def frames(
        self, on_audio: Callable[[Any], None] = lambda packet: None
    ) -> Generator[Frame, None, None]:
        """Yield the frames in the order of their times.

        Args:
            on_audio: Called with each of PyAV's audio packets, in the order of the file.
        """
        last: int | None = None
        step = max(1, round(1 / (self.rate * self.time_base)))
        for packet in self._packets():
            if packet.stream_index != self._stream.index:
                on_audio(packet)
                continue
            for frame in self._decode(packet):
                pts = frame.pts
                if last is not None and (pts is None or pts <= last):
                    pts = last + step
                last = pts or 0
                yield Frame(self._upright(frame), last)

    def _packets(self) -> Iterator[Any]:
        try:
            yield from self._file.demux(self._stream, *self.audio)
        except self._av.FFmpegError:  # the rest of the file cannot be read
            self.num_damaged += 1

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return list(packet.decode())
        except self._av.FFmpegError:
            self.num_damaged += 1
            return []

    def _upright(self, frame: Any) -> UInt8Array:
        if self._coded_size is None:
            self._coded_size = frame.height, frame.width
        height, width = self._coded_size
        image: UInt8Array = frame.to_ndarray(format="rgb24", width=width, height=height)
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return image
        # x' = a x + c y and y' = b x + d y, in 16.16 fixed point, x to the right and y down.
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
        self._is_transposed = abs(b) > abs(a)
        if self._is_transposed:
            image, a, d = image.transpose(1, 0, 2), c, b
        return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


@contextlib.contextmanager
def _naming(path: Path, av: Any) -> Iterator[None]:
    """Turn FFmpeg's errors into ours, with the file's name."""
    try:
        yield
    except av.FFmpegError as error:
        raise PnaError(f"{path} cannot be read as a video: {error.strerror}") from error
