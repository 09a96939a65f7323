"""The input that a wrapped network takes: number of channels, type and device."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pna.model.segmenter import BaseSegmenter


class _Stop(Exception):  # noqa: N818
    """Raised by a hook to end a run at the first layer."""


def noise(network: nn.Module, batch: int, size: Sequence[int]) -> Tensor:
    """Return images (batch, C, H, W) of noise, always the same, of the network's type and device.

    Args:
        network: The network.
        batch: Number of images.
        size: Height and width.
    """
    return _noise(network, batch, count_channels(network), size)


def count_channels(network: nn.Module) -> int:
    """Return the number of channels C of a network's images: 3, or its first convolution's.

    Args:
        network: Takes images (B, C, H, W). It is run up to its first convolution. If that takes
            a part of the channels, `network.in_channels` must tell their number.
    """
    stated = getattr(network, "in_channels", None)
    if isinstance(stated, int) and _wanted_channels(network, stated) == stated:
        return stated
    # Nearly all networks take RGB; the first convolution by name may be anywhere in the network.
    first = next((m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)), 3)
    for channels in (3, first):
        wanted = _wanted_channels(network, channels)
        if wanted is not None:
            return wanted
    return 3


def floating_point_like(network: nn.Module) -> Tensor | None:
    """Return the first floating-point weight, whose type and device the images must have."""
    return next((p for p in network.parameters() if p.is_floating_point()), None)


@contextmanager
def evaluation(network: nn.Module) -> Iterator[None]:
    """Set evaluation mode for a while; every module then gets its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, is_training in modes:
            module.training = is_training


def _wanted_channels(network: nn.Module, channels: int) -> int | None:
    """Return channels C by the first layer that runs, on noise; None if the run fails."""
    wanted: list[int] = []

    def watch(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        has = module.in_channels if isinstance(module, nn.Conv2d) else module.num_features
        assert isinstance(has, int)
        # The network may have repeated or rearranged the channels before (space to depth).
        ratio, rest = divmod(has * channels, args[0].shape[1])
        if has and not rest:
            wanted.append(ratio)
        raise _Stop

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    handles = [layer.register_forward_pre_hook(watch) for layer in layers]
    try:
        with evaluation(network), torch.no_grad():
            network(_noise(network, 1, channels, (64, 96)))
    except _Stop:
        return wanted[0] if wanted else None
    except Exception:  # whatever it is: the run of the probe that follows reports it
        return None
    finally:
        for handle in handles:
            handle.remove()
    return None


def _noise(network: nn.Module, batch: int, channels: int, size: Sequence[int]) -> Tensor:
    # Of its own, so that the caller's random numbers stay as they are.
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, channels, *size, generator=generator)
    if isinstance(network, BaseSegmenter):  # which normalizes images itself, and warns of others
        images = images.sigmoid()
    like = floating_point_like(network)
    return images if like is None else images.to(like)
