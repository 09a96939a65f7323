"""What the page asks for, without a browser: bounds, tiles, times, views and files."""

import numpy as np
import pytest
import rasterio
from PIL import Image

import pna
from mask_networks import Bright
from pna.app import desk as desk_module
from pna.app.desk import Desk
from pna.app.views import (
    VIEWS,
    compare,
    draw,
    legend,
    report,
    save,
    save_mask,
    shown,
    times,
)
from pna.draw import errors_figure, mask_figure
from pna.labels import IGNORE_INDEX
from tiny_segmenter import TinySegmenter


@pytest.fixture
def desk(monkeypatch):
    """Two models of known answers: of three classes, and of two stages less."""
    models = {"tiny": TinySegmenter(), "flat": TinySegmenter(num_stages=0)}
    monkeypatch.setattr(desk_module, "open_model", lambda name, **_: models[name])
    return Desk(["tiny", "flat"], device="cpu")


@pytest.fixture
def photo():
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture
def result(desk, photo):
    return desk.segment(photo, "tiny")


@pytest.fixture(scope="module")
def lite():
    return Desk(["voc-lite"], device="cpu")


def test_a_result_is_the_predictors(desk, photo, result):
    model = desk.predictor("tiny").model
    expected = pna.Predictor(model, device="cpu")(photo, stages=True, scores=True)
    assert len(result.stages) == 3
    np.testing.assert_array_equal(result.stages[-1], expected.labels)
    np.testing.assert_array_equal(
        result.confidence, (255 * expected.scores.max(0)).round().astype(np.uint8)
    )


def test_a_model_without_stages_has_one_output(desk, photo):
    result = desk.segment(photo, "flat")
    assert len(result.stages) == 1
    assert draw(result, 4, "overlay").size == (60, 40)


def test_parts_are_timed_and_hooks_removed():
    desk = Desk(["voc-lite"], device="cpu")
    desk.warm_up()
    result = desk.segment(np.zeros((60, 80, 3), np.uint8), "voc-lite")
    assert list(result.seconds) == ["features", "P0", "P1", "P2", "P3", "P4", "all"]
    assert sum(s for name, s in result.seconds.items() if name != "all") > 0
    model = desk.predictor("voc-lite").model
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert "voc-lite" not in times(result)
    assert "80 x 60 pixels" in times(result)


def test_large_images_run_in_tiles(desk, monkeypatch):
    monkeypatch.setattr(desk_module, "WHOLE_PIXELS", 1000)
    result = desk.segment(np.zeros((40, 60, 3), np.uint8), "tiny")
    assert result.tiling.tile == (1024, 1024)
    assert "tiles" in times(result)


def test_too_large_images_are_refused(desk, monkeypatch):
    monkeypatch.setattr(desk_module, "MOST_PIXELS", 1000)
    with pytest.raises(pna.PnaError, match="60 x 40 pixels; this page takes up to 1,000"):
        desk.segment(np.zeros((40, 60, 3), np.uint8), "tiny")


def test_other_models_and_none_are_refused(desk, photo):
    with pytest.raises(pna.PnaError, match="expected one of the models tiny, flat, got 'other'"):
        desk.segment(photo, "other")
    with pytest.raises(pna.PnaError, match="no model to offer"):
        Desk([])


def test_models_of_bands_are_refused(monkeypatch):
    model = TinySegmenter()
    model.mean = model.mean[:1].expand(5, 1, 1)
    monkeypatch.setattr(desk_module, "open_model", lambda name, **_: model)
    with pytest.raises(pna.PnaError, match="wide takes images of 5 bands"):
        Desk(["wide"], device="cpu").warm_up()


def test_a_damaged_file_is_named(desk, tmp_path):
    file = tmp_path / "photo.jpg"
    file.write_bytes(b"no image")
    with pytest.raises(pna.PnaError, match=r"photo\.jpg"):
        desk.segment(file, "tiny")


class TestSimilar:
    def test_it_draws_the_paper_figure(self, lite):
        result = lite.segment(np.zeros((60, 80, 3), np.uint8), "voc-lite")
        figure, text = lite.similar(result, (30, 20))
        assert figure.width > 4 * 300
        assert "Pixel (30, 20)" in text

    def test_of_a_large_image_a_part_is_looked_at(self, lite, monkeypatch):
        monkeypatch.setattr(desk_module, "WHOLE_PIXELS", 1000)
        monkeypatch.setattr(desk_module, "TILES", pna.TilingConfig(tile=(64, 64)))
        image = np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)
        result = lite.segment(image, "voc-lite")
        sizes = []
        model = lite.predictor("voc-lite").model
        hook = model.encoder.register_forward_pre_hook(
            lambda _, args: sizes.append(tuple(args[0].shape[-2:]))
        )
        for point in ((0, 0), (199, 149), (100, 75)):
            figure, _ = lite.similar(result, point)
            assert figure.width > 0
        hook.remove()
        assert set(sizes) == {(64, 64)}

    def test_a_pixel_outside_is_refused(self, lite):
        result = lite.segment(np.zeros((60, 80, 3), np.uint8), "voc-lite")
        with pytest.raises(pna.PnaError, match="lies outside"):
            lite.similar(result, (80, 20))


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("stage", [0, 2, 9])
def test_views(result, view, stage):
    picture = draw(result, stage, view)
    assert picture.size == (60, 40)
    assert picture.mode == "RGB"


