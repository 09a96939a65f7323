"""Videos: upright frames, their times, and damaged files."""

import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from pna.data.video import Video
from pna.errors import MissingFileError, PnaError
from videos import MATRICES, places, set_matrix, shades, write_audio, write_video


def read(path):
    with Video(path) as video:
        return list(video.frames()), video


class TestFrames:
    @pytest.mark.parametrize("ending", ["mov", "mkv", "mp4"])
    def test_images_and_times_are_those_that_were_written(self, tmp_path, ending):
        images, times = shades(4), [0, 40, 100, 1130]
        path = write_video(tmp_path / f"clip.{ending}", images, times=times)
        frames, video = read(path)
        for frame, image in zip(frames, images, strict=True):
            np.testing.assert_array_equal(frame.image, image)
        assert [1000 * f.pts * video.time_base for f in frames] == times
        assert video.size == (32, 48)
        assert video.num_damaged == 0

    def test_what_the_header_says(self, tmp_path):
        _, video = read(write_video(tmp_path / "clip.mov", shades(5)))
        assert video.num_frames == 5
        assert video.rate == 10
        assert video.pixel_aspect in (None, 1)
        _, video = read(write_video(tmp_path / "clip.mkv", shades(5)))
        assert video.num_frames == pytest.approx(5, abs=1)  # by the duration: it has no number

    @pytest.mark.parametrize("name", MATRICES)
    def test_frames_are_upright(self, tmp_path, name):
        [image] = shades(1)
        expected = {
            "as it is": image,
            "a quarter clockwise": np.rot90(image, -1),
            "upside down": np.rot90(image, 2),
            "a quarter counterclockwise": np.rot90(image),
            "mirrored": image[:, ::-1],
            "mirrored, upside down": image[::-1],
            "transposed": image.transpose(1, 0, 2),
            "transposed the other way": np.rot90(image, 2).transpose(1, 0, 2),
        }[name]
        path = write_video(tmp_path / "clip.mp4", [image, image])
        set_matrix(path, MATRICES[name])
        frames, video = read(path)
        assert video.size == expected.shape[:2]
        for frame in frames:
            np.testing.assert_array_equal(frame.image, expected)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("upside down", Fraction(4, 3)), ("a quarter clockwise", Fraction(3, 4))],
    )
    def test_wide_pixels_turn_too(self, tmp_path, name, expected):
        path = write_video(tmp_path / "clip.mp4", shades(2), codec="mpeg4", aspect=Fraction(4, 3))
        set_matrix(path, MATRICES[name])
        assert read(path)[1].pixel_aspect == expected

    def test_colors_of_bt709(self, tmp_path):
        path = tmp_path / "clip.mp4"
        image = np.full((32, 48, 3), (200, 50, 30), np.uint8)
        with av.open(str(path), "w") as file:
            stream = file.add_stream("libx264", rate=10, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            stream.codec_context.colorspace = 1
            frame = av.VideoFrame.from_ndarray(image)
            frame = frame.reformat(format="yuv420p", dst_colorspace="itu709")
            file.mux([*stream.encode(frame), *stream.encode(None)])
        [frame], _ = read(path)
        np.testing.assert_allclose(frame.image.astype(int), image, atol=3)

    def test_frames_of_another_size_are_resized(self, tmp_path):
        path = tmp_path / "clip.mov"
        with av.open(str(path), "w") as file:
            stream = None
            for number, image in enumerate([*shades(2), *shades(2, size=(64, 96))]):
                encoder = av.CodecContext.create("png", "w")
                encoder.height, encoder.width = image.shape[:2]
                encoder.pix_fmt, encoder.time_base = "rgb24", Fraction(1, 10)
                if stream is None:
                    stream = file.add_stream("png", rate=10)
                    stream.width, stream.height, stream.pix_fmt = 48, 32, "rgb24"
                frame = av.VideoFrame.from_ndarray(image)
                frame.pts, frame.time_base = number, Fraction(1, 10)
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    file.mux(packet)
        frames, _ = read(path)
        assert [f.image.shape for f in frames] == [(32, 48, 3)] * 4

    def test_times_that_are_missing_or_go_back(self, tmp_path, monkeypatch):
        path = write_video(tmp_path / "clip.mov", shades(5), units=Fraction(1, 1000))
        given, decode = iter([0, None, 50, 900, None] * 2), Video._decode

        def without_times(self, packet):
            frames = decode(self, packet)
            for frame in frames:
                frame.pts = next(given)
            return frames

        monkeypatch.setattr(Video, "_decode", without_times)
        with Video(path) as video:
            given = iter([0, None, 50, 90_000, None])
            step = round(Fraction(1, 10) / video.time_base)
            times = [frame.pts for frame in video.frames()]
        assert times == [0, step, 2 * step, 90_000, 90_000 + step]

    def test_audio_goes_by(self, tmp_path):
        path = write_video(tmp_path / "clip.mp4", shades(3), audio=["aac"])
        heard = []
        with Video(path) as video:
            assert len(list(video.frames(heard.append))) == 3
        assert sum(packet.size for packet in heard) > 100
        assert len(video.audio) == 1

    def test_a_name_like_a_protocol(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_video(tmp_path / "clip.mov", shades(2)).rename(tmp_path / "http:clip.mov")
        assert len(read((tmp_path / "http:clip.mov").relative_to(tmp_path))[0]) == 2


class TestDamage:
    def test_a_damaged_frame_is_left_out_and_counted(self, tmp_path):
        images = shades(6)
        path = write_video(tmp_path / "clip.mov", images)
        position, size = places(path)[2]
        data = bytearray(path.read_bytes())
        data[position : position + size] = bytes(size)
        path.write_bytes(data)
        frames, video = read(path)
        assert video.num_damaged == 1
        assert [round(10 * f.pts * video.time_base) for f in frames] == [0, 1, 3, 4, 5]
        for frame, image in zip(frames, [*images[:2], *images[3:]], strict=True):
            np.testing.assert_array_equal(frame.image, image)

    @pytest.mark.parametrize(("ending", "num_damaged"), [("mov", 1), ("mkv", 0)])
    def test_a_file_that_was_cut_off_gives_what_is_there(self, tmp_path, ending, num_damaged):
        index_first = {"movflags": "faststart"} if ending == "mov" else None
        path = write_video(tmp_path / f"clip.{ending}", shades(6), container=index_first)
        position, size = places(path)[4]
        path.write_bytes(path.read_bytes()[: position + size // 2])
        frames, video = read(path)
        assert len(frames) == 4
        assert video.num_damaged == num_damaged

    def test_one_that_was_cut_off_before_its_index(self, tmp_path):
        path = write_video(tmp_path / "clip.mp4", shades(6))
        path.write_bytes(path.read_bytes()[:-400])
        with pytest.raises(PnaError, match=r"clip.mp4 .*(cannot be read|holds no video)"):
            Video(path)

    def test_no_frame_can_be_decoded(self, tmp_path):
        path = write_video(tmp_path / "clip.mov", shades(2))
        data = bytearray(path.read_bytes())
        for position, size in places(path):
            data[position : position + size] = bytes(size)
        path.write_bytes(data)
        with pytest.raises(PnaError, match="clip.mov has no frame that can be decoded"):
            Video(path)

    @pytest.mark.parametrize("content", [b"", b"no video\n" * 99])
    def test_no_video(self, tmp_path, content):
        path = tmp_path / "clip.mp4"
        path.write_bytes(content)
        with pytest.raises(PnaError, match="clip.mp4 cannot be read as a video: Invalid data"):
            Video(path)

    def test_audio_alone(self, tmp_path):
        path = write_audio(tmp_path / "clip.mp4")
        with pytest.raises(PnaError, match="clip.mp4 holds no video: .* got audio"):
            Video(path)

    def test_no_file(self, tmp_path):
        with pytest.raises(MissingFileError, match="no video at .*clip.mp4"):
            Video(tmp_path / "clip.mp4")

    def test_without_pyav(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "av", None)
        with pytest.raises(PnaError, match=r'videos need av.*pip install "pna\[video\]"'):
            Video(tmp_path / "clip.mp4")
