import numpy as np
import pytest
import torch
from PIL import Image

from pna.data.pictures import read_picture
from pna.draw import similarity_figure
from pna.model.presets import create_model
from pna.predict import Predictor, default_device
from pna.views import Views
from tiny_segmenter import by_brightness


def half_bright(height=12, width=16):
    """Left half dark (class 0 of `by_brightness`), right half bright (class 2)."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[:, width // 2 :] = 255
    return picture


@pytest.fixture
def predictor():
    return Predictor(by_brightness(), device="cpu")


class TestPredictor:
    def test_labels(self, predictor):
        found = predictor(half_bright())
        assert found.labels.dtype == np.uint8
        assert np.array_equal(found.labels, np.repeat([[0] * 8 + [2] * 8], 12, axis=0))
        assert found.stages == []
        assert found.similarity is None
        assert np.array_equal(found.picture, half_bright())
        assert found.label_space is predictor.model.labels

    @pytest.mark.parametrize("size", [(1, 1), (7, 5), (255, 257), (511, 640)])
    def test_any_size(self, predictor, size):
        found = predictor(half_bright(*size), stages=True, similar=(0, 0))
        assert found.labels.shape == size
        assert [labels.shape for labels in found.stages] == [size] * 3
        assert found.scores.shape == (3, *size)
        assert len(found.similarity) == 2

    def test_scores_are_a_softmax_of_the_same_logits(self, predictor):
        found = predictor(half_bright())
        assert found.scores.dtype == np.float32
        assert found.scores.sum(axis=0) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(found.scores.argmax(axis=0), found.labels)
        assert found.scores is found.scores  # kept

    def test_stages_end_in_the_labels_and_begin_coarse(self, predictor):
        picture = half_bright()
        picture[:, 5:6] = 255  # thinner than the coarse stride
        found = predictor(picture, stages=True)
        assert np.array_equal(found.stages[-1], found.labels)
        assert not np.array_equal(found.stages[0], found.labels)

    def test_model_without_stages_has_its_output_as_p0(self):
        found = Predictor(by_brightness(num_stages=0), device="cpu")(half_bright(), stages=True)
        assert len(found.stages) == 1
        assert np.array_equal(found.stages[0], found.labels)
        assert np.array_equal(found.scores.argmax(axis=0), found.labels)

    def test_sets_evaluation_mode(self):
        model = by_brightness().train()
        Predictor(model, device="cpu")
        assert not model.training

    def test_similarity_point_outside(self, predictor):
        with pytest.raises(ValueError, match=r"\(16, 0\) lies outside the picture of 16 x 12"):
            predictor(half_bright(), similar=(16, 0))

    def test_a_picture_too_large_for_memory_wants_tiles(self, predictor, monkeypatch):
        monkeypatch.setattr("pna.predict.LARGEST_WHOLE", 12 * 16 - 1)
        with pytest.raises(ValueError, match="16 x 12 pixels, too many.*--tile 1024,1024"):
            predictor(half_bright())
        in_tiles = Predictor(by_brightness(), device="cpu", views=Views(tile=(8, 8)))
        assert np.array_equal(in_tiles(half_bright()).labels[:, :7], np.zeros((12, 7)))

    def test_default_device(self):
        expected = "cuda" if torch.cuda.is_available() else "cpu"
        assert default_device().type == expected
        assert Predictor(by_brightness()).device.type == expected

    def test_reads_files(self, predictor, tmp_path):
        Image.fromarray(half_bright()).save(tmp_path / "a.png")
        assert np.array_equal(predictor(tmp_path / "a.png").labels, predictor(half_bright()).labels)


@pytest.fixture(scope="module")
def real():
    return Predictor(create_model("lite", num_classes=4, pretrained=False), device="cpu")


class TestRealModel:
    @pytest.mark.parametrize("size", [(1, 1), (7, 5), (65, 97)])
    def test_any_size(self, real, size):
        picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        found = real(picture, stages=True, similar=(size[1] - 1, size[0] - 1))
        assert [labels.shape for labels in found.stages] == [size] * 5
        assert np.array_equal(found.scores.argmax(axis=0), found.labels)
        assert [similar.stride for similar in found.similarity] == [32, 16, 8, 4]
        assert similarity_figure(picture, (size[1] - 1, size[0] - 1), found.similarity).width > 1600

    def test_equals_the_model(self, real):
        picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        with torch.inference_mode():
            batch = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255
            logits = real.model(batch).logits
        assert np.array_equal(real(picture).labels, logits[0].argmax(0).numpy())

    def test_from_a_saved_folder(self, real, tmp_path):
        picture = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        real.model.save_pretrained(tmp_path / "model")
        loaded = Predictor(tmp_path / "model", device="cpu")
        assert np.array_equal(loaded(picture).labels, real(picture).labels)

    def test_similarity_without_stages(self):
        model = create_model("lite-fcn", num_classes=4, pretrained=False)
        with pytest.raises(ValueError, match="not refined by PNA"):
            Predictor(model, device="cpu")(half_bright(), similar=(0, 0))


class TestReadPicture:
    def test_exif_rotation(self, tmp_path):
        picture = np.zeros((4, 6, 3), dtype=np.uint8)
        picture[0, :] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # shown turned by 90 degrees clockwise
        Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
        upright = read_picture(tmp_path / "a.png")
        assert upright.shape == (6, 4, 3)
        assert np.array_equal(upright, np.rot90(picture, -1))

    def test_rgb_array_is_copied(self):
        picture = half_bright()
        read = read_picture(picture)
        read[:] = 7
        assert np.array_equal(picture, half_bright())

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGBA", "LA"])
    def test_modes(self, mode):
        image = Image.fromarray(half_bright()).convert(mode)
        read = read_picture(image)
        assert read.shape == (12, 16, 3)
        assert read.dtype == np.uint8
        assert np.abs(read.astype(int) - half_bright()).max() <= 2

    def test_transparency_is_laid_over_white(self):
        rgba = np.zeros((2, 2, 4), dtype=np.uint8)
        rgba[0, 0] = (10, 20, 30, 255)
        rgba[0, 1] = (0, 0, 0, 128)
        read = read_picture(rgba)
        assert read[0, 0].tolist() == [10, 20, 30]
        assert read[0, 1].tolist() == [127, 127, 127]
        assert read[1, 1].tolist() == [255, 255, 255]

    def test_transparent_palette(self, tmp_path):
        image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.save(tmp_path / "a.png", transparency=0)
        assert read_picture(tmp_path / "a.png").tolist() == [[[255, 255, 255], [40, 50, 60]]]

    def test_16_bit_grey(self, tmp_path):
        values = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
        Image.fromarray(values).save(tmp_path / "a.png")
        for picture in (tmp_path / "a.png", values):
            assert read_picture(picture)[0, :, 0].tolist() == [0, 0, 1, 255]

    @pytest.mark.parametrize(
        ("picture", "message"),
        [
            (np.zeros((2, 2, 3)), "expected uint8 values .* got float64"),
            (np.zeros((2, 2, 5), np.uint8), r"got shape \(2, 2, 5\)"),
            (np.zeros((0, 2, 3), np.uint8), r"got shape \(0, 2, 3\)"),
            (Image.fromarray(np.zeros((2, 2), np.float32)), "floating-point values"),
            (Image.fromarray(np.full((2, 2), 70000, np.int32)), r"lie in \[70000, 70000\]"),
        ],
    )
    def test_errors(self, picture, message):
        with pytest.raises(ValueError, match=message):
            read_picture(picture)

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no picture at .*nowhere\.png"):
            read_picture(tmp_path / "nowhere.png")

    def test_broken_files_are_named(self, tmp_path):
        text = tmp_path / "text.png"
        text.write_text("no picture")
        cut = tmp_path / "cut.png"
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(cut)
        cut.write_bytes(cut.read_bytes()[:500])
        for path in (text, cut, tmp_path):
            with pytest.raises(ValueError, match=rf"can't read .*{path.name} as a picture"):
                read_picture(path)