def test_confidence_is_gray_and_an_unknown_view_an_error(result):
    pixels = np.asarray(draw(result, 0, "confidence"))
    np.testing.assert_array_equal(pixels[..., 0], result.confidence)
    with pytest.raises(pna.PnaError, match="expected a view of overlay"):
        draw(result, 0, "other")


def test_pictures_of_a_page_are_not_larger_than_it_needs():
    assert shown(Image.new("RGB", (4000, 1000))).size == (1600, 400)
    assert shown(Image.new("RGB", (300, 200))).size == (300, 200)


def test_the_legend_has_shares_and_escapes_names(result):
    text = legend(result, 2)
    counts = np.bincount(result.stages[2].ravel(), minlength=256)
    assert f"{100 * counts.max() / counts.sum():.1f} %" in text
    assert text.count("<tr>") == 1 + np.count_nonzero(counts)
    space = pna.LabelSpace("odd", ("<b>", "b", "c"), result.label_space.colors)
    labels = result.stages[2].copy()
    labels[0] = 0
    labels[1] = IGNORE_INDEX
    odd = desk_module.Result(**{**vars(result), "label_space": space, "stages": [labels]})
    assert "&lt;b&gt;" in legend(odd, 0)
    assert "ignored" in legend(odd, 0)


def test_files_hold_the_stage(result, tmp_path):
    files = save(result, 0, tmp_path / "new")
    assert set(files) == {"labels", "overlay", "polygons"}
    with Image.open(files["labels"]) as image:
        np.testing.assert_array_equal(np.asarray(image), result.stages[0])
    import fiona

    with fiona.open(files["polygons"]) as layer:
        assert {f["properties"]["class"] for f in layer} == {
            result.label_space.classes[i] for i in np.unique(result.stages[0])
        }


@pytest.mark.filterwarnings("error::rasterio.errors.NotGeoreferencedWarning")
def test_writing_polygons_of_a_photo_does_not_warn(result, tmp_path):
    assert rasterio.__version__
    save(result, 0, tmp_path)


def test_two_models_are_compared(desk, photo):
    one, other = desk.segment(photo, "tiny"), desk.segment(photo, "flat")
    share = 100 * (one.stages[-1] != other.stages[-1]).mean()
    assert compare(one, other).startswith(f"{share:.1f} % of the pixels have another class. tiny")
    space = pna.LabelSpace("others", ("a", "b", "c"), one.label_space.colors)
    odd = desk_module.Result(**{**vars(other), "label_space": space})
    assert "different classes" in compare(one, odd)


class TestRefine:
    """A mask of a photo."""

    @pytest.fixture
    def files(self, desk, tmp_path, monkeypatch):
        """A photo whose left half is bright, and a mask that is 4 pixels off."""
        monkeypatch.setattr(desk_module, "bundled_mask_refiner", lambda device: Bright())
        pixels = np.full((40, 60, 3), 20, np.uint8)
        pixels[:, :30] = 230
        mask = np.zeros((40, 60), np.uint8)
        mask[:, :34] = 7
        paths = tmp_path / "photo.png", tmp_path / "mask.png"
        for path, array in zip(paths, (pixels, mask), strict=True):
            Image.fromarray(array).save(path)
        return paths

    def test_it_is_refined_and_saved_as_its_own_kind(self, desk, files, tmp_path):
        result = desk.refine(*files, strength=0.5, radius=None)
        (tmp_path / "out").mkdir()
        file = save_mask(result, tmp_path / "out")
        assert file.name == "mask.png"
        written = np.asarray(Image.open(file))
        assert (written[:, :30] == 7).all()
        assert (written[:, 30:] == 0).all()
        assert "60 x 40 pixels, labels, 6.7 % changed" in report(result)

    def test_pictures(self, desk, files):
        result = desk.refine(*files, strength=0.5, radius=None)
        pictures = [
            mask_figure(result.image, result.given.array),
            mask_figure(result.image, result.mask),
            errors_figure(result.wrong),
        ]
        assert {picture.size for picture in pictures} == {(60, 40)}
        wrong = np.asarray(pictures[2])[20]
        assert wrong[32] > 250
        assert wrong[10] < 5

    def test_settings(self, desk, files):
        for options in ({"strength": 0, "radius": None}, {"strength": 1, "radius": 0}):
            result = desk.refine(*files, **options)
            np.testing.assert_array_equal(result.mask, result.given.array)

    def test_errors_name_files_without_their_folders(self, desk, files, tmp_path):
        Image.new("L", (20, 30)).save(files[1])
        with pytest.raises(pna.PnaError, match="mask mask.png has 20 x 30 pixels") as found:
            desk.refine(*files, strength=0.5, radius=None)
        assert str(tmp_path) not in str(found.value)

    def test_a_mask_without_an_edge_is_said_to_have_none(self, desk, files):
        Image.new("L", (60, 40)).save(files[1])
        assert "no edge" in report(desk.refine(*files, strength=0.5, radius=None))
