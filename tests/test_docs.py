"""The pages' code blocks run as they stand."""

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[1] / "docs" / "cascade.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.S | re.M)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_cascade(number):
    torch.manual_seed(0)
    exec(compile(BLOCKS[number], f"{PAGE.name}, block {number + 1}", "exec"), {})


def test_every_library_has_one():
    text = "".join(BLOCKS)
    for library in ("torchvision", "segmentation_models_pytorch", "transformers", "timm"):
        assert re.search(rf"^(import|from) {library}", text, re.M)
