import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

import pna
from pna.draw import similarity_figure
from pna.errors import MissingFileError, PnaError
from pna.inference import predictor as module
from pna.inference.predictor import ImageTooLargeError, Predictor
from pna.inference.tiling import TilingConfig
from pna.model.presets import create_model
from tiny_segmenter import by_brightness


def half_bright(height=12, width=16):
    """Left half dark (class 0 of `by_brightness`), right half bright (class 2)."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, width // 2 :] = 255
    return image


def encoded(image):
    """The bytes of a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


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
        assert found.scores is None
        assert np.array_equal(found.image, half_bright())
        assert found.label_space is predictor.model.labels

    @pytest.mark.parametrize("size", [(1, 1), (7, 5), (255, 257), (511, 640)])
    def test_any_size(self, predictor, size):
        found = predictor(half_bright(*size), stages=True, similar=(0, 0), scores=True)
        assert found.labels.shape == size
        assert [labels.shape for labels in found.stages] == [size] * 3
        assert found.scores.shape == (3, *size)
        assert len(found.similarity) == 2

    def test_scores_are_a_softmax_of_the_same_logits(self, predictor):
        found = predictor(half_bright(600, 16), scores=True)  # more rows than one softmax takes
        assert found.scores.dtype == np.float32
        assert found.scores.sum(axis=0) == pytest.approx(1, abs=1e-5)
        assert np.array_equal(found.scores.argmax(axis=0), found.labels)
        dark = predictor.model(torch.zeros(1, 3, 1, 1)).logits.softmax(1)[0, :, 0, 0]
        assert found.scores[:, 0, 0] == pytest.approx(dark.tolist())
        assert found.scores[:, 599, 0] == pytest.approx(dark.tolist())

    @pytest.mark.parametrize("tiling", [TilingConfig(), TilingConfig(tile=(8, 8), flip=True)])
    def test_results_are_plain_data(self, tiling):
        """A result does not change with the model afterwards, and survives pickling."""
        predictor = Predictor(by_brightness(), device="cpu", tiling=tiling)
        found = predictor(half_bright(), stages=True, similar=(3, 4), scores=True)
        scores = found.scores.copy()
        with torch.no_grad():
            predictor.model.classify.weight.zero_()
        again = pickle.loads(pickle.dumps(found))
        assert np.array_equal(found.scores, scores)
        assert np.array_equal(again.scores, scores)
        assert np.array_equal(again.labels, found.labels)
        assert again.label_space == found.label_space
        arrays = [found.image, found.labels, found.scores, *found.stages]
        assert all(type(array) is np.ndarray for array in arrays)
        for one in found.similarity:
            assert one.weights.dtype == torch.float32
            assert one.weights.device.type == "cpu"
            assert not one.weights.is_inference()

    def test_stages_end_in_the_labels_and_begin_coarse(self, predictor):
        image = half_bright()
        image[:, 5:6] = 255  # thinner than the coarse stride
        found = predictor(image, stages=True)
        assert np.array_equal(found.stages[-1], found.labels)
        assert not np.array_equal(found.stages[0], found.labels)

    def test_model_without_stages_has_its_output_as_p0(self):
        predictor = Predictor(by_brightness(num_stages=0), device="cpu")
        found = predictor(half_bright(), stages=True, scores=True)
        assert len(found.stages) == 1
        assert np.array_equal(found.stages[0], found.labels)
        assert np.array_equal(found.scores.argmax(axis=0), found.labels)

    def test_sets_evaluation_mode(self):
        model = by_brightness().train()
        assert Predictor(model, device="cpu").model is model
        assert not model.training

    def test_similarity_point_outside(self, predictor):
        with pytest.raises(
            PnaError, match=r"^the pixel \(x, y\) = \(16, 0\) lies outside the image"
        ):
            predictor(half_bright(), similar=(16, 0))

    def test_an_image_too_large_for_memory_needs_tiles(self, predictor, monkeypatch):
        monkeypatch.setattr(module, "LARGEST_WHOLE", 12 * 16 - 1)
        with pytest.raises(ImageTooLargeError) as error:
            predictor(half_bright())
        assert str(error.value).startswith("the image has 16 x 12 pixels, too many to be run whole")
        assert "TilingConfig(tile=(1024, 1024))" in str(error.value)
        assert "--tile" not in str(error.value)
        in_tiles = Predictor(by_brightness(), device="cpu", tiling=TilingConfig(tile=(8, 8)))
        assert np.array_equal(in_tiles(half_bright()).labels[:, :7], np.zeros((12, 7)))

    def test_too_little_memory_is_said(self):
        """The error of PyTorch's own allocator on a CPU, which has no type of its own."""
        model = by_brightness()
        model.classify.register_forward_hook(
            lambda *arguments: torch.empty(2**62, dtype=torch.uint8)
        )
        with pytest.raises(ImageTooLargeError, match=r"^the memory of cpu does not suffice for an"):
            Predictor(model, device="cpu")(half_bright())

    def test_other_errors_of_a_model_are_its_own(self):
        model = by_brightness()
        model.classify.register_forward_hook(lambda *arguments: torch.ones(2) @ torch.ones(3))
        with pytest.raises(RuntimeError, match="size"):
            Predictor(model, device="cpu")(half_bright())

    def test_an_absent_device_is_said_before_the_model_is_read(self):
        with pytest.raises(PnaError, match=r"^no device 'cuda:99' here: this PyTorch has the CPU"):
            Predictor("no-such-model", device="cuda:99")


