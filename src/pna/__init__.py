"""Progressive Neighborhood Aggregation: sharper semantic segmentation from any network.

Importing `pna` loads torch and nothing heavier; every other library loads where it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pna import ops
    from pna.labels import IGNORE_INDEX, LabelSpace
    from pna.model import checkpoints
    from pna.model.aggregation.head import PNAHead
    from pna.model.cascade import Cascade, cascade
    from pna.model.checkpoints import load
    from pna.model.presets import create_model
    from pna.model.segmenter import Segmenter, SegmenterOutput
    from pna.predict import Predictor

__version__ = "0.1.0"

__all__ = [
    "IGNORE_INDEX",
    "Cascade",
    "LabelSpace",
    "PNAHead",
    "Predictor",
    "Segmenter",
    "SegmenterOutput",
    "cascade",
    "checkpoints",
    "create_model",
    "load",
    "ops",
]

_HOMES = {
    "Cascade": "pna.model.cascade",
    "IGNORE_INDEX": "pna.labels",
    "LabelSpace": "pna.labels",
    "PNAHead": "pna.model.aggregation.head",
    "Predictor": "pna.predict",
    "Segmenter": "pna.model.segmenter",
    "SegmenterOutput": "pna.model.segmenter",
    "cascade": "pna.model.cascade",
    "create_model": "pna.model.presets",
    "load": "pna.model.checkpoints",
}
_MODULES = {"checkpoints": "pna.model.checkpoints", "ops": "pna.ops"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pna' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
