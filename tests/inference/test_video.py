"""Videos: labels of every frame, times and audio, smoothing and flicker, and what goes wrong."""

import weakref
from fractions import Fraction
from functools import partial

import av
import numpy as np
import pytest

from color_segmenter import ColorSegmenter
from disk_full import too_large_from
from pna.draw import overlay
from pna.errors import MissingFileError, PnaError
from pna.inference.predictor import Predictor
from pna.inference.tiling import TilingConfig
from pna.inference.video.run import segment_video
from pna.inference.video.smoothing import Flicker, is_steady, past_weight
from tiny_segmenter import by_brightness
from videos import MATRICES, frames, packets, places, set_matrix, shades, write_audio, write_video


def draw(frame):
    return overlay(frame.image, frame.labels, frame.label_space)


def run(path, out, *, model=None, tiling=None, **options):
    """Return the report and the frames that were drawn."""
    seen = []

    def keep(frame):
        seen.append(frame)
        return draw(frame)

    tiling = TilingConfig() if tiling is None else tiling
    predictor = Predictor(by_brightness() if model is None else model, device="cpu", tiling=tiling)
    return segment_video(predictor, path, out, draw=keep, **options), seen


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out" / "clip_overlay.mp4"


class TestFrames:
    @pytest.mark.parametrize("tiling", [None, TilingConfig(tile=(16, 24), flip=True)])
    def test_labels_are_those_of_the_predictor(self, tmp_path, out, tiling):
        path = write_video(tmp_path / "clip.mov", shades(4))
        model = ColorSegmenter()
        report, seen = run(path, out, model=model, tiling=tiling)
        predictor = Predictor(model, device="cpu", tiling=tiling or TilingConfig())
        total = np.zeros(3, int)
        for number, ((seconds, image), frame) in enumerate(zip(frames(path), seen, strict=True)):
            expected = predictor(image).labels
            np.testing.assert_array_equal(frame.labels, expected)
            np.testing.assert_array_equal(frame.image, image)
            assert (frame.number, frame.seconds) == (number, pytest.approx(seconds))
            total += np.bincount(expected.ravel(), minlength=3)
        assert report.num_frames == 4
        assert report.size == (32, 48)
        assert list(report.pixels.values()) == sorted(total[total > 0].tolist(), reverse=True)
        assert report.pixels == {f"class_{c}": n for c, n in enumerate(total) if n}

    def test_what_is_drawn_is_written(self, tmp_path, out):
        path = write_video(tmp_path / "clip.mov", shades(3))
        _, seen = run(path, out)
        for frame, (_, image) in zip(seen, frames(out), strict=True):
            difference = image.astype(int) - np.asarray(draw(frame))
            assert np.abs(difference).mean() < 6  # of 255: color is stored at half the size

    def test_colors_are_those_of_bt709_and_say_so(self, tmp_path, out):
        image = np.full((32, 48, 3), (200, 50, 30), np.uint8)
        path = write_video(tmp_path / "clip.mov", [image, image])
        predictor = Predictor(by_brightness(), device="cpu")
        segment_video(predictor, path, out, draw=lambda frame: frame.image)  # an array will do
        with av.open(str(out)) as file:
            assert file.streams.video[0].codec_context.colorspace == 1
        for _, written in frames(out):
            np.testing.assert_allclose(written.astype(int), image, atol=3)

    def test_no_more_than_two_frames_are_held(self, tmp_path, out):
        path = write_video(tmp_path / "clip.mov", shades(8))
        alive, most = [], []

        def watch(frame):
            alive.append(weakref.ref(frame.image))
            most.append(sum(one() is not None for one in alive))
            return draw(frame)

        predictor = Predictor(by_brightness(), device="cpu")
        segment_video(predictor, path, out, draw=watch, smooth=0.5)
        assert max(most) <= 2

    def test_progress(self, tmp_path, out):
        path, seen = write_video(tmp_path / "clip.mov", shades(3)), []
        run(path, out, progress=seen.append)
        assert [(p.done, p.total) for p in seen] == [(0, 3), (1, 3), (2, 3), (3, 3)]
        assert seen[0].per_second is None
        assert seen[1].per_second > 0
        assert seen[-1].seconds_left == 0