class TestInputs:
    @pytest.mark.parametrize(
        "wrap",
        [
            encoded,
            lambda image: io.BytesIO(encoded(image)),
            Image.fromarray,
            lambda image: torch.from_numpy(image).permute(2, 0, 1),
            lambda image: torch.from_numpy(image).permute(2, 0, 1) / 255,
            lambda image: (torch.from_numpy(image).permute(2, 0, 1) / 255).double(),
            lambda image: (torch.from_numpy(image).permute(2, 0, 1) / 255).requires_grad_(),
        ],
        ids=["bytes", "file", "Pillow", "uint8", "float", "double", "gradient"],
    )
    def test_forms_of_an_image(self, predictor, wrap):
        image = half_bright()
        found = predictor(wrap(image))
        assert np.array_equal(found.image, image)
        assert np.array_equal(found.labels, predictor(image).labels)

    def test_files(self, predictor, tmp_path):
        Image.fromarray(half_bright()).save(tmp_path / "a.png")
        for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
            assert np.array_equal(predictor(path).labels, predictor(half_bright()).labels)
        with open(tmp_path / "a.png", "rb") as file:
            assert np.array_equal(predictor(file).labels, predictor(half_bright()).labels)

    def test_a_gray_tensor(self, predictor):
        found = predictor(torch.full((1, 4, 5), 255, dtype=torch.uint8))
        assert found.image.shape == (4, 5, 3)
        assert (found.labels == 2).all()

    def test_a_list_gives_a_list(self, predictor):
        images = [half_bright(), half_bright(5, 7), encoded(half_bright(9, 9))]
        found = predictor(images, scores=True)
        assert [one.labels.shape for one in found] == [(12, 16), (5, 7), (9, 9)]
        assert np.array_equal(found[1].scores, predictor(images[1], scores=True).scores)
        assert predictor([]) == []

    def test_images_of_one_size_run_together(self):
        model = by_brightness()
        sizes = []
        model.register_forward_hook(lambda m, given, out: sizes.append(len(given[0])))
        predictor = Predictor(model, device="cpu", batch_size=2)
        images = [half_bright(), half_bright(5, 7), half_bright(), half_bright(5, 7)[::-1].copy()]
        found = predictor([*images, half_bright()], stages=True, scores=True, similar=None)
        assert sizes == [2, 2, 1]
        alone = Predictor(by_brightness(), device="cpu")
        for one, image in zip(found, images, strict=False):
            expected = alone(image, stages=True, scores=True)
            assert np.array_equal(one.image, image)
            assert np.array_equal(one.labels, expected.labels)
            assert np.array_equal(one.stages[0], expected.stages[0])
            assert np.array_equal(one.scores, expected.scores)

    def test_an_odd_image_does_not_wait_for_the_end(self):
        predictor = Predictor(by_brightness(), device="cpu", batch_size=2)
        images = [half_bright(9, 9), *[half_bright()] * 30]
        numbers = [number for number, _ in predictor.each(images)]
        assert sorted(numbers) == list(range(31))
        assert numbers.index(0) <= 10

    def test_a_tensor_may_be_filled_anew(self):
        predictor = Predictor(by_brightness(), device="cpu", batch_size=3)
        one = torch.empty(3, 4, 5)

        def images():
            for value in (0.0, 1.0, 0.0):
                yield one.fill_(value)

        found = dict(predictor.each(images()))
        assert [int(found[i].labels[0, 0]) for i in range(3)] == [0, 2, 0]
        assert [int(found[i].image[0, 0, 0]) for i in range(3)] == [0, 255, 0]

    @pytest.mark.parametrize("image", ["a.jpg", b"bytes", half_bright(), torch.zeros(3, 4, 5)])
    def test_one_image_is_not_several(self, image):
        with pytest.raises(PnaError, match="^expected several images, got one"):
            next(Predictor(by_brightness(), device="cpu").each(image))

    def test_few_images_of_various_sizes_are_held(self):
        predictor = Predictor(by_brightness(), device="cpu", batch_size=2)
        read = []

        def images():
            for i in range(40):
                read.append(i)
                yield half_bright(4 + i, 8)

        for done, (number, _) in enumerate(predictor.each(images())):
            assert number == done
            assert len(read) - done <= 9

    def test_what_is_too_much_together_runs_alone(self):
        model = by_brightness()

        def fill(module, given, out):
            if len(given[0]) > 1:
                torch.empty(2**62, dtype=torch.uint8)

        model.classify.register_forward_hook(fill)
        predictor = Predictor(model, device="cpu", batch_size=3)
        assert [number for number, _ in predictor.each([half_bright()] * 3)] == [0, 1, 2]
        assert all(one.labels.shape == (12, 16) for one in predictor([half_bright()] * 3))

    @pytest.mark.parametrize("batch_size", [0, 2.5, "4", None])
    def test_no_batch_is_refused(self, batch_size):
        with pytest.raises(PnaError, match=r"^expected batches of at least 1 image"):
            Predictor(by_brightness(), device="cpu", batch_size=batch_size)

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (
                torch.zeros(2, 3, 4, 5),
                r"expected a tensor \(3, H, W\) RGB, got \(2, 3, 4, 5\); pass",
            ),
            (torch.zeros(4, 4), r"expected a tensor \(3, H, W\) RGB, got \(4, 4\)"),
            (torch.zeros(3, 0, 4), r"expected a tensor \(3, H, W\) RGB, got \(3, 0, 4\)"),
            (torch.full((3, 2, 2), -1.5), r"expected a tensor of values in \[0, 1\], not normal"),
            (torch.full((3, 2, 2), torch.nan), r"expected a tensor of values in \[0, 1\]"),
            (torch.zeros(3, 2, 2, dtype=torch.int64), "expected a tensor of uint8 or of floats"),
            (io.StringIO("text"), "expected an image as a path, bytes, .* got StringIO"),
            (7, "expected an image as a path, bytes, a binary file object, .* got int"),
            (None, "expected an image as a path, bytes, a binary file object, .* got NoneType"),
            (b"no image", "can't read the file given as an image"),
            (np.zeros((2, 2, 3)), "can't read the array given as an image: expected uint8 values"),
        ],
    )
    def test_refused_in_words(self, predictor, image, message):
        with pytest.raises(PnaError, match=rf"^{message}"):
            predictor(image)

    def test_a_missing_file(self, predictor, tmp_path):
        with pytest.raises(MissingFileError, match=r"^no image at .*nowhere\.png"):
            predictor(tmp_path / "nowhere.png")


