"""Exported files, opened by ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pna.errors import MissingFileError, PnaError
from pna.export.description import KEY, Description
from pna.extras import require

CPU = torch.device("cpu")


class Session:
    """An ONNX file that runs on tensors.

    Args:
        file: Written by `pna.export_model`, or any ONNX file with its description.
        device: "cpu", "cuda" or "cuda:N"; onnxruntime must have the device's provider.

    Attributes:
        description: The file's own.

    Raises:
        MissingFileError: There is no such file.
        PnaError: It is no ONNX file, or one without a description, or onnxruntime cannot run it.
    """

    description: Description

    def __init__(self, file: Path, device: torch.device = CPU) -> None:
        runtime: Any = require("onnxruntime")
        if not file.is_file():
            raise MissingFileError(f"no model at {file}: expected a file of `pna export`")
        options = runtime.SessionOptions()
        options.log_severity_level = 3  # errors; warnings are about its own optimizations
        options.intra_op_num_threads = torch.get_num_threads()
        provider = _provider(runtime, device)
        try:
            self._session = runtime.InferenceSession(file, options, providers=[provider])
        # Its errors have no common class.
        except Exception as error:
            raise PnaError(
                f"{file}: onnxruntime {runtime.__version__} cannot open it, so it is no ONNX file, "
                f"damaged, or for a later version ({_in_a_line(error)})"
            ) from error
        text = self._session.get_modelmeta().custom_metadata_map.get(KEY)
        self.description = Description.from_json(text, file)
        self.file = file

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Run the file on float32 tensors; results are on the CPU.

        Raises:
            RuntimeError: The graph fails, or the memory does not suffice.
        """
        feed = {
            name: x.detach().cpu().numpy()
            for name, x in zip(self.description.inputs, inputs, strict=True)
        }
        try:
            found = self._session.run(list(self.description.outputs), feed)
        except Exception as error:  # as above; callers tell memory from other errors by the text
            raise RuntimeError(f"{self.file}: {_in_a_line(error)}") from error
        return [torch.from_numpy(x) for x in found]


def _provider(runtime: Any, device: torch.device) -> Any:
    known = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    provider = known.get(device.type)
    available = runtime.get_available_providers()
    if provider not in available:
        raise PnaError(
            f"the onnxruntime that is installed does not run on {device}: it has "
            f"{', '.join(available)}. Take the CPU (device='cpu', on the command line --device "
            "cpu), or install a build with that provider, such as onnxruntime-gpu"
        )
    return provider if device.type == "cpu" else (provider, {"device_id": device.index or 0})


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())
