"""Saved models, read from a folder, by a bundled name, or from a repository on the hub."""

import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pna.errors import PnaError, WeightsError
from pna.labels import IGNORE_INDEX, LabelSpace
from pna.model.cascade.model import rebuild_cascade
from pna.model.cascade.plan import CoarseFunction
from pna.model.checkpoints.authors import from_authors
from pna.model.checkpoints.files import read_checkpoint
from pna.model.checkpoints.mmsegmentation import from_mmsegmentation, is_mmsegmentation
from pna.model.checkpoints.refinement import head_from_authors
from pna.model.config import CascadeConfig, ModelConfig
from pna.model.presets import PRESETS, Preset, create_model, find_preset
from pna.model.saving import CONFIG_FILE, FORMAT, WEIGHTS_FILE
from pna.model.segmenter import BaseSegmenter
from pna.model.state import fill, read_weights

__all__ = [
    "bundled_models",
    "create_or_load",
    "from_authors",
    "from_mmsegmentation",
    "head_from_authors",
    "is_mmsegmentation",
    "load",
    "read_checkpoint",
]

_OF_FILES = {
    ".onnx": "pna segment, evaluate and app run ONNX files, and pna.Predictor in Python",
    ".pt2": "torch.export.load runs a .pt2 file, and pna none; export the model to .onnx",
}
_BUNDLED = Path(__file__).parent.parent / "bundled" / "models"


def bundled_models() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(path.parent.name for path in _BUNDLED.glob(f"*/{CONFIG_FILE}"))


def load(
    path_or_name: str | Path,
    *,
    network: nn.Module | None = None,
    coarse: CoarseFunction | None = None,
    device: str | torch.device | None = None,
    presets: Mapping[str, Preset] = PRESETS,
) -> BaseSegmenter:
    """Read a saved model, ready to use: in evaluation mode, in float32.

    Args:
        path_or_name: A folder; the name of a bundled model; or OWNER/NAME on the Hugging Face hub.
        network: The network that a saved cascade refines, where it is one of your own: built as it
            was. It is wrapped, not copied, and its weights are replaced by those of the file.
        coarse: The function that was given to `pna.cascade` as `coarse`, where one was.
        device: Where to put it; the CPU by default.
        presets: Where the model's preset is looked up. Models of baselines need
            `pna.lab.baselines.PRESETS`.

    Raises:
        PnaError: There is nothing of that name, it is no saved model, or a cascade around a network
            of your own has come without it.
        WeightsError: The hub cannot be reached.

    Example:
        >>> import pna
        >>> pna.load("voc-lite").labels.classes[8]
        'cat'
    """
    from safetensors import SafetensorError

    folder = _find(path_or_name)
    try:
        description = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        state = read_weights(folder / WEIGHTS_FILE)
    except FileNotFoundError as error:
        raise PnaError(
            f"{folder} is not a saved model: expected {CONFIG_FILE} and {WEIGHTS_FILE} in it, "
            f"{Path(error.filename or WEIGHTS_FILE).name} is missing"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        file = WEIGHTS_FILE if isinstance(error, SafetensorError) else CONFIG_FILE
        raise PnaError(
            f"the saved model {folder} is damaged: {file} cannot be read ({error}); restore it"
        ) from error
    try:
        config, labels, normalization = _parse(description, presets)
    except PnaError as error:
        raise PnaError(f"{folder / CONFIG_FILE}: {error}") from error
    # A message about an argument that is missing is not about the file.
    model = _rebuild(config, labels, normalization, network, coarse, presets)
    # Files may hold half precision; models are built, and run, in float32.
    weights = {key: x.float() if x.is_floating_point() else x for key, x in state.items()}
    fill(model, weights, str(folder / WEIGHTS_FILE))
    return model.to(device).eval() if device is not None else model.eval()


def create_or_load(
    name: str,
    *,
    encoder: str | None = None,
    num_classes: int = 21,
    presets: Mapping[str, Preset] = PRESETS,
) -> BaseSegmenter:
    """Build a preset, without pretrained weights, or read a saved model.

    Args:
        name: A preset, or anything that `load` takes.
        encoder: timm model to build a preset on; its own by default.
        num_classes: Classes of a preset.
        presets: The presets that are known.

    Raises:
        PnaError: There is nothing of that name, or an encoder was given for a saved model.
        WeightsError: The hub cannot be reached.
    """
    if name in presets:
        return create_model(
            name, num_classes, encoder=encoder, encoder_weights=None, presets=presets
        )
    if encoder is not None:
        raise PnaError(
            f"an encoder goes with a preset ({', '.join(presets)}), got one for the model {name!r}"
        )
    try:
        return load(name, presets=presets)
    except PnaError as error:
        like = difflib.get_close_matches(name, presets)
        if like and not Path(name).exists():
            raise type(error)(f"{error}; presets are spelled {', '.join(like)}") from error
        raise


def _find(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if path.is_dir():
        return path
    if path.is_file():
        remedy = _OF_FILES.get(path.suffix.lower(), "pna convert reads checkpoints of other code")
        raise PnaError(f"{path} is a file, expected the folder of a saved model: {remedy}")
    name = str(path_or_name)
    if name in bundled_models():
        return _BUNDLED / name
    # "./model" and "/models" are paths that are not there, no names on the hub.
    if name.count("/") == 1 and not name.startswith((".", "/")):
        from huggingface_hub.errors import HFValidationError

        try:
            return _download(name)
        except HFValidationError:  # "runs/", "runs/my model": no name on the hub either
            pass
    if name in PRESETS:
        raise PnaError(
            f"{name!r} is a preset, which has no trained weights: build it with pna.create_model, "
            f"or name a saved model's folder or a bundled model ({', '.join(bundled_models())})"
        )
    raise PnaError(
        f"no model {name!r}: expected a folder with {CONFIG_FILE}, OWNER/NAME on the hub, or a "
        f"bundled model ({', '.join(bundled_models()) or 'none in this installation'})"
    )


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG_FILE, WEIGHTS_FILE]))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(
            f"{repository!r} is no folder here, and the hub does not give it: {error}"
        ) from error


