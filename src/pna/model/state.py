"""State dicts: each tensor once into a file, out of it under all its names, into a network."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pna.errors import PnaError


def distinct_tensors(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a state dict that share no memory.

    A layer that a network registers twice has two names for each tensor, and safetensors refuses
    to write tensors that share memory.

    Args:
        state: Of a model.

    Returns:
        The tensors; and of every name that is left out, the name of the same tensor in them. As
        metadata of a file `safetensors.torch.load_model` reads the second, too.

    Raises:
        PnaError: A value is no tensor, or has no values.
    """
    tensors: dict[str, Tensor] = {}
    same: dict[str, str] = {}
    # By memory, not by identity: state_dict() makes new tensor objects at each call.
    names: dict[Any, str] = {}
    storages: set[Any] = set()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or is_lazy(tensor):
            raise PnaError(
                f"expected tensors in the model's state_dict, got {type(tensor).__name__} at "
                f"{name!r}, which safetensors cannot hold: run lazy layers once, and define no "
                "get_extra_state"
            )
        if tensor.is_meta:
            raise PnaError(f"{name!r} has no values, it is on the meta device: give it some first")
        if tensor.layout != torch.strided or not tensor.numel():
            tensors[name] = tensor
            continue
        storage = tensor.device, tensor.untyped_storage().data_ptr()
        view = *storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype
        if view in names:
            same[name] = names[view]
            continue
        # Parts of one memory, such as slices of a flat buffer, are written as tensors of their own.
        tensors[name] = tensor.clone() if storage in storages else tensor
        names[view] = name
        storages.add(storage)
    return tensors, same


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a file of safetensors; a tensor that it holds once comes under each of its names.

    Raises:
        FileNotFoundError: The file is not there.
        SafetensorError: It is damaged.
    """
    from safetensors import safe_open

    with safe_open(file, framework="pt") as content:
        names = content.keys()
        state: dict[str, Tensor] = {name: content.get_tensor(name) for name in names}
        for name, kept in (content.metadata() or {}).items():
            if kept in state:  # other entries of the metadata, such as "format", name no tensor
                state[name] = state[kept]
    return state


def fill(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load a state dict; where it does not fit, raise an error that names the differences.

    Args:
        network: Its weights and buffers are replaced.
        state: All of them by name.
        source: Where they come from, for the message.

    Raises:
        PnaError: A name is missing or unknown, or a shape differs.

    Example:
        >>> from torch import nn
        >>> from pna.model.state import fill
        >>> fill(nn.Linear(2, 3), nn.Linear(2, 3).state_dict(), "weights.pth")
    """
    own = network.state_dict(keep_vars=True)
    # Other libraries write a shared tensor under one of its names alone.
    written = {id(x): state[name] for name, x in own.items() if name in state}
    shared = {name: written[id(x)] for name, x in own.items() if id(x) in written}
    try:
        result = network.load_state_dict({**shared, **state}, strict=False)
    except RuntimeError as error:  # shapes differ; the first line names the class alone
        told = [line.strip() for line in str(error).splitlines()[1:]]
        problems = {"do not fit": told or [str(error)]}
    else:
        problems = {"are missing": result.missing_keys, "are unknown": result.unexpected_keys}
    if any(problems.values()):
        # A network has hundreds of names: a few show the kind of difference.
        told = [
            f"{len(names)} {problem} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
            for problem, names in problems.items()
            if names
        ]
        raise PnaError(
            f"{source} does not fit {type(network).__name__} as it is built here: of its "
            f"{len(own)} weights and buffers {', '.join(told)}"
        )


def state_digest(state: Mapping[str, Tensor], about: str = "") -> str:
    """Return a digest of a state dict and of a text about it."""
    digest = hashlib.sha256(about.encode())
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype}".encode())
        # As bytes: NumPy has no bfloat16.
        values = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()[:16]
