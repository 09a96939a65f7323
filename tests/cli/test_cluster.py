"""`pna segment --engine ray`: options that go together, and what is printed."""

import pytest

from pna.cli import main
from pna.cluster import run as cluster_run
from pna.cluster.run import ClusterReport, Count, Replicas


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--replicas", "2"], "--replicas is for --engine ray"),
        (["--address", "auto"], "--address is for --engine ray"),
        (["--engine", "ray", "--stages"], "--stages is not for --engine ray"),
        (["--engine", "ray", "--memory", "2GB"], "--memory is not for --engine ray"),
        (["--engine", "ray", "--smooth", "0.5"], "--smooth is not for --engine ray"),
        (["--engine", "ray", "--replicas", "0"], "expected replicas and their cores from 1"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, capsys, words, message):
    assert main(["segment", str(tmp_path), "-o", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("failed", [0, 2])
def test_what_is_passed_on_and_printed(tmp_path, capsys, monkeypatch, failed):
    given = {}

    def segment_images(inputs, model, out, **options):
        given.update(options, inputs=inputs, model=model, out=out)
        options["progress"](Count(1000, 4000))
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
    assert "10 images segmented by 2 replicas in 5 s (2.0 a second), 3 were there" in captured.out
    assert "1000 of 4000 images" in captured.err
    assert ("the errors are in" in captured.err) == bool(failed)
