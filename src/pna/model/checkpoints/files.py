"""Files of checkpoints, read without running code that they may hold."""

import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from pna.errors import MissingFileError, PnaError
from pna.model.state import read_weights


def read_checkpoint(path: str | Path) -> Any:
    """Read a file of PyTorch or safetensors, tensors and plain values alone.

    Args:
        path: A file such as `model.pth`, `model.ckpt` or `model.safetensors`.

    Returns:
        What was saved, on the CPU: a state dict, or a container of one.

    Raises:
        MissingFileError: There is no such file.
        PnaError: It is damaged, or holds objects of Python, which could run code.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"weight": torch.ones(2)}, f"{folder}/model.pth")
        ...     list(read_checkpoint(f"{folder}/model.pth"))
        ['weight']
    """
    path = Path(path)
    if path.is_dir():
        raise PnaError(f"expected a file, got the folder {path}: name the checkpoint in it")
    if not path.is_file():
        raise MissingFileError(f"no checkpoint at {path}")
    try:
        if path.suffix == ".safetensors":
            return read_weights(path)
        with warnings.catch_warnings():
            # torch warns of other pickles before it refuses them; the refusal below says more.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # a file of other bytes leads the reader of pickles anywhere
        if path.suffix != ".safetensors" and not _is_pickle(path):
            raise PnaError(f"{path} is no checkpoint: expected a file of torch.save") from error
        if isinstance(error, pickle.UnpicklingError):
            raise PnaError(_refusal(path, str(error))) from error
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise PnaError(f"{path} is damaged, or no checkpoint ({reason}): fetch it again") from error


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as those of torch.save do: an archive (zip), or a pickle."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def _refusal(path: Path, reason: str) -> str:
    """Say why a file was not read, and how to get the tensors out of it."""
    if not zipfile.is_zipfile(path) and path.suffix == ".pkl":
        read = f"pickle.loads(pathlib.Path({str(path)!r}).read_bytes())"
    else:
        read = f"torch.load({str(path)!r}, map_location='cpu', weights_only=False)"
    # torch names the first object that it refuses as "GLOBAL name".
    name = reason.partition("GLOBAL ")[2].split(" ")[0].rstrip(".")
    held = f" such as {name}" if name else ""
    return (
        f"{path} holds objects of Python{held}, which may run code when they are read, so it is "
        "not read. Where you trust it, write its tensors alone, in the program that made it: "
        f"import pathlib, pickle, torch; c = {read}; torch.save({{k: torch.as_tensor(x) for k, x "
        "in c.get('state_dict', c.get('model')).items()}, 'weights.pth') - for a pickled network: "
        "torch.save(c.state_dict(), 'weights.pth')"
    )
