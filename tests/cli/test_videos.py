"""`pna segment` on videos: which files they are, options, results and what is refused."""

import re
import sys

import numpy as np
import pytest
from PIL import Image

from pna.cli import main, segment
from pna.draw import overlay
from pna.inference.predictor import Predictor
from pna.inference.tiling import TilingConfig
from rasters import shades as raster_shades
from rasters import write_raster
from tiny_segmenter import by_brightness
from videos import frames, shades, write_video


@pytest.fixture
def run(monkeypatch, tmp_path):
    model = by_brightness()
    monkeypatch.setattr(segment, "load_model", lambda args: model)

    def run_on(*words):
        return main(["segment", *map(str, words), "-o", str(tmp_path / "out"), "--device", "cpu"])

    return run_on


@pytest.fixture
def clip(tmp_path):
    return write_video(tmp_path / "clip.mov", shades(3))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_beside_images_and_rasters(run, tmp_path, clip, capsys):
    write_raster(tmp_path / "scene.tif", raster_shades(60, 70))
    Image.fromarray(shades(1)[0]).save(tmp_path / "photo.png")
    assert run(clip, tmp_path / "scene.tif", tmp_path / "photo.png") == 0
    assert names(tmp_path / "out") == [
        "clip_overlay.mp4",
        "photo_labels.png",
        "photo_overlay.png",
        "scene_labels.tif",
        "scene_overlay.png",
    ]
    captured = capsys.readouterr()
    pattern = r"\[1/3\] .*clip.mov: 48 x 32, 3 frames, class_\d \d+ %.*; flicker \d+\.\d\d %\n"
    assert re.match(pattern, captured.out)
    assert "clip.mov: 0 of 3 frames\n" in captured.err
    assert "clip.mov: 3 of 3 frames, " in captured.err


def test_the_overlay_is_drawn_over_each_frame(run, tmp_path, clip):
    assert run(clip) == 0
    predictor = Predictor(by_brightness(), device="cpu")
    pairs = zip(frames(clip), frames(tmp_path / "out" / "clip_overlay.mp4"), strict=True)
    for (time, image), (written_time, written) in pairs:
        expected = overlay(image, predictor(image).labels, predictor.model.labels)
        assert np.abs(written.astype(int) - np.asarray(expected)).mean() < 6
        assert written_time == time


@pytest.mark.parametrize("ending", ["mp4", "MOV", "mkv", "webm", "avi", "m4v"])
def test_endings(run, tmp_path, ending):
    codec = {"webm": "libvpx-vp9"}.get(ending, "mpeg4")
    made = write_video(tmp_path / f"made.{ending.replace('m4v', 'mp4')}", shades(2), codec=codec)
    path = made.rename(tmp_path / f"clip.{ending}")
    assert run(path) == 0
    assert len(frames(tmp_path / "out" / "clip_overlay.mp4")) == 2


def test_frames_writes_label_maps(run, tmp_path, clip):
    assert run(clip, "--frames", "--tile", "16,24", "--overlap", "0.5", "--flip") == 0
    assert names(tmp_path / "out") == ["clip_labels", "clip_overlay.mp4"]
    folder = tmp_path / "out" / "clip_labels"
    assert names(folder) == ["000000.png", "000001.png", "000002.png"]
    tiling = TilingConfig(tile=(16, 24), overlap=0.5, flip=True)
    predictor = Predictor(by_brightness(), device="cpu", tiling=tiling)
    for number, (_, image) in enumerate(frames(clip)):
        with Image.open(folder / f"{number:06d}.png") as labels:
            assert labels.mode == "P"
            np.testing.assert_array_equal(np.array(labels), predictor(image).labels)


def test_smoothing_tells_what_it_did(run, tmp_path, capsys):
    images = [np.full((32, 48, 3), shade, np.uint8) for shade in (61, 66, 61, 66)]
    clip = write_video(tmp_path / "clip.mov", images)
    assert run(clip, "--smooth", "0.9") == 0
    assert "; flicker 100.00 %, smoothed 0.00 %\n" in capsys.readouterr().out
    assert run(clip) == 0
    assert capsys.readouterr().out.endswith("; flicker 100.00 %\n")


