"""`pna.export_model`: parity at every size, the text inside, refusals that leave no file."""

import json

import numpy as np
import pytest
import torch
from torch import nn

import pna
from color_segmenter import ColorSegmenter
from pna.errors import PnaError
from pna.export import parity, write
from pna.export.description import KEY, Description
from pna.export.graph import SIZES
from pna.export.int8 import calibration_tensors
from pna.export.onnx_segmenter import OnnxSegmenter
from pna.labels import VOC
from pna.model.config import InferenceSize

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture(scope="module")
def model():
    return ColorSegmenter()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """The model with its stages in an ONNX file."""
    file = tmp_path_factory.mktemp("exported") / "model.onnx"
    return pna.export_model(model, file, stages=True)


class TestOnnx:
    def test_parity_at_five_sizes(self, exported):
        assert [each.shape[-2:] for each in exported.parity] == [*SIZES]
        assert max(each.difference for each in exported.parity) < 1e-4
        assert min(each.agreement for each in exported.parity) > 0.999
        assert [path.name for path in exported.file.parent.iterdir()] == ["model.onnx"]

    def test_it_runs_without_pna(self, exported, model):
        """Sizes and batches that it was not compared at, with the names of the free sizes."""
        session = onnxruntime.InferenceSession(exported.file)
        (given,) = session.get_inputs()
        assert (given.name, given.shape) == ("images", ["batch", 3, "height", "width"])
        logits = session.get_outputs()[0]
        assert (logits.name, logits.shape) == ("logits", ["batch", 3, "height", "width"])
        for size in ((1, 1), (2, 9), (31, 8)):
            images = torch.rand(3, 3, *size)
            found = session.run(["logits", "p0", "p1"], {"images": images.numpy()})
            output = model.eval()(images, stages=True)
            expected = [output.logits]
            expected += [model.upsample(x, size) for x in (output.coarse, output.stages[0])]
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(torch.from_numpy(a), b, rtol=1e-4, atol=1e-5)

    def test_the_text_inside(self, exported, model):
        session = onnxruntime.InferenceSession(exported.file)
        text = session.get_modelmeta().custom_metadata_map[KEY]
        values = json.loads(text)
        assert values["labels"]["classes"] == [*model.labels.classes]
        assert values["labels"]["colors"] == [[*color] for color in model.labels.colors]
        assert values["ignore_index"] == 255
        assert values["mean"] == pytest.approx([0.4] * 3)
        assert list(values["outputs"]) == ["logits", "p0", "p1"]
        assert Description.from_json(text, exported.file) == exported.description

    def test_half(self, model, tmp_path):
        report = pna.export_model(model, tmp_path / "half.onnx", precision="float16")
        assert 0 < max(each.difference for each in report.parity) < 0.02
        image = np.zeros((6, 7, 3), np.uint8)
        assert pna.Predictor(report.file, device="cpu")(image).labels.shape == (6, 7)

    def test_one_size(self, model, tmp_path):
        report = pna.export_model(model, tmp_path / "fixed.onnx", size=(10, 14))
        assert [each.shape for each in report.parity] == [(1, 3, 10, 14)]
        predictor = pna.Predictor(report.file, device="cpu")
        assert predictor(np.zeros((10, 14, 3), np.uint8)).labels.shape == (10, 14)
        with pytest.raises(PnaError, match=r"takes images of 10x14 .*got 20x30: .*--tile 10,14"):
            predictor(np.zeros((20, 30, 3), np.uint8))
        tiles = pna.TilingConfig(tile=(10, 14))
        predictor = pna.Predictor(report.file, device="cpu", tiling=tiles)
        assert predictor(np.zeros((20, 30, 3), np.uint8)).labels.shape == (20, 30)

    def test_images_of_other_channels(self, tmp_path):
        report = pna.export_model(ColorSegmenter(channels=4), tmp_path / "four.onnx")
        assert (
            "(batch, 4, height, width) float32, 4 channels" in report.description.inputs["images"]
        )

    def test_int8(self, model, tmp_path):
        images = [np.random.default_rng(i).integers(0, 256, (40, 50, 3), np.uint8) for i in (0, 1)]
        report = pna.export_model(
            model, tmp_path / "int8.onnx", precision="int8", calibration=images
        )
        assert report.loss.num_images == 2
        assert 0.8 < report.loss.agreement <= 1
        assert 0.5 < report.loss.miou <= 1
        assert OnnxSegmenter(report.file).labels == model.labels
        assert OnnxSegmenter(report.file)._session.description.precision == "int8"


class TestPt2:
    def test_it_runs_without_pna(self, model, tmp_path):
        report = pna.export_model(model, tmp_path / "model.pt2", to="pt2", stages=True)
        assert max(each.difference for each in report.parity) < 1e-4
        # Weights and graph, not the images that were traced: those alone are 5 MB.
        assert report.file.stat().st_size < 1e6
        extra = {f"{KEY}.json": ""}
        program = torch.export.load(report.file, extra_files=extra)
        assert Description.from_json(extra[f"{KEY}.json"], report.file) == report.description
        images = torch.rand(2, 3, 17, 1)
        logits, *earlier = program.module(check_guards=False)(images)
        torch.testing.assert_close(logits, model.eval()(images).logits)
        assert len(earlier) == 2


class Pinned(ColorSegmenter):
    """Another function where the padded width is that of the traced image."""

    origin = "a pinned network"

    def encode(self, images):
        return super().encode(images * 2 if images.shape[-1] == 804 else images)


class OneWidth(ColorSegmenter):
    """Takes images of one padded width alone."""

    def __init__(self):
        super().__init__()
        self.along = nn.Linear(804, 804)

    def encode(self, images):
        return super().encode(self.along(images))


