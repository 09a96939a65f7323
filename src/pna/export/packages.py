"""Packages of the extra `export`, imported where they are used."""

import importlib
from types import ModuleType

from pna.errors import PnaError

EXTRA = ("onnx", "onnxruntime", "onnxscript")
"""Packages that `pip install "pna[export]"` brings."""


def require(name: str) -> ModuleType:
    """Import one of the packages, or a module of one.

    Raises:
        PnaError: It is not installed.

    Example:
        >>> require("onnxruntime").__name__
        'onnxruntime'
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise  # it is there, but lacks something itself
        raise PnaError(
            f'ONNX files need {error.name}, which is not installed: pip install "pna[export]"'
        ) from error
