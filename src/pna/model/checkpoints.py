"""Saves models and finds them again: a folder, a bundled name, or a repository on the hub.

A saved model is a folder with `config.json` (architecture, class names and colours, ignore index,
normalisation) and `model.safetensors`. It is written beside its place and renamed.
"""

import errno
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pna.labels import IGNORE_INDEX, LabelSpace
from pna.model.authors import from_authors
from pna.model.cascade.model import rebuild_cascade
from pna.model.cascade.plan import CoarseFunction
from pna.model.config import CascadeConfig, ModelConfig
from pna.model.errors import WeightsError
from pna.model.presets import PRESETS, build, create_model
from pna.model.segmenter import BaseSegmenter

__all__ = ["bundled_models", "create_or_load", "from_authors", "load", "push", "save"]

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = 2
_BUNDLED = Path(__file__).parent.parent / "bundled" / "models"


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(path.parent.name for path in _BUNDLED.glob(f"*/{CONFIG_FILE}"))


def save(model: BaseSegmenter, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a model that `pna.load` reads. Other files in the folder stay.

    Args:
        model: Built by `pna.create_model`, `pna.cascade` or `pna.load`.
        folder: Made if it is not there; weights and configuration in it are replaced.
        dtype: Type of the weights on disk, such as `torch.float16`; norm statistics keep theirs.

    Raises:
        ValueError: The model was put together by hand, so nothing says how to rebuild it.
        OSError: The disk is full, or the folder can't be written; what was in it is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    if model.config is None:
        raise ValueError(
            "this model has no configuration to save: build it with pna.create_model, or keep its "
            "state_dict yourself"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as beside:
        weights, config = Path(beside) / WEIGHTS_FILE, Path(beside) / CONFIG_FILE
        try:
            save_file(_state_on_disk(model, dtype), weights, metadata={"format": "pt"})
        except SafetensorError as error:  # its word for a full disk
            raise OSError(errno.EIO, f"the weights could not be written: {error}") from error
        config.write_text(json.dumps(_describe(model), indent=2) + "\n")
        weights.chmod(config.stat().st_mode)  # safetensors makes files for the owner alone
        os.replace(weights, folder / WEIGHTS_FILE)
        os.replace(config, folder / CONFIG_FILE)


def load(
    path_or_name: str | Path,
    *,
    model: nn.Module | None = None,
    coarse: CoarseFunction | None = None,
) -> BaseSegmenter:
    """Read a saved model, ready to use (in evaluation mode, float32, on the CPU).

    Args:
        path_or_name: A folder; the name of a bundled model; or OWNER/NAME on the Hugging Face hub.
        model: The network that a saved cascade refines, where it is one of your own: built as it
            was, its weights come from the file.
        coarse: The function that was given to `pna.cascade` as `coarse`, where one was.

    Raises:
        ValueError: There is nothing of that name, what is there is no model of ours, or a cascade
            around a model of your own has come without it.
        WeightsError: The hub cannot be reached.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = _find(path_or_name)
    try:
        description = json.loads((folder / CONFIG_FILE).read_text())
        state = load_file(folder / WEIGHTS_FILE)
    except FileNotFoundError as error:
        raise ValueError(
            f"{folder} is not a saved model: expected {CONFIG_FILE} and {WEIGHTS_FILE} in it, "
            f"{Path(error.filename or WEIGHTS_FILE).name} is missing"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ValueError(f"the saved model {folder} is damaged: {error}") from error
    built = _rebuild(description, folder, model, coarse)
    try:
        built.load_state_dict({key: _as_built(value) for key, value in state.items()})
    except RuntimeError as error:
        raise ValueError(
            f"the weights in {folder} do not fit its {CONFIG_FILE}: {error}"
        ) from error
    return built.eval()


def create_or_load(
    name: str, *, encoder: str | None = None, num_classes: int = 21
) -> BaseSegmenter:
    """Build a preset, without pretrained weights, or read a saved model.

    Args:
        name: A preset, or what `load` takes.
        encoder: timm model to build a preset on; its own by default.
        num_classes: Classes of a preset.

    Raises:
        ValueError: There is nothing of that name, or an encoder was given for a saved model.
        WeightsError: The hub cannot be reached.
    """
    if name in PRESETS:
        return create_model(name, encoder=encoder, num_classes=num_classes, pretrained=False)
    if encoder is not None:
        raise ValueError(
            f"an encoder goes with a preset ({', '.join(PRESETS)}), got one for the model {name!r}"
        )
    return load(name)


def push(model: BaseSegmenter, repository: str, *, private: bool = False) -> str:
    """Upload a model to the Hugging Face hub, with the token that `hf auth login` stored.

    Args:
        model: As for `save`.
        repository: OWNER/NAME; made if it is not there.
        private: Whether a repository made here is private.

    Returns:
        The address of the repository.

    Raises:
        WeightsError: The hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder)
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder)
        except (HfHubHTTPError, OSError) as error:
            raise WeightsError(
                f"cannot upload to {repository!r}: {error}. Check the network and `hf auth login`; "
                "model.save_pretrained(FOLDER) works without"
            ) from error
    return f"{api.endpoint}/{repository}"


def _find(path_or_name: str | Path) -> Path:
    if Path(path_or_name).is_dir():
        return Path(path_or_name)
    name = str(path_or_name)
    if name in bundled_models():
        return _BUNDLED / name
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return _download(name)
    raise ValueError(
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


def _describe(model: BaseSegmenter) -> dict[str, Any]:
    assert model.config is not None
    kind = "cascade" if isinstance(model.config, CascadeConfig) else "model"
    return {
        "format": FORMAT,
        kind: model.config.to_dict(),
        "labels": model.labels.to_dict(),
        "ignore_index": IGNORE_INDEX,
        "normalization": {
            "mean": model.mean.flatten().tolist(),
            "std": model.std.flatten().tolist(),
        },
    }


def _rebuild(
    description: dict[str, Any],
    folder: Path,
    model: nn.Module | None,
    coarse: CoarseFunction | None,
) -> BaseSegmenter:
    try:
        if description["format"] != FORMAT:
            raise ValueError(
                f"expected format {FORMAT}, got {description['format']}; use the version of pna "
                "that wrote it"
            )
        labels = LabelSpace.from_dict(description["labels"])
        mean, std = (description["normalization"][name] for name in ("mean", "std"))
        if "cascade" in description:
            config = CascadeConfig.from_dict(description["cascade"])
            return rebuild_cascade(config, labels, mean=mean, std=std, model=model, coarse=coarse)
        if model is not None or coarse is not None:
            raise ValueError("it is no cascade, so it takes no model: leave model= and coarse= out")
        built = build(ModelConfig.from_dict(description["model"]), labels)
        built.mean.copy_(torch.tensor(mean).view(3, 1, 1))
        built.std.copy_(torch.tensor(std).view(3, 1, 1))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / CONFIG_FILE} describes no model of ours: {error!r}") from error
    return built


def _state_on_disk(model: BaseSegmenter, dtype: torch.dtype | None) -> dict[str, Tensor]:
    parameters = {name for name, _ in model.named_parameters()}
    return {
        name: (tensor.to(dtype) if dtype and name in parameters else tensor).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }


def _as_built(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
