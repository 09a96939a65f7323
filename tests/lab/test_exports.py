"""Exported files, compared by each engine (`benchmarks/exports.py`)."""

import exports
import pytest

pytest.importorskip("onnxscript", reason="export needs pip install 'pna[export]'")
pytest.importorskip("openvino", reason="OpenVINO is not installed")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_file_and_its_engines(tmp_path):
    row = exports.measure("lite-fcn", "onnx", tmp_path)
    assert row["bytes"] == (tmp_path / "model.onnx").stat().st_size
    assert list(row["parity"]) == ["ONNX Runtime", "OpenVINO"]
    for parity in row["parity"].values():
        assert len(parity) == 5
        assert all(difference < 1e-4 for difference in parity.values())

    int8 = {**row, "loss": "2 images: labels equal 98.00 %, mIoU against float32 95.0 %"}
    del int8["parity"]
    page = exports.table({"lite-fcn": {"onnx": row}, "voc-lite": {"int8": int8}})
    lines = [line for line in page.splitlines() if line.startswith("| lite-fcn | onnx |")]
    assert len(lines) == 2
    assert len({line.count("|") for line in page.splitlines() if line.startswith("|")}) == 1
