"""Real images of owners whose archives are not at hand: read, drawn and scored."""

import numpy as np
import pytest

import pna
from pna.data import DeepGlobe, Trans10k, deepglobe
from pna.draw import overlay
from pna.evaluate import evaluate
from pna.inference.tiling import TilingConfig
from pna.labels import TRANS10K
from tiny_segmenter import by_brightness

pytestmark = pytest.mark.data


@pytest.fixture
def satellite(shared_data, tmp_path, monkeypatch):
    (tmp_path / "deepglobe_train.txt").write_text("119\n855\n")
    monkeypatch.setattr(deepglobe, "LISTS", tmp_path)
    return DeepGlobe(shared_data / "samples" / "deepglobe")


@pytest.fixture
def glass(shared_data, tmp_path):
    """Photos of transparent things, with the layout and the coding of Trans10K."""
    for name in ("images", "masks"):
        (tmp_path / "train" / name).mkdir(parents=True)
    for mask in sorted((shared_data / "samples" / "cleargrasp" / "real-val").rglob("*-mask.png")):
        stem = mask.name.removesuffix("-mask.png")
        image = mask.with_name(f"{stem}-transparent-rgb-img.jpg")
        (tmp_path / "train" / "images" / f"{stem}.jpg").symlink_to(image)
        (tmp_path / "train" / "masks" / f"{stem}_mask.png").symlink_to(mask)
    return Trans10k(tmp_path, "train")


def test_satellite_images(satellite):
    first, second = satellite
    assert first.image.shape == (3, 2448, 2448)
    urban, agriculture, rangeland, _, water, _ = range(6)
    assert set(first.labels.unique().tolist()) == {urban, agriculture, rangeland, water}
    assert set(second.labels.unique().tolist()) == {*range(6)}


def test_transparent_things(glass):
    assert len(glass) == 4
    for sample in glass:
        assert sample.image.shape == (3, 720, 1280)
        # Their masks are white, which Trans10K has for stuff such as windows.
        assert set(sample.labels.unique().tolist()) == {0, TRANS10K.classes.index("stuff")}
        assert 0.001 < (sample.labels > 0).float().mean() < 0.3


@pytest.mark.parametrize("name", ["satellite", "glass"])
def test_they_are_drawn_and_scored(request, name):
    dataset = request.getfixturevalue(name)
    model = by_brightness(dataset.labels)
    image, labels = dataset.read_raw(0)
    drawn = overlay(image.permute(1, 2, 0).numpy(), labels.numpy(), dataset.labels)
    assert drawn.size == tuple(image.shape[:0:-1])
    shown = (labels == labels.max()).numpy()  # a class with a color of its own, and white lines
    color = np.array(dataset.labels.colors[int(labels.max())])
    plain = image.permute(1, 2, 0).numpy()[shown].mean(0)
    np.testing.assert_allclose(np.asarray(drawn)[shown].mean(0), (plain + color) / 2, atol=15)

    tiling = TilingConfig(tile=(640, 640))
    report = evaluate(model, dataset, limit=1, progress=False, tiling=tiling)
    assert list(report.stages) == ["P0", "P1", "P2"]
    found = pna.Predictor(model, device="cpu", tiling=tiling)(image, stages=True)
    for scores, predicted in zip(report.stages.values(), found.stages, strict=True):
        assert scores.num_pixels == labels.numel()
        assert scores.pixel_accuracy == pytest.approx((predicted == labels.numpy()).mean())
        assert 0 < scores.miou < 1