class TestTimes:
    @pytest.mark.parametrize(
        ("codec", "units", "times"),
        [
            ("mpeg4", Fraction(1, 1000), [0, 40, 55, 300, 301, 2000]),
            ("mpeg4", Fraction(1001, 30_000), [0, 1, 2, 5, 6, 7]),
            ("libx264", Fraction(1, 1000), [0, 40, 55, 300, 301, 2000]),
            ("libx264", Fraction(1, 90_000), [3003, 6006, 9009, 90_000, 90_001, 180_000]),
            ("libx264", Fraction(1001, 30_000), [0, 1, 2, 5, 6, 7]),
        ],
    )
    def test_frames_keep_their_times(self, tmp_path, out, codec, units, times):
        path = write_video(tmp_path / "clip.mp4", shades(6), times=times, units=units, codec=codec)
        run(path, out)
        original, written = ([s for s, _ in frames(file)] for file in (path, out))
        assert np.diff(original) == pytest.approx(np.diff(times) * float(units), abs=1e-9)
        assert written == original

    @pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
    def test_containers(self, tmp_path, ending):
        path = write_video(tmp_path / "clip.mov", shades(3), times=[0, 40, 500])
        out = tmp_path / f"out.{ending}"
        run(path, out)
        assert [seconds for seconds, _ in frames(out)] == [0, 0.04, 0.5]

    def test_without_x264(self, tmp_path, out, monkeypatch):
        times = [0, 3003, 6006, 6007, 90_000]
        path = write_video(tmp_path / "clip.mp4", shades(5), times=times, units=Fraction(1, 90_000))
        monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx264"})
        with pytest.warns(UserWarning, match="this PyAV has no libx264: the overlay of .*clip.mp4"):
            report, seen = run(path, out)
        with av.open(str(out)) as file:
            assert file.streams.video[0].codec_context.name == "mpeg4"
        assert report.num_frames == 5
        written = frames(out)
        assert [s for s, _ in written] == pytest.approx([t / 90_000 for t in times], abs=16e-6)
        for frame, (_, image) in zip(seen, written, strict=True):
            assert np.abs(image.astype(int) - np.asarray(draw(frame))).mean() < 8


class TestSizes:
    @pytest.mark.parametrize("size", [(33, 48), (32, 47), (31, 29), (1, 1)])
    def test_odd_sides_get_their_last_row_or_column_twice(self, tmp_path, out, size):
        path = write_video(tmp_path / "clip.mov", shades(2, size=size))
        with pytest.warns(UserWarning, match=f"clip.mov has {size[1]} x {size[0]} pixels.* twice"):
            report, seen = run(path, out)
        expected = size[0] + size[0] % 2, size[1] + size[1] % 2
        assert report.size == expected
        assert seen[0].labels.shape == size
        for _, image in frames(out):
            assert image.shape[:2] == expected

    def test_a_rotated_video_is_upright(self, tmp_path, out):
        path = write_video(tmp_path / "clip.mp4", shades(2))
        set_matrix(path, MATRICES["a quarter clockwise"])
        report, seen = run(path, out)
        assert report.size == (48, 32)
        for frame, (_, image), (_, original) in zip(seen, frames(out), frames(path), strict=True):
            np.testing.assert_array_equal(frame.image, np.rot90(original, -1))
            assert np.abs(image.astype(int) - np.asarray(draw(frame))).mean() < 6
        with av.open(str(out)) as file:
            assert next(file.decode(video=0)).rotation == 0

    def test_wide_pixels_stay_wide(self, tmp_path, out):
        path = write_video(tmp_path / "clip.mp4", shades(2), codec="mpeg4", aspect=Fraction(4, 3))
        run(path, out)
        with av.open(str(out)) as file:
            assert file.streams.video[0].sample_aspect_ratio == Fraction(4, 3)


class TestAudio:
    def test_it_is_copied(self, tmp_path, out):
        path = write_video(tmp_path / "clip.mp4", shades(10), codec="libx264", audio=["aac", "aac"])
        report, _ = run(path, out)
        assert report.num_audio == 2
        assert packets(out, "audio") == packets(path, "audio")
        assert [s for s, _ in frames(out)] == [s for s, _ in frames(path)]
        with av.open(str(out)) as file:
            assert [s.language for s in file.streams.audio] == ["deu", "deu"]

    def test_other_containers(self, tmp_path, out):
        path = write_video(tmp_path / "clip.mkv", shades(3), audio=["libopus"])
        report, _ = run(path, out)
        assert report.num_audio == 1
        assert [data for _, data in packets(out, "audio")] == [
            data for _, data in packets(path, "audio")
        ]

    @pytest.mark.parametrize(
        ("source", "codec", "ending"),
        [("avi", "adpcm_ms", "mp4"), ("mkv", "flac", "mov")],  # refused at once; with the header
    )
    def test_what_the_container_cannot_hold_is_left_out(self, tmp_path, source, codec, ending):
        path = write_video(tmp_path / f"clip.{source}", shades(3), codec="ffv1", audio=[codec])
        out = tmp_path / f"out.{ending}"
        message = f"audio of .*clip.{source} is left out: .{ending} files cannot.*{codec}"
        with pytest.warns(UserWarning, match=message):
            report, _ = run(path, out)
        assert report.num_audio == 0
        assert len(frames(out)) == report.num_frames == 3

    def test_one_of_two_is_kept(self, tmp_path, out):
        path = write_video(
            tmp_path / "clip.avi", shades(3), codec="ffv1", audio=["adpcm_ms", "ac3"]
        )
        with pytest.warns(UserWarning, match=r"left out.*\(adpcm_ms\)"):
            assert run(path, out)[0].num_audio == 1


