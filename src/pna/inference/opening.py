"""Models by name or path: saved ones, and exported ones; mask refiners likewise."""

from collections.abc import Mapping
from pathlib import Path

import torch

from pna.errors import PnaError
from pna.model.presets import PRESETS, Preset
from pna.model.segmenter import BaseSegmenter
from pna.refinement.network import RefinesMasks


def open_model(
    path_or_name: str | Path,
    *,
    device: torch.device,
    presets: Mapping[str, Preset] = PRESETS,
) -> BaseSegmenter:
    """Open a model to run it.

    Args:
        path_or_name: A file that ends in .onnx, which ONNX Runtime runs; otherwise a saved model,
            as `pna.load` takes it.
        device: Where it will run.
        presets: As for `pna.load`.

    Raises:
        PnaError: There is no such model, or it is damaged.
        WeightsError: The hub cannot be reached.

    Example:
        >>> open_model("voc-lite", device=torch.device("cpu")).num_classes
        21
    """
    if Path(path_or_name).suffix.lower() == ".onnx":
        from pna.export.onnx_segmenter import OnnxSegmenter

        return OnnxSegmenter(Path(path_or_name), device)
    from pna.model.loading import load

    return load(path_or_name, presets=presets)


def open_mask_refiner(file: Path | None, *, device: torch.device) -> RefinesMasks:
    """Open a mask refiner to run it.

    Args:
        file: Weights that end in .safetensors, or an .onnx file, which ONNX Runtime runs; None
            takes the network that comes with the package.
        device: Where it will run.

    Raises:
        PnaError: There is no such file, or it does not hold one.
    """
    from pna.inference.refine import bundled_mask_refiner, load_mask_refiner

    if file is None:
        return bundled_mask_refiner(device)
    if file.suffix.lower() == ".onnx":
        from pna.export.onnx_refiner import OnnxMaskRefiner

        return OnnxMaskRefiner(file, device)
    if file.suffix.lower() == ".pt2":
        raise PnaError(
            f"{file}: torch.export.load runs a .pt2 file, and pna none: name weights that end in "
            ".safetensors, or export them to .onnx"
        )
    return load_mask_refiner(file).to(device)
