"""Packages of the extras, imported where they are used."""

import importlib
from types import ModuleType

from pna.errors import PnaError

EXTRAS = {
    "app": ("gradio",),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "geo": ("rasterio", "fiona", "psutil"),
    "ray": ("ray", "pyarrow"),
    "video": ("av",),
}
"""Packages that `pip install "pna[NAME]"` brings, by the extra's name."""

_PURPOSES = {
    "app": "pages",
    "export": "ONNX files",
    "geo": "rasters",
    "ray": "clusters",
    "video": "videos",
}


def require(name: str) -> ModuleType:
    """Import one of the packages, or a module of one.

    Args:
        name: Such as "onnx" or "rasterio.features".

    Raises:
        PnaError: It is not installed.

    Example:
        >>> require("onnxruntime").__name__
        'onnxruntime'
    """
    package = name.partition(".")[0]
    extra = next(extra for extra, packages in EXTRAS.items() if package in packages)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRAS[extra]:
            raise  # it is there, but lacks something itself
        raise PnaError(
            f"{_PURPOSES[extra]} need {error.name}, which is not installed: "
            f'pip install "pna[{extra}]"'
        ) from error
