"""Small videos for tests, written by PyAV."""

import struct
from fractions import Fraction

import av
import numpy as np

MILLISECONDS = Fraction(1, 1000)
ONE = 1 << 16
MATRICES = {  # a, b, c, d of a display matrix: x' = a x + c y, y' = b x + d y
    "as it is": (ONE, 0, 0, ONE),
    "a quarter clockwise": (0, ONE, -ONE, 0),
    "upside down": (-ONE, 0, 0, -ONE),
    "a quarter counterclockwise": (0, -ONE, ONE, 0),
    "mirrored": (-ONE, 0, 0, ONE),
    "mirrored, upside down": (ONE, 0, 0, -ONE),
    "transposed": (0, ONE, ONE, 0),
    "transposed the other way": (0, -ONE, -ONE, 0),
}


def write_video(
    path,
    images,
    *,
    times=None,
    units=MILLISECONDS,
    codec=None,
    audio=(),
    aspect=None,
    container=None,
):
    """Write images (H, W, 3) at times in `units`; by default without loss, ten a second.

    `audio` names the encoders of audio streams, a second of a tone each; `container` holds
    FFmpeg's options for the file.
    """
    times = (
        [round(number / 10 / units) for number in range(len(images))] if times is None else times
    )
    height, width = images[0].shape[:2]
    codec = codec or ("ffv1" if path.suffix == ".mkv" else "png")
    with av.open(str(path), "w", options=container) as file:
        stream = file.add_stream(codec, rate=10)
        stream.width, stream.height = width, height
        stream.pix_fmt = {"png": "rgb24", "ffv1": "bgr0"}.get(codec, "yuv420p")
        stream.codec_context.time_base = units
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        sounds = [add_audio(file, name) for name in audio]
        for image, time in zip(images, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image)
            frame.pts, frame.time_base = time, units
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        for sound in sounds:
            write_tone(file, sound)
    return path


def add_audio(file, codec, rate=48000):
    stream = file.add_stream(codec, rate=rate)
    stream.codec_context.layout = "mono"
    stream.metadata["language"] = "deu"
    return stream


def write_tone(file, stream, rate=48000):
    tone = (8000 * np.sin(np.arange(rate) / 9)).astype(np.int16)[None]
    for start in range(0, rate, 960):
        frame = av.AudioFrame.from_ndarray(tone[:, start : start + 960], "s16", "mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
        file.mux(stream.encode(frame))
    file.mux(stream.encode(None))


def write_audio(path, codec="aac"):
    """Write a file with audio alone."""
    with av.open(str(path), "w") as file:
        write_tone(file, add_audio(file, codec))
    return path


def set_matrix(path, matrix):
    """Write a display matrix into an MP4 file, as phones do."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44  # ISO/IEC 14496-12, 8.3.2
    a, b, c, d = matrix
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def packets(path, kind="video"):
    """Return (seconds, bytes) of the packets of a stream."""
    with av.open(str(path)) as file:
        stream = getattr(file.streams, kind)[0]
        return [
            (float(p.pts * p.time_base), bytes(p)) for p in file.demux(stream) if p.dts is not None
        ]


def places(path):
    """Return where the packets of the video lie in the file: (position, size)."""
    with av.open(str(path)) as file:
        return [(p.pos, p.size) for p in file.demux(video=0) if p.size]


def frames(path):
    """Return (seconds, image) of the frames, as PyAV decodes them."""
    with av.open(str(path)) as file:
        return [
            (float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in file.decode(video=0)
        ]


def shades(number, size=(32, 48), seed=0):
    """Return images of large areas of random colors, each frame others."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (number, -(-size[0] // 8), -(-size[1] // 8), 3), dtype=np.uint8)
    return list(small.repeat(8, axis=1).repeat(8, axis=2)[:, : size[0], : size[1]])
