"""What `import pna` loads, and what it gives."""

import subprocess
import sys

import pytest

import pna

HEAVY = ("accelerate", "huggingface_hub", "matplotlib", "onnx", "onnxruntime", "onnxscript")
HEAVY += ("PIL", "pydantic", "rich")
HEAVY += ("numba", "torch._dynamo", "safetensors", "timm", "torchvision", "triton", "yaml")


def test_import_loads_torch_only():
    code = f"import sys, pna.ops; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_everything_promised_is_there():
    for name in pna.__all__:
        assert getattr(pna, name) is not None
    assert set(pna.__all__) <= set(dir(pna))


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = pna.nonsense
