"""`pna segment --engine ray`: options that go together, and what is printed."""

import pytest

from pna.cli import main
from pna.cluster import run as cluster_run
from pna.cluster.run import ClusterReport, Replicas
from pna.inference.progress import Progress
from rasters import shades, write_raster


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--replicas", "2"], "--replicas is for --engine ray"),
        (["--address", "auto"], "--address is for --engine ray"),
        (["--engine", "ray", "--stages"], "--stages is not for --engine ray"),
        (["--engine", "ray", "--memory", "2GB"], "--memory: expected rasters that are named"),
        (["--engine", "ray", "--smooth", "0.5"], "--smooth is not for --engine ray"),
        (["--engine", "ray", "--replicas", "0"], "expected replicas and their cores from 1"),
        (["--engine", "ray", "--batch", "0"], "expected batches of at least 1 image"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, capsys, words, message):
    assert main(["segment", str(tmp_path), "-o", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_videos_are_not_for_a_cluster(tmp_path, capsys):
    assert main(["segment", "clip.mp4", "-o", str(tmp_path / "out"), "--engine", "ray"]) == 2
    assert "clip.mp4: videos are not for --engine ray" in capsys.readouterr().err


@pytest.mark.parametrize("failed", [0, 2])
def test_what_is_passed_on_and_printed(tmp_path, capsys, monkeypatch, failed):
    given = {}

    def segment_images(inputs, model, out, **options):
        given.update(options, inputs=inputs, model=model, out=out)
        options["progress"](Progress(1000, 4000, 50.0, 60.0))
        errors = out / "errors.jsonl" if failed else None
        return ClusterReport(out / "manifest.jsonl", errors, 10, 3, failed, 2, 5.0)

    monkeypatch.setattr(cluster_run, "segment_images", segment_images)
    words = ["--engine", "ray", "--replicas", "2", "--cpus", "3", "--batch", "4", "--scores"]
    status = main(["segment", "a.parquet", "--model", "m", "-o", str(tmp_path), *words])
    assert status == (1 if failed else 0)
    assert given["inputs"] == ["a.parquet"]
    assert given["replicas"] == Replicas(2, 3, 0)
    assert (given["batch_size"], given["scores"], given["model"]) == (4, True, "m")
    captured = capsys.readouterr()
    assert (
        "10 images segmented by at most 2 replicas in 5 s (2.0 a second), 3 were there"
        in captured.out
    )
    assert "1000 of 4000 images, 50" in captured.err
    assert ("the errors are in" in captured.err) == bool(failed)


def test_rasters_are_shared_out_by_blocks(tmp_path, capsys, monkeypatch):
    from pna.cluster import rasters as cluster_rasters

    scene = write_raster(tmp_path / "scene.tif", shades(60, 70))
    given = []

    def segment_raster_on_cluster(model, path, out, **options):
        given.append((model, path, options["replicas"], options["polygons"]))
        from pna.cluster.rasters import open_model, segment_raster

        keep = ("tiling", "scores", "progress", "memory", "polygons")
        own = {key: options[key] for key in keep if key in options}
        return segment_raster(open_model(model, device="cpu"), path, out, device="cpu", **own)

    monkeypatch.setattr(cluster_rasters, "segment_raster_on_cluster", segment_raster_on_cluster)
    words = ["--engine", "ray", "--memory", "8GB", "--polygons", "gpkg"]
    assert main(["segment", str(scene), "-o", str(tmp_path / "out"), *words]) == 0
    assert given == [("voc-lite", scene, Replicas(), "gpkg")]
    assert (tmp_path / "out" / "scene_overlay.png").is_file()
    assert "scene.tif: 70 x 60" in capsys.readouterr().out
