"""Runs on Ray: everything segmented once, whatever dies; restarted, counted, reported."""

import gc
import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pna
from pna.cluster.run import Replicas, read_manifest, segment_images
from pna.errors import PnaError

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, as a cluster of two cores."""
    import ray

    os.environ.setdefault("RAY_worker_niceness", "0")
    ray.init(
        address="local",
        num_cpus=2,
        log_to_driver=False,
        include_dashboard=False,
        logging_level="error",
    )
    yield
    ray.shutdown()
    gc.collect()  # its sockets are closed here, where their warnings are expected


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model")
    pna.create_model("lite-fcn", 3, encoder="test_resnet", encoder_weights=None).save_pretrained(
        folder
    )
    return folder


def write_photos(folder, number):
    folder.mkdir()
    for n in range(number):
        array = np.random.default_rng(n).integers(0, 256, (16 + n % 3, 24, 3), dtype=np.uint8)
        Image.fromarray(array).save(folder / f"p{n}.png")
    return folder


def test_all_kinds_of_inputs_and_a_restart(cluster, model, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    photos = write_photos(tmp_path / "photos", 5)
    (photos / "bad.png").write_text("no image")
    contents = [(photos / f"p{n}.png").read_bytes() for n in range(3)]
    table = pa.table({"name": ["x/0.png", "x/1.png", "x/2.png"], "bytes": contents})
    pq.write_table(table, tmp_path / "more.parquet")
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for n in range(2):
            tar.add(photos / f"p{n}.png", arcname=f"k{n}.png")
    inputs = [photos, tmp_path / "more.parquet", tmp_path / "shard.tar"]
    counts = []
    report = segment_images(
        inputs, model, tmp_path / "out", replicas=Replicas(1), progress=counts.append
    )
    assert (report.done, report.found, report.failed) == (10, 0, 1)
    assert counts[-1].done == 11
    entries = list(read_manifest(tmp_path / "out"))
    assert len({entry["source"] for entry in entries}) == 10
    predictor = pna.Predictor(model, device="cpu")
    for entry in entries:
        with Image.open(tmp_path / "out" / entry["file"]) as labels:
            labels = np.asarray(labels)
        assert list(labels.shape) == entry["size"]
        if entry["source"].endswith("photos/p1.png"):
            np.testing.assert_array_equal(labels, predictor(photos / "p1.png").labels)
    (error,) = map(json.loads, report.errors.read_text().splitlines())
    assert error["source"] == str(photos / "bad.png")

    # The same again computes nothing but what is missing; a mended image is no error any more.
    Image.new("RGB", (8, 8)).save(photos / "bad.png")
    (tmp_path / "out" / entries[0]["file"].replace("_labels.png", ".json")).unlink()
    again = segment_images(inputs, model, tmp_path / "out", replicas=Replicas(1))
    assert (again.done, again.found, again.failed) == (2, 9, 0)
    assert again.errors is None
    assert not (tmp_path / "out" / "errors.jsonl").exists()
    assert len(list(read_manifest(tmp_path / "out"))) == 11

    # Results of other options do not mix with these.
    with pytest.raises(PnaError, match=r"another run began, with another tiling, scores: finish"):
        segment_images(
            inputs, model, tmp_path / "out", scores=True, tiling=pna.TilingConfig(flip=True)
        )


def test_columns_that_are_not_there(cluster, model, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"picture": [b"1"]}), tmp_path / "a.parquet")
    with pytest.raises(PnaError, match=r"expected the columns name and bytes, or image_path, got"):
        segment_images([tmp_path / "a.parquet"], model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_raster_is_shared_out(cluster, model, tmp_path):
    import rasterio

    from pna.cluster.rasters import segment_raster_on_cluster
    from pna.inference.tiling import TilingConfig
    from rasters import shades, write_raster

    scene = write_raster(tmp_path / "scene.tif", shades(150, 130))
    tiling = TilingConfig(tile=(32, 32))
    options = {"tiling": tiling, "memory": "8GB"}
    counts = []
    report = segment_raster_on_cluster(
        model, scene, tmp_path / "out", replicas=Replicas(1), progress=counts.append, **options
    )
    assert counts[-1].done == report.num_blocks
    expected = pna.segment_raster(pna.load(model), scene, tmp_path / "here", **options)
    with rasterio.open(report.labels) as ours, rasterio.open(expected.labels) as theirs:
        np.testing.assert_array_equal(ours.read(), theirs.read())
        assert ours.crs == theirs.crs
    assert not (tmp_path / "out" / ".scene-parts").exists()


def test_more_than_the_cluster_has(cluster, model, tmp_path):
    photos = write_photos(tmp_path / "photos", 1)
    with pytest.raises(PnaError, match="a replica needs 999 CPUs and 0 GPUs, and the cluster has"):
        segment_images([photos], model, tmp_path / "out", replicas=Replicas(cpus=999))
    assert not (tmp_path / "out").exists()
    with pytest.raises(PnaError, match="expected replicas and their cores from 1"):
        Replicas(0)


DRIVER = """
import sys, threading, time
from pathlib import Path
import psutil
import ray
from ray.cluster_utils import Cluster
from pna.cluster.run import segment_images

photos, model, out, fault = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
other = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, logging_level="error")

def break_something():
    while len(list(Path(out).glob("*/*.json"))) < 3:
        time.sleep(0.05)
    if fault == "node":
        cluster.remove_node(other, allow_graceful=False)
        print("happened: removed", flush=True)
        return
    workers = [
        process for process in psutil.Process().children(recursive=True)
        if "".join(process.cmdline()).startswith("ray::MapWorker")
    ]
    workers[0].kill()
    print("happened: killed", flush=True)

threading.Thread(target=break_something, daemon=True).start()
report = segment_images([photos], model, out, batch_size=2)
print("counts:", report.done, report.found, report.failed, flush=True)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["worker", "node"])
def test_a_worker_and_a_machine_die(model, tmp_path, fault):
    photos = write_photos(tmp_path / "photos", 40)
    words = [sys.executable, "-c", DRIVER, str(photos), str(model), str(tmp_path / "out"), fault]
    found = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-2000:]
    # Ray prints lines of its own between them.
    lines = dict(re.findall(r"^(happened|counts): (.*)$", found.stdout, re.MULTILINE))
    assert lines["happened"] == {"worker": "killed", "node": "removed"}[fault]
    done, already, failed = map(int, lines["counts"].split())
    # A batch that was repeated finds the results of its first images.
    assert done + already == 40
    assert failed == 0
    entries = list(read_manifest(tmp_path / "out"))
    assert len({entry["source"] for entry in entries}) == len(entries) == 40
    assert all(Path(tmp_path / "out" / entry["file"]).is_file() for entry in entries)
