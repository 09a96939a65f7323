"""An ONNX file behind `Predictor` and the commands: the same labels as the model in PyTorch."""

import numpy as np
import pytest
import torch

import pna
from color_segmenter import ColorSegmenter
from pna.errors import MissingFileError, PnaError, UnsupportedError
from pna.export.onnx_segmenter import OnnxSegmenter
from pna.inference.segment import stage_labels
from pna.model.config import InferenceSize

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """With stages, and with the final logits alone."""
    folder = tmp_path_factory.mktemp("files")
    for stages in (True, False):
        pna.export_model(ColorSegmenter(), folder / f"{stages}.onnx", stages=stages)
    return {stages: folder / f"{stages}.onnx" for stages in (True, False)}


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (21, 30, 3), np.uint8)


@pytest.mark.parametrize(
    "tiling",
    [
        pna.TilingConfig(),
        pna.TilingConfig(tile=(8, 12), flip=True),
        pna.TilingConfig(scales=(0.5, 1.0)),
    ],
)
def test_predictions_are_those_of_pytorch(files, image, tiling):
    expected = pna.Predictor(ColorSegmenter(), device="cpu", tiling=tiling)(
        image, stages=True, scores=True
    )
    for stages, file in files.items():
        predictor = pna.Predictor(file, device="cpu", tiling=tiling)
        found = predictor(image, stages=stages, scores=True)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
        assert (found.labels == expected.labels).mean() > 0.99
        assert found.label_space == expected.label_space
        assert len(found.stages) == (3 if stages else 0)
        for a, b in zip(found.stages, expected.stages, strict=False):
            assert (a == b).mean() > 0.99


def test_images_are_resized_as_the_model_says(image, tmp_path):
    model = ColorSegmenter()
    model.inference_size = InferenceSize(10, 40)
    pna.export_model(model, tmp_path / "model.onnx")
    expected = pna.Predictor(model, device="cpu")(image, scores=True).scores
    own = pna.Predictor(ColorSegmenter(), device="cpu")(image, scores=True).scores
    found = pna.Predictor(tmp_path / "model.onnx", device="cpu")(image, scores=True).scores
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - own).max() > 0.01


def test_a_batch(files):
    images = torch.rand(2, 3, 9, 10)
    found = stage_labels(OnnxSegmenter(files[True]), images)
    assert torch.equal(found.final, stage_labels(ColorSegmenter().eval(), images).final)


class TestRefusals:
    def test_stages_that_are_not_in_the_file(self, files, image):
        with pytest.raises(PnaError, match=r"False.onnx returns its final logits alone.*--stages"):
            pna.Predictor(files[False], device="cpu")(image, stages=True)

    def test_what_the_file_lacks_ends_a_list_at_once(self, files, image):
        predictor = pna.Predictor(files[False], device="cpu")
        for options in ({"stages": True}, {"similar": (1, 1)}):
            with pytest.raises(UnsupportedError):
                list(predictor.each([image, image], **options))

    def test_images_of_another_shape(self, files):
        for shape in ((1, 1, 4, 4), (0, 3, 4, 4)):
            with pytest.raises(PnaError, match=r"expected images \(B, 3, H, W\), RGB, got"):
                OnnxSegmenter(files[True])(torch.rand(shape))

    def test_similarity_and_features(self, files, image):
        with pytest.raises(PnaError, match="returns no attention weights"):
            pna.Predictor(files[True], device="cpu")(image, similar=(1, 1))
        with pytest.raises(PnaError, match="returns logits alone: load the saved model"):
            OnnxSegmenter(files[True]).encode(torch.rand(1, 3, 4, 4))

    def test_no_file(self, tmp_path):
        with pytest.raises(MissingFileError, match=r"no model at .*nothing.onnx"):
            pna.Predictor(tmp_path / "nothing.onnx", device="cpu")

    def test_a_damaged_file(self, tmp_path):
        file = tmp_path / "damaged.onnx"
        file.write_bytes(b"no graph")
        with pytest.raises(PnaError, match=r"damaged.onnx: onnxruntime .* cannot open it"):
            pna.Predictor(file, device="cpu")

    def test_a_file_of_another_program(self, files, tmp_path):
        model = onnx.load(files[True])
        del model.metadata_props[:]
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(PnaError, match=r"other.onnx: expected a file of `pna export`"):
            pna.Predictor(tmp_path / "other.onnx", device="cpu")

    def test_a_file_of_another_task(self, files, tmp_path):
        model = onnx.load(files[True])
        text = model.metadata_props[0].value.replace('"segmentation"', '"upsampling"')
        onnx.helper.set_model_props(model, {"pna": text})
        onnx.save(model, tmp_path / "other.onnx")
        with pytest.raises(PnaError, match="expected a segmentation model, got one for upsampling"):
            OnnxSegmenter(tmp_path / "other.onnx")

    def test_where_other_files_run(self, tmp_path):
        for name, remedy in (("a.pt2", "torch.export.load"), ("a.pth", "pna convert")):
            (tmp_path / name).write_bytes(b"")
            with pytest.raises(PnaError, match=f"{name} is a file, expected the folder.*{remedy}"):
                pna.Predictor(tmp_path / name, device="cpu")

    def test_a_provider_that_is_not_installed(self, files):
        with pytest.raises(PnaError, match=r"does not run on cuda:3: it has .*--device cpu"):
            OnnxSegmenter(files[True], torch.device("cuda:3"))

    def test_images_of_another_range_are_warned_of(self, files):
        with pytest.warns(UserWarning, match=r"expected images in \[0, 1\]"):
            OnnxSegmenter(files[True])(torch.full((1, 3, 4, 4), 200.0))


def test_a_file_of_one_size_takes_batches_one_by_one(tmp_path):
    file = tmp_path / "fixed.onnx"
    pna.export_model(ColorSegmenter(), file, size=(8, 12))
    images = list(np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), np.uint8))
    expected = pna.Predictor(ColorSegmenter(), device="cpu")(images, scores=True)
    found = pna.Predictor(file, device="cpu", batch_size=2)(images, scores=True)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-5)
