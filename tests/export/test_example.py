"""The script of docs/export.md: an exported file runs where neither torch nor pna are."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pna
from color_segmenter import ColorSegmenter

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
# A script that imports one of them fails.
WITHOUT = "import sys; sys.modules['torch'] = sys.modules['pna'] = None\n"


def test_it_runs(tmp_path):
    block = r"^```python no-run\n(import json\n.*?)^```$"
    (script,) = re.findall(block, PAGE.read_text(encoding="utf-8"), re.S | re.M)
    assert len([line for line in script.splitlines() if line]) <= 20
    (tmp_path / "script.py").write_text(WITHOUT + script)
    image = np.random.default_rng(0).integers(0, 256, (23, 31, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "photo.png")
    report = pna.export_model(ColorSegmenter(), tmp_path / "model.onnx")
    words = [sys.executable, "script.py", "model.onnx", "photo.png", "out.png"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "class_" in done.stdout
    prediction = pna.Predictor(report.file, device="cpu")(image)
    with Image.open(tmp_path / "out.png") as written:
        colors = np.asarray(written.convert("RGB"))
    assert np.array_equal(colors, prediction.label_space.decode(prediction.labels))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["small", pytest.param("voc-lite", marks=pytest.mark.slow)])
def test_openvino_reads_the_same_file(tmp_path, name):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    model = ColorSegmenter().eval() if name == "small" else pna.load(name, device="cpu")
    report = pna.export_model(model, tmp_path / "model.onnx")
    # By default it computes in bfloat16 on CPUs that have it.
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(report.file, "CPU", exact)
    for size in ((23, 31), (5, 7), (200, 333)):
        image = np.random.default_rng(0).random((1, 3, *size), np.float32)
        with torch.inference_mode():
            expected = model(torch.from_numpy(image)).logits
        np.testing.assert_allclose(compiled(image)["logits"], expected, rtol=1e-3, atol=1e-4)