def noisy(number, *, size=(32, 48), spread=6, seed=1):
    """Return images of one scene under noise, with a bright square that moves."""
    random = np.random.default_rng(seed)
    scene = random.integers(40, 90, (*size, 3))
    images = []
    for step in range(number):
        image = scene + random.integers(-spread, spread + 1, scene.shape)
        image[8:20, 6 * step : 6 * step + 12] = 220
        images.append(image.clip(0, 255).astype(np.uint8))
    return images


def mean_5x5(values):
    """The mean of the 5x5 values around each that are there, one after the other."""
    height, width = values.shape
    return np.array(
        [
            [values[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].mean() for x in range(width)]
            for y in range(height)
        ]
    )


class TestSmoothing:
    def test_it_is_the_formula(self, tmp_path, out):
        images, share = noisy(5), 0.7
        path = write_video(tmp_path / "clip.mov", images)
        model = ColorSegmenter()
        _, seen = run(path, out, model=model, smooth=share)
        predictor, past = Predictor(model, device="cpu"), None
        changed = 0
        for number, (image, frame) in enumerate(zip(images, seen, strict=True)):
            now = predictor(image, scores=True).scores.astype(float)
            if past is not None:
                squared = ((image.astype(float) - images[number - 1]) ** 2).mean(axis=2)
                w = share * np.exp(-mean_5x5(squared) / (2 * 10**2))
                now = (1 - w) * now + w * past
            past = now
            best = np.sort(now, axis=0)
            clear = best[-1] - best[-2] > 1e-5  # not a tie in single precision
            np.testing.assert_array_equal(frame.labels[clear], now.argmax(axis=0)[clear])
            changed += (frame.labels != predictor(image).labels).sum()
        assert changed > 0  # else the test would show nothing

    def test_what_moves_leaves_no_ghost(self, tmp_path, out):
        """A square moves over a dark ground: its labels are where it is, and only there."""
        path = write_video(tmp_path / "clip.mov", noisy(5, spread=2))
        _, seen = run(path, out, smooth=0.9)
        for step, frame in enumerate(seen):
            expected = np.zeros((32, 48), bool)
            expected[8:20, 6 * step : 6 * step + 12] = True
            np.testing.assert_array_equal(frame.labels == 2, expected)

    @pytest.mark.parametrize(
        ("color", "distance"), [(0, 0), (10, 100), ((30, 0, 0), 300), (255, 255**2)]
    )
    def test_weights(self, color, distance):
        before = np.zeros((7, 9, 3), np.uint8)
        image = np.full_like(before, color)
        weight = past_weight(image, before, 0.5)
        np.testing.assert_allclose(weight, 0.5 * np.exp(-distance / 200), rtol=1e-6, atol=1e-9)
        np.testing.assert_array_equal(weight, past_weight(before, image, 0.5))

    def test_a_window_is_compared(self):
        image = np.zeros((9, 9, 3), np.uint8)
        image[4, 4] = 50
        weight = past_weight(image, np.zeros_like(image), 1)
        expected = np.ones((9, 9))
        expected[2:7, 2:7] = np.exp(-(50**2 / 25) / 200)
        np.testing.assert_allclose(weight, expected, rtol=1e-6)

    def test_off(self, tmp_path, out):
        path = write_video(tmp_path / "clip.mov", noisy(4))
        report, seen = run(path, out)
        assert report.raw_flicker == report.flicker
        for frame, image in zip(seen, noisy(4), strict=True):
            np.testing.assert_array_equal(
                frame.labels, Predictor(by_brightness(), device="cpu")(image).labels
            )


