"""Devices: the default one, a check in words, and errors about memory."""

import torch

from pna.errors import PnaError

Device = str | torch.device


def default_device() -> torch.device:
    """Return the CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def find_device(device: Device | None = None) -> torch.device:
    """Return a device that this machine has.

    Args:
        device: Such as "cpu", "cuda" or "cuda:1"; None takes `default_device`.

    Raises:
        PnaError: It is no device, or this machine does not have it.

    Example:
        >>> find_device("cpu")
        device(type='cpu')
    """
    if device is None:
        return default_device()
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise PnaError(f"expected a device such as cpu, cuda or cuda:1, got {device!r}") from error
    # Any accelerator that this PyTorch has (cuda, mps, xpu), not CUDA alone.
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = 0 if accelerator is None else torch.accelerator.device_count()
    is_there = accelerator is not None and accelerator.type == found.type
    if found.type != "cpu" and not (is_there and (found.index or 0) < count):
        others = f" and {count} of type {accelerator.type}" if accelerator is not None else " alone"
        raise PnaError(f"no device {str(device)!r} here: this PyTorch has the CPU{others}")
    return found


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error of PyTorch means that the memory of any device was too small."""
    # The CPU's allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
