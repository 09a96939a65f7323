"""`pna segment` on rasters: which files they are, options, progress and pictures."""

import importlib.util

import numpy as np
import pytest
import rasterio
from PIL import Image

from pna.cli import main, rasters, segment
from pna.inference import predictor
from rasters import shades, write_raster
from tiny_segmenter import by_brightness


@pytest.fixture
def run(monkeypatch, tmp_path):
    model = by_brightness()
    monkeypatch.setattr(segment, "load_model", lambda args: model)

    def run_on(*words):
        return main(["segment", *map(str, words), "-o", str(tmp_path / "out"), "--device", "cpu"])

    return run_on


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_with_a_place_is_a_raster_and_others_are_images(run, tmp_path, capsys):
    write_raster(tmp_path / "scene.tif", shades(60, 70))
    Image.fromarray(shades(20, 30).transpose(1, 2, 0)).save(tmp_path / "photo.png")
    Image.fromarray(shades(20, 30).transpose(1, 2, 0)).save(tmp_path / "scan.tif")
    assert run(tmp_path / "scene.tif", tmp_path / "photo.png", tmp_path / "scan.tif") == 0
    assert names(tmp_path / "out") == [
        "photo_labels.png",
        "photo_overlay.png",
        "scan_labels.png",
        "scan_overlay.png",
        "scene_labels.tif",
        "scene_overlay.png",
    ]
    captured = capsys.readouterr()
    assert "[1/3]" in captured.out
    assert "scene.tif: 70 x 60, class_" in captured.out
    assert "scene.tif: 0 of 1 blocks" in captured.err
    with Image.open(tmp_path / "out" / "scene_overlay.png") as overlay:
        assert overlay.size == (70, 60)


def test_large_images_are_rasters(run, tmp_path, monkeypatch):
    monkeypatch.setattr(predictor, "LARGEST_WHOLE", 100)
    monkeypatch.setattr(rasters, "_LARGE_FILE", 1)
    Image.fromarray(shades(60, 70).transpose(1, 2, 0)).save(tmp_path / "photo.png")
    assert run(tmp_path / "photo.png") == 0
    assert names(tmp_path / "out") == ["photo_labels.tif", "photo_overlay.png"]


def test_options(run, tmp_path, capsys):
    path = write_raster(
        tmp_path / "scene.tif",
        shades(60, 70, bands=5, dtype="uint16", top=4000),
        colors=("gray", *["undefined"] * 4),
    )
    assert run(path) == 1
    assert "it has 5 bands" in capsys.readouterr().err
    assert run(path, "--bands", "3,2,1") == 1
    assert "its values are uint16" in capsys.readouterr().err
    options = ("--bands", "3,2,1", "--scale", "0,4095", "--memory", "8GB", "--polygons", "gpkg")
    assert run(path, *options, "--scores", "--tile", "32,32") == 0
    assert " polygons" in capsys.readouterr().out
    assert names(tmp_path / "out") == [
        "scene_labels.gpkg",
        "scene_labels.tif",
        "scene_overlay.png",
        "scene_scores.tif",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--bands", "red"), "expected numbers of bands, from 1"),
        (("--bands", "0"), "expected numbers of bands, from 1"),
        (("--scale", "0"), "expected the values of black and white"),
        (("--scale", "9,1"), "expected the values of black and white, the lower first"),
        (("--memory", "lots"), "expected an amount of memory such as 2GB or 800MB, got 'lots'"),
        (("--polygons", "shp"), "invalid choice"),
    ],
)
def test_wrong_options(run, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit):
        run(tmp_path / "scene.tif", *words)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--stages",), ("--similar", "3,3")])
def test_pictures_of_stages_are_not_for_rasters(run, tmp_path, capsys, words):
    path = write_raster(tmp_path / "scene.tif", shades(60, 70))
    assert run(path, *words) == 2
    assert f"{words[0]} is for images that are read whole" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_image_with_an_option_of_rasters_is_one(run, tmp_path):
    Image.fromarray(shades(20, 30).transpose(1, 2, 0)).save(tmp_path / "photo.png")
    assert run(tmp_path / "photo.png", "--memory", "8GB") == 0
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        labels = rasterio.open(tmp_path / "out" / "photo_labels.tif")
    with labels:
        assert labels.crs is None
        assert set(np.unique(labels.read(1)).tolist()) <= {0, 1, 2}


@pytest.mark.filterwarnings("default")
def test_without_rasterio(run, tmp_path, monkeypatch, capsys):
    path = write_raster(tmp_path / "scene.tif", shades(60, 70))
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "rasterio" else find(name)
    )
    assert run(path) == 0
    assert "without its place on the earth: pip install" in capsys.readouterr().err
    assert names(tmp_path / "out") == ["scene_labels.png", "scene_overlay.png"]