class TestFlicker:
    def test_by_hand(self):
        before = np.array([[0, 0, 1, 1, 2]], np.uint8)
        after = np.array([[0, 1, 1, 2, 0]], np.uint8)
        flicker = Flicker()
        assert flicker.share == 0
        flicker.add(after, before, np.array([[True, True, True, True, False]]))
        assert (flicker.changed, flicker.steady, flicker.share) == (2, 4, 0.5)
        flicker.add(after, after, np.array([[True, True, False, False, False]]))
        assert (flicker.changed, flicker.steady) == (2, 6)

    def test_steady_colors(self):
        before = np.array([[[100, 100, 100]] * 5], np.uint8)
        image = np.array([[[100] * 3, [108] * 3, [92] * 3, [100, 109, 100], [0] * 3]], np.uint8)
        assert is_steady(image, before).tolist() == [[True, True, True, False, False]]

    def test_of_a_clip(self, tmp_path, out):
        """A quarter flickers, the next one changes wholly, the rest stands.

        Classes change at a brightness of 1/4: 63.75 levels. Smoothing ends the flicker but for two
        columns, whose windows reach into what changes.
        """
        images = []
        for number in range(5):
            image = np.full((32, 48, 3), 120, np.uint8)
            image[:, :12] = (61, 66)[number % 2]
            image[:, 12:24] = (10, 200)[number % 2]
            images.append(image)
        path = write_video(tmp_path / "clip.mov", images)
        report, _ = run(path, out, smooth=0.9)
        assert report.raw_flicker == pytest.approx(12 / 36)  # what changes is not steady
        assert report.flicker == pytest.approx(2 / 36)
        assert run(path, out)[0].flicker == pytest.approx(12 / 36)


class StoppedError(Exception):
    pass


class TestErrors:
    @pytest.mark.parametrize("number", [0, 1, 3])
    def test_a_run_that_is_stopped_leaves_nothing(self, tmp_path, out, number):
        path = write_video(tmp_path / "clip.mp4", shades(4), audio=["aac"])

        def stop(progress):
            if progress.done == number:
                raise StoppedError

        with pytest.raises(StoppedError):
            run(path, out, progress=stop)
        assert names(out.parent) == []
        out.write_bytes(b"an earlier one")
        with pytest.raises(StoppedError):
            run(path, out, progress=stop)
        assert names(out.parent) == [out.name]
        assert out.read_bytes() == b"an earlier one"
        run(path, out)
        assert names(out.parent) == [out.name]
        assert len(frames(out)) == 4

    def test_a_full_disk(self, tmp_path, out):
        path = write_video(tmp_path / "clip.mov", shades(6, size=(96, 96)))
        with too_large_from(2000), pytest.raises(OSError, match="File too large"):
            run(path, out)
        assert names(out.parent) == []

    def test_a_damaged_frame_is_left_out(self, tmp_path, out):
        path = write_video(tmp_path / "clip.mov", shades(4))
        position, size = places(path)[2]
        data = bytearray(path.read_bytes())
        data[position : position + size] = bytes(size)
        path.write_bytes(data)
        report, seen = run(path, out)
        assert (report.num_frames, report.num_damaged) == (3, 1)
        assert [round(frame.seconds, 3) for frame in seen] == [0, 0.1, 0.3]
        assert [round(seconds, 3) for seconds, _ in frames(out)] == [0, 0.1, 0.3]

    @pytest.mark.parametrize("content", [b"", b"no video\n" * 99])
    def test_no_video(self, tmp_path, out, content):
        path = tmp_path / "clip.mp4"
        path.write_bytes(content)
        with pytest.raises(PnaError, match="clip.mp4 cannot be read as a video"):
            run(path, out)
        assert not out.parent.exists()

    def test_audio_alone(self, tmp_path, out):
        with pytest.raises(PnaError, match="clip.mp4 holds no video"):
            run(write_audio(tmp_path / "clip.mp4"), out)

    def test_no_file(self, tmp_path, out):
        with pytest.raises(MissingFileError, match="no video at"):
            run(tmp_path / "clip.mp4", out)

    @pytest.mark.parametrize("smooth", [-0.1, 1, float("nan")])
    def test_shares(self, tmp_path, out, smooth):
        with pytest.raises(PnaError, match=r"expected smooth in \[0, 1\), got"):
            run(tmp_path / "clip.mp4", out, smooth=smooth)

    def test_other_endings(self, tmp_path):
        with pytest.raises(PnaError, match=r"end in .mp4, .mov, .mkv, got '.webm'"):
            run(tmp_path / "clip.mp4", tmp_path / "out.webm")

    def test_not_over_itself(self, tmp_path):
        path = write_video(tmp_path / "clip.mov", shades(2))
        with pytest.raises(PnaError, match="clip.mov is the video itself"):
            run(path, tmp_path / "a" / ".." / "clip.mov")

    def test_a_drawing_of_another_size(self, tmp_path, out):
        path = write_video(tmp_path / "clip.mov", shades(2))
        segment = partial(segment_video, Predictor(by_brightness(), device="cpu"), path, out)
        message = r"expected draw to return an image of shape \(32, 48, 3\) of uint8, got shape"
        with pytest.raises(PnaError, match=message):
            segment(draw=lambda frame: frame.image[1:])
        with pytest.raises(PnaError, match=message):
            segment(draw=lambda frame: frame.image / 255)
        assert names(out.parent) == []