class NoGraph(ColorSegmenter):
    """Reads a value, which no graph holds."""

    origin = "a network that reads values"

    def encode(self, images):
        return super().encode(images * 2 if float(images.mean()) > 0 else images)


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("model.onnx", {"to": "pt2"}, r"model.onnx: expected a name that ends in .pt2"),
            ("model.pt", {}, r"model.pt: expected a name that ends in .onnx"),
            ("no/model.onnx", {}, r"no/model.onnx: there is no folder"),
            ("model.onnx", {"to": "tflite"}, "expected a format of .*onnx.*pt2.*, got 'tflite'"),
            ("model.onnx", {"precision": "int4"}, "expected a precision of .*, got 'int4'"),
            ("model.onnx", {"precision": "int8"}, 'int8 needs to="onnx" and calibration images'),
            ("model.onnx", {"calibration": ["a.png"]}, "calibration images are for .*'float32'"),
            ("model.onnx", {"size": (0, 4)}, r"expected a size .* at least \(1, 1\), got \(0, 4\)"),
        ],
    )
    def test_options(self, model, tmp_path, name, options, message):
        with pytest.raises(PnaError, match=message):
            pna.export_model(model, tmp_path / name, **options)
        assert list(tmp_path.iterdir()) == []

    def test_another_result_leaves_the_old_file(self, model, tmp_path, monkeypatch):
        """A graph that computes something else is an error, whatever the cause."""
        file = tmp_path / "model.pt2"
        file.write_text("old")

        def off(program, graph, beside):
            run = write_pt2(program, graph, beside)
            return lambda inputs: [x + 1 for x in run(inputs)]

        write_pt2 = write._write_pt2
        monkeypatch.setattr(write, "_write_pt2", off)
        with pytest.raises(PnaError, match=r"model.pt2 is not written: expected outputs that diff"):
            pna.export_model(model, file, to="pt2")
        assert [path.name for path in tmp_path.iterdir()] == ["model.pt2"]
        assert file.read_text() == "old"

    def test_values_that_are_no_numbers(self):
        nan = parity.Parity((1, 3, 4, 4), float("nan"), 1.0)
        with pytest.raises(PnaError, match=r"^x.onnx is not written: .*1x3x4x4: difference nan"):
            parity.check([nan], "float32", "x.onnx")

    def test_an_output_of_another_shape(self):
        with pytest.raises(
            PnaError, match=r"expected logits of \(1, 2, 3, 3\) .*got \(1, 2, 4, 3\)"
        ):
            parity.compare(
                lambda x: (x,),
                lambda inputs: [torch.zeros(1, 2, 4, 3)],
                (torch.zeros(1, 2, 3, 3),),
                ["logits"],
            )

    @pytest.mark.parametrize(
        ("network", "message"),
        [
            (Pinned, r"model.pt2 is not written: .*1x3x5x7: difference.*for images of one size"),
            (OneWidth, r"the network itself does not run on \(1, 3, 5, 7\) .*--size H,W"),
            (NoGraph, r"reads values cannot be exported with free sizes .*--size H,W"),
        ],
    )
    def test_networks_of_one_size(self, network, message, tmp_path):
        with pytest.raises(PnaError, match=message):
            pna.export_model(network(), tmp_path / "model.pt2", to="pt2")
        assert list(tmp_path.iterdir()) == []
        if network is NoGraph:
            with pytest.raises(PnaError, match="reads values cannot be exported: torch"):
                pna.export_model(network(), tmp_path / "model.pt2", to="pt2", size=(8, 8))
        else:
            pna.export_model(network(), tmp_path / "model.pt2", to="pt2", size=(33, 803))

    def test_a_missing_package(self, model, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
        with pytest.raises(PnaError, match=r'onnxscript, which is not .* install "pna\[export\]"'):
            pna.export_model(model, tmp_path / "model.onnx")

    def test_calibration_images_of_another_size(self, model, tmp_path):
        with pytest.raises(PnaError, match="calibration image 1: expected 8x8, .* got 4x5"):
            pna.export_model(
                model,
                tmp_path / "model.onnx",
                precision="int8",
                size=(8, 8),
                calibration=[np.zeros((4, 5, 3), np.uint8)],
            )

    def test_calibration_images_are_resized_as_the_model_says(self):
        resized = ColorSegmenter()
        resized.inference_size = InferenceSize(10, 40)
        (tensor,) = calibration_tensors([np.zeros((20, 30, 3), np.uint8)], resized, (10, 15))
        assert tensor.shape == (1, 3, 10, 15)


class TestDescription:
    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, "x.onnx: expected a file of `pna export`"),
            ("{", "x.onnx: its description is damaged"),
            ("[]", "x.onnx: its description is damaged"),
            ('{"format": 7}', "x.onnx: expected a description of format 1, got 7"),
            ('{"format": 1}', "x.onnx: its description is damaged .*labels"),
        ],
    )
    def test_damage(self, text, message, tmp_path):
        with pytest.raises(PnaError, match=message):
            Description.from_json(text, "x.onnx")

    def test_classes_come_back(self):
        given = Description("segmentation", {"a": "b"}, {"c": "d"}, "float32", (3, 4), VOC)
        assert Description.from_json(given.to_json(), "x.onnx") == given

    def test_the_size_at_test_comes_back(self):
        size = InferenceSize(512, 2048, antialias=True)
        given = Description("segmentation", {}, {}, "float32", labels=VOC, inference_size=size)
        assert Description.from_json(given.to_json(), "x.onnx") == given
