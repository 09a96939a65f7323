"""Saving of models: a folder with `config.json` and `model.safetensors`, or the hub.

`config.json` holds the configuration, the classes with their colors, the ignore index and the
normalization. Nothing here builds a model; `pna.model.loading` does.
"""

import errno
import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pna.errors import PnaError, WeightsError
from pna.files import replacing_files
from pna.labels import IGNORE_INDEX, LabelSpace
from pna.model.card import model_card
from pna.model.config import CascadeConfig, ModelConfig
from pna.model.state import distinct_tensors

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
FORMAT = 3


class Saveable(Protocol):
    """The parts of a segmenter that are saved."""

    config: ModelConfig | CascadeConfig | None
    labels: LabelSpace
    mean: Tensor
    std: Tensor

    def state_dict(self) -> dict[str, Tensor]:
        """Return all weights and buffers by name."""

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Return the weights by name."""


def save(model: Saveable, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write a model that `pna.load` reads. Other files in the folder stay.

    Args:
        model: Built by `pna.create_model`, `pna.cascade` or `pna.load`.
        folder: Made if it is not there; weights and configuration in it are replaced.
        dtype: Type of the weights on disk, such as `torch.float16`; norm statistics keep theirs.

    Raises:
        PnaError: The model was put together by hand, so it has no configuration.
        OSError: The disk is full, or the folder cannot be written; its files are as they were.

    Example:
        >>> import tempfile, pna
        >>> model = pna.load("voc-lite")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     pna.load(folder).num_classes
        21
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    check_saveable(model)
    description = _as_json(describe(model))
    state, same = distinct_tensors(model.state_dict())
    parameters = {name for name, _ in model.named_parameters()}
    if dtype is not None:
        # Running statistics (buffers) keep their type: a variance may overflow float16.
        state = {key: x.to(dtype) if key in parameters else x for key, x in state.items()}
    state = {key: x.contiguous().cpu() for key, x in state.items()}
    with replacing_files(Path(folder)) as temporary:
        weights, config = temporary / WEIGHTS_FILE, temporary / CONFIG_FILE
        try:
            save_file(state, weights, metadata={"format": "pt"} | same)
        except SafetensorError as error:  # how safetensors reports a full disk
            raise OSError(errno.EIO, f"the weights could not be written: {error}") from error
        config.write_text(description + "\n", encoding="utf-8")
        weights.chmod(config.stat().st_mode)  # safetensors makes files for the owner alone


def check_repository(repository: str) -> None:
    """Refuse a name that the hub would.

    Raises:
        PnaError: It is not OWNER/NAME, or has signs that the hub does not admit.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repository)
        reason = "" if repository.count("/") == 1 else "one slash between the two"
    except HFValidationError as error:
        reason = str(error)
    if reason or not all(repository.split("/")):
        raise PnaError(f"expected OWNER/NAME, got {repository!r}: {reason or 'a part is empty'}")


def push(
    model: Saveable,
    repository: str,
    *,
    private: bool = False,
    scores: Mapping[str, Any] | None = None,
    recipe: str | None = None,
    license: str | None = None,
) -> str:
    """Upload a model and its card to the Hugging Face hub, with the token of `hf auth login`.

    Args:
        model: As for `save`.
        repository: OWNER/NAME; made if it is not there.
        private: Whether a repository made here is private.
        scores: For the card, the content of `scores.json`.
        recipe: For the card, the YAML of the training.
        license: For the card, the license of the weights as the hub spells it.

    Returns:
        The address of the repository.

    Raises:
        PnaError: The hub admits no such name.
        WeightsError: The hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    check_repository(repository)
    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save(model, folder)
        assert model.config is not None  # saved
        card = model_card(
            model.config, model.labels, repository, scores=scores, recipe=recipe, license=license
        )
        (Path(folder) / CARD_FILE).write_text(card, encoding="utf-8")
        try:
            api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder)
        except (HfHubHTTPError, OSError) as error:
            raise WeightsError(
                f"cannot upload to {repository!r}: {error}. Check the network and `hf auth login`; "
                "model.save_pretrained(FOLDER) works without"
            ) from error
    return f"{api.endpoint}/{repository}"


def describe(model: Saveable) -> dict[str, Any]:
    """Return the content of `config.json`.

    Raises:
        PnaError: The model was put together by hand, so it has no configuration.
    """
    if model.config is None:
        raise PnaError(
            "this model has no configuration to save: build it with pna.create_model, or keep its "
            "state_dict yourself"
        )
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


def check_saveable(model: Saveable) -> None:
    """Try to save a model, but for the values of its weights, before hours are spent on it.

    Raises:
        PnaError: It has no configuration, or a value or weight that has no place in a file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save as write

    _as_json(describe(model))
    for name, tensor in distinct_tensors(model.state_dict())[0].items():
        try:
            # One element of each: type and layout are what may be refused.
            write({name: tensor.flatten()[:1].contiguous().cpu()})
        except (RuntimeError, KeyError, ValueError, SafetensorError) as error:
            raise PnaError(
                f"{name} of type {tensor.dtype}, layout {tensor.layout} has no place in a file of "
                f"safetensors ({type(error).__name__}: {error}): make it an ordinary tensor, or "
                "register it with persistent=False"
            ) from error


def _as_json(description: dict[str, Any]) -> str:
    def plain(value: Any) -> Any:
        if hasattr(value, "tolist"):  # arrays and numbers of numpy, tensors
            return value.tolist()
        raise PnaError(
            f"expected plain values in the model's configuration, got {value!r} of type "
            f"{type(value).__name__}: give numbers, strings, lists or dicts of them"
        )

    return json.dumps(description, indent=2, default=plain)
