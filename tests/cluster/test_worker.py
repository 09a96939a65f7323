"""A replica, without Ray: results, rows, faults."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

import pna
from pna.cluster.worker import Worker
from pna.inference.tiling import WHOLE


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The folder of a small saved model."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    model = pna.create_model("lite-fcn", 3, encoder="test_resnet", encoder_weights=None)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(3):
        array = np.random.default_rng(n).integers(0, 256, (20 + n, 30, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"p{n}.png")
    return folder


def take(worker, sources, contents=None):
    contents = pa.array(contents or [None] * len(sources), pa.binary())
    rows = worker(pa.table({"source": sources, "content": contents})).to_pylist()
    return [(row["status"], json.loads(row["line"])) for row in rows]


def test_results_and_rows(model, photos, tmp_path):
    worker = Worker(str(model), str(tmp_path / "out"), "cpu", WHOLE, True)
    sources = [str(photos / f"p{n}.png") for n in range(3)]
    rows = take(worker, sources)
    assert [status for status, _ in rows] == ["done"] * 3
    predictor = pna.Predictor(model, device="cpu")
    for source, (_, about) in zip(sources, rows, strict=True):
        expected = predictor(source, scores=True)
        with Image.open(tmp_path / "out" / about["file"]) as labels:
            np.testing.assert_array_equal(np.asarray(labels), expected.labels)
        scores = (tmp_path / "out" / about["file"]).with_name(
            about["file"].split("/")[1].replace("_labels.png", "_scores.npz")
        )
        with np.load(scores) as arrays:
            np.testing.assert_allclose(arrays["scores"], expected.scores, atol=1e-3)
        assert about["source"] == source
        assert about["size"] == list(expected.labels.shape)
        assert sum(about["pixels"].values()) == expected.labels.size


def test_what_is_there_is_not_done_again(model, photos, tmp_path, monkeypatch):
    worker = Worker(str(model), str(tmp_path / "out"), "cpu", WHOLE, False)
    sources = [str(photos / f"p{n}.png") for n in range(2)]
    first = take(worker, sources)
    monkeypatch.setattr(worker.predictor, "model", None)
    assert take(worker, sources) == [("found", about) for _, about in first]


def test_bad_images_are_set_aside(model, photos, tmp_path):
    worker = Worker(str(model), str(tmp_path / "out"), "cpu", WHOLE, False)
    (photos / "bad.png").write_text("no image")
    content = (photos / "p0.png").read_bytes()
    sources = [f"{photos}/bad.png", f"{photos}/missing.png", "s.tar#1", "s.tar#2", "s.tar#3"]
    rows = take(worker, sources, [None, None, content, b"", b"no image"])
    assert [status for status, _ in rows] == ["failed", "failed", "done", "failed", "failed"]
    errors = [about.get("error", "") for _, about in rows]
    assert "bad.png" in errors[0]
    assert "no image at" in errors[1]
    assert "can't read" in errors[3]
    assert "can't read" in errors[4]


def test_a_full_disk_is_no_fault_of_the_image(model, photos, tmp_path, monkeypatch):
    worker = Worker(str(model), str(tmp_path / "out"), "cpu", WHOLE, False)

    def fail(*arguments):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("pna.draw.save_labels", fail)
    with pytest.raises(OSError, match="No space"):
        take(worker, [str(photos / "p0.png")])


def test_an_entry_that_was_cut_off_is_made_anew(model, photos, tmp_path):
    worker = Worker(str(model), str(tmp_path / "out"), "cpu", WHOLE, False)
    source = str(photos / "p0.png")
    [(_, about)] = take(worker, [source])
    entry = tmp_path / "out" / about["file"].replace("_labels.png", ".json")
    entry.write_text(entry.read_text()[:20])
    assert take(worker, [source]) == [("done", about)]
    assert take(worker, [source]) == [("found", about)]


def test_a_damaged_archive_is_named(model, tmp_path):
    worker = Worker(str(model), str(tmp_path / "out"), "cpu", WHOLE, False)
    (tmp_path / "s.tar").write_bytes(b"no archive")
    [(status, about)] = take(worker, [f"{tmp_path}/s.tar"])
    assert (status, about["source"]) == ("failed", f"{tmp_path}/s.tar")
    assert about["error"].startswith("the archive is damaged")


def test_no_image_is_no_row(model, tmp_path):
    worker = Worker(str(model), str(tmp_path / "out"), "cpu", WHOLE, False)
    rows = worker(
        pa.table({"source": pa.array([], pa.string()), "content": pa.array([], pa.binary())})
    )
    assert rows.num_rows == 0
    assert rows.schema.names == ["status", "line"]