def _parse(
    description: Any, presets: Mapping[str, Preset]
) -> tuple[ModelConfig | CascadeConfig, LabelSpace, dict[str, list[float]]]:
    """Read configuration, classes and normalization from the content of `config.json`."""
    version = description.get("format") if isinstance(description, dict) else None
    if version != FORMAT:
        raise PnaError(
            f"expected a saved model of format {FORMAT}, got format {version}; use the version of "
            "pna that wrote it"
        )
    known = {"model", "cascade"} & description.keys()
    if len(known) != 1:
        raise PnaError(f"expected model or cascade, got {' and '.join(sorted(known)) or 'neither'}")
    if missing := {"labels", "normalization"} - description.keys():
        raise PnaError(f"expected {', '.join(sorted(missing))}, got none: restore the file")
    if (ignored := description.get("ignore_index")) != IGNORE_INDEX:
        raise PnaError(f"expected ignore_index {IGNORE_INDEX}, got {ignored}: restore the file")
    normalization = description["normalization"]
    if not _is_normalization(normalization):
        raise PnaError(
            "expected a normalization of as many numbers in mean as in std, those above 0, got "
            f"{normalization!r}: restore the file"
        )
    labels = LabelSpace.from_dict(description["labels"])
    if known == {"cascade"}:
        return CascadeConfig.from_dict(description["cascade"]), labels, normalization
    config = ModelConfig.from_dict(description["model"])
    bands = config.options.bands
    channels = 3 if bands is None else len(bands)
    if len(normalization["mean"]) != channels:
        raise PnaError(f"expected a normalization of {channels} channels, got {normalization}")
    find_preset(config.preset, presets)  # an unknown one is the file's matter
    return config, labels, normalization


def _is_normalization(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"mean", "std"}:
        return False
    mean, std = value["mean"], value["std"]
    return (
        isinstance(mean, list)
        and isinstance(std, list)
        and len(mean) == len(std) > 0
        and all(isinstance(x, int | float) and math.isfinite(x) for x in mean + std)
        and min(std) > 0
    )


def _rebuild(
    config: ModelConfig | CascadeConfig,
    labels: LabelSpace,
    normalization: dict[str, list[float]],
    network: nn.Module | None,
    coarse: CoarseFunction | None,
    presets: Mapping[str, Preset],
) -> BaseSegmenter:
    mean, std = normalization["mean"], normalization["std"]
    if isinstance(config, CascadeConfig):
        return rebuild_cascade(config, labels, mean=mean, std=std, network=network, coarse=coarse)
    if network is not None or coarse is not None:
        raise PnaError(
            f"expected no network= and coarse= for a model of the preset {config.preset}, which is "
            "no cascade: leave them out"
        )
    model = find_preset(config.preset, presets).build(config, labels, None)
    # The file's values, not those of the encoder's record: timm may correct its records.
    model.mean.copy_(torch.tensor(mean).view(-1, 1, 1))
    model.std.copy_(torch.tensor(std).view(-1, 1, 1))
    return model