def test_folders_hold_videos_too(run, tmp_path, capsys):
    folder = tmp_path / "all"
    folder.mkdir()
    write_video(folder / "clip.mov", shades(2))
    Image.fromarray(shades(1)[0]).save(folder / "clip.png")
    (folder / "notes.txt").write_text("neither")
    assert run(folder) == 0
    assert names(tmp_path / "out") == ["clip_labels.png", "clip_overlay.mp4", "clip_overlay.png"]
    assert "left out notes.txt: not ending in .jpg, " in capsys.readouterr().err


def test_same_names_are_refused(run, tmp_path, clip, capsys):
    other = write_video(tmp_path / "clip.mkv", shades(2))
    assert run(clip, other) == 2
    assert "would both be written to" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--stages",),
        ("--similar", "3,3"),
        ("--scores",),
        ("--memory", "2GB"),
        ("--bands", "1,2,3"),
        ("--scale", "0,255"),
        ("--polygons", "gpkg"),
    ],
)
def test_options_that_are_not_for_videos(run, tmp_path, clip, capsys, monkeypatch, words):
    monkeypatch.setattr(segment, "load_model", lambda args: pytest.fail("a model was loaded"))
    assert run(clip, *words) == 2
    assert f"{words[0]} is not for videos such as {clip}: it " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [("--smooth", "0.5"), ("--frames",)])
def test_options_that_are_for_videos_alone(run, tmp_path, capsys, words):
    Image.fromarray(shades(1)[0]).save(tmp_path / "photo.png")
    assert run(tmp_path / "photo.png", *words) == 2
    assert f"{words[0]} is for videos, and there is none" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1", "-0.1", "much", "nan"])
def test_wrong_shares(run, clip, capsys, text):
    with pytest.raises(SystemExit):
        run(clip, f"--smooth={text}")
    assert "expected a share in [0, 1), such as 0.8; got" in capsys.readouterr().err


def test_a_damaged_video_is_reported_and_the_rest_goes_on(run, tmp_path, clip, capsys):
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    assert run(tmp_path / "bad.mp4", clip, "--frames") == 1
    assert names(tmp_path / "out") == ["clip_labels", "clip_overlay.mp4"]
    err = capsys.readouterr().err
    assert "bad.mp4: failed: " in err
    assert "bad.mp4 cannot be read as a video" in err
    assert "1 of 2 files failed" in err


def test_a_damaged_frame_is_named(run, tmp_path, capsys):
    from videos import places

    path = write_video(tmp_path / "clip.mov", shades(4))
    position, size = places(path)[1]
    data = bytearray(path.read_bytes())
    data[position : position + size] = bytes(size)
    path.write_bytes(data)
    assert run(path) == 0
    assert capsys.readouterr().out.endswith("; 1 damaged frames left out\n")


def test_a_stopped_run_leaves_no_half_results(run, tmp_path, clip, monkeypatch):
    from pna.cli import videos

    def stop(self, progress):
        if progress.done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(videos.ProgressLine, "__call__", stop)
    assert run(clip, "--frames") == 130
    assert names(tmp_path / "out") == ["clip_labels"]
    assert names(tmp_path / "out" / "clip_labels") == []


@pytest.mark.filterwarnings("default")
def test_odd_sides_are_told(run, tmp_path, capsys):
    path = write_video(tmp_path / "clip.mov", shades(2, size=(31, 48)))
    assert run(path) == 0
    captured = capsys.readouterr()
    assert "clip.mov has 48 x 31 pixels, and H.264 has even sides" in captured.err
    assert ": 48 x 32, 2 frames" in captured.out


def test_without_pyav(run, tmp_path, clip, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "av", None)
    assert run(clip) == 2
    assert 'videos need av, which is not installed: pip install "pna[video]"' in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
