"""Progressive Neighborhood Aggregation: sharper semantic segmentation from any network.

Importing `pna` loads torch and nothing heavier; every other library loads where it is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pna import metrics, ops
    from pna.bands import Band
    from pna.errors import PnaError
    from pna.export.write import ExportReport, export_model
    from pna.inference.predictor import Prediction, Predictor
    from pna.inference.raster.run import RasterReport, segment_raster
    from pna.inference.refine import refine
    from pna.inference.tiling import TilingConfig
    from pna.inference.upsample import upsample
    from pna.inference.video.run import VideoReport, segment_video
    from pna.labels import IGNORE_INDEX, LabelSpace
    from pna.model import loading as checkpoints
    from pna.model.cascade import Cascade, cascade
    from pna.model.config import ModelOptions
    from pna.model.loading import load
    from pna.model.pna.config import PNAConfig
    from pna.model.pna.head import PNAHead
    from pna.model.presets import create_model
    from pna.model.segmenter import Segmenter, SegmenterOutput
    from pna.refinement.dense_crf import dense_crf
    from pna.refinement.guided_filter import guided_filter
    from pna.train.losses import LossConfig, segmentation_loss

__version__ = "0.1.0"

_HOMES = {
    "Band": "pna.bands",
    "Cascade": "pna.model.cascade",
    "ExportReport": "pna.export.write",
    "IGNORE_INDEX": "pna.labels",
    "LabelSpace": "pna.labels",
    "LossConfig": "pna.train.losses",
    "ModelOptions": "pna.model.config",
    "PNAConfig": "pna.model.pna.config",
    "PNAHead": "pna.model.pna.head",
    "PnaError": "pna.errors",
    "Prediction": "pna.inference.predictor",
    "Predictor": "pna.inference.predictor",
    "RasterReport": "pna.inference.raster.run",
    "Segmenter": "pna.model.segmenter",
    "SegmenterOutput": "pna.model.segmenter",
    "TilingConfig": "pna.inference.tiling",
    "VideoReport": "pna.inference.video.run",
    "cascade": "pna.model.cascade",
    "create_model": "pna.model.presets",
    "export_model": "pna.export.write",
    "dense_crf": "pna.refinement.dense_crf",
    "guided_filter": "pna.refinement.guided_filter",
    "load": "pna.model.loading",
    "refine": "pna.inference.refine",
    "segment_raster": "pna.inference.raster.run",
    "segment_video": "pna.inference.video.run",
    "segmentation_loss": "pna.train.losses",
    "upsample": "pna.inference.upsample",
}
_MODULES = {"checkpoints": "pna.model.loading", "metrics": "pna.metrics", "ops": "pna.ops"}

__all__ = [
    "IGNORE_INDEX",
    "Band",
    "Cascade",
    "ExportReport",
    "LabelSpace",
    "LossConfig",
    "ModelOptions",
    "PNAConfig",
    "PNAHead",
    "PnaError",
    "Prediction",
    "Predictor",
    "RasterReport",
    "Segmenter",
    "SegmenterOutput",
    "TilingConfig",
    "VideoReport",
    "cascade",
    "checkpoints",
    "create_model",
    "dense_crf",
    "export_model",
    "guided_filter",
    "load",
    "metrics",
    "ops",
    "refine",
    "segment_raster",
    "segment_video",
    "segmentation_loss",
    "upsample",
]


# Names are imported when they are first read (PEP 562), so `import pna` stays quick.
def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'pna' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