@pytest.fixture(scope="module")
def real():
    return Predictor(create_model("lite", num_classes=4, encoder_weights=None), device="cpu")


class TestRealModel:
    @pytest.mark.parametrize("size", [(1, 1), (7, 5), (65, 97)])
    def test_any_size(self, real, size):
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        point = (size[1] - 1, size[0] - 1)
        found = real(image, stages=True, similar=point, scores=True)
        assert [labels.shape for labels in found.stages] == [size] * 5
        assert np.array_equal(found.scores.argmax(axis=0), found.labels)
        assert [similar.stride for similar in found.similarity] == [32, 32, 16, 8]
        assert similarity_figure(image, point, found.similarity).width > 1600

    def test_equals_the_model(self, real):
        image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        with torch.inference_mode():
            batch = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
            logits = real.model(batch).logits
        assert np.array_equal(real(image).labels, logits[0].argmax(0).numpy())

    def test_from_a_saved_folder(self, real, tmp_path):
        image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        real.model.save_pretrained(tmp_path / "model")
        loaded = Predictor(tmp_path / "model", device="cpu")
        assert np.array_equal(loaded(image).labels, real(image).labels)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("tiling", [TilingConfig(), TilingConfig(tile=(32, 32))])
    def test_models_of_other_types(self, dtype, tiling):
        torch.manual_seed(0)
        model = create_model("lite", num_classes=4, encoder_weights=None)
        image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        expected = Predictor(model, device="cpu", tiling=tiling)(image, scores=True).scores
        found = Predictor(model.to(dtype), device="cpu", tiling=tiling)(
            image, stages=True, similar=(3, 4), scores=True
        )
        assert found.scores.dtype == np.float32
        assert np.abs(found.scores - expected).mean() < 0.01
        assert len(found.stages) == 5

    def test_similarity_without_stages(self):
        model = create_model("lite-fcn", num_classes=4, encoder_weights=None)
        with pytest.raises(PnaError, match="^this model is not refined by PNA"):
            Predictor(model, device="cpu")(half_bright(), similar=(0, 0))

    def test_a_path_through_the_package(self):
        assert pna.Predictor is Predictor
