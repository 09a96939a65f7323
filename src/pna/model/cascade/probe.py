"""Runs a network once on noise, and sees every map that its modules return.

Sizes tell what is a map: the noise is not square, so pooled grids (1 x 1, 6 x 6) and sequences of
tokens have no stride, and are passed over.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pna.model.cascade.taps import Place, tensors_in

# What a network may raise on a picture of a size that it does not take.
_ERRORS = (
    *(AssertionError, AttributeError, IndexError, KeyError),
    *(NotImplementedError, RuntimeError, TypeError, ValueError),
)
# A multiple of most networks' strides; then of those with one level more; of patches of 14 pixels.
_UNITS = (32, 64, 28)
_NEEDS_LABELS = (
    "wrap it in a module whose forward takes pictures (B, 3, H, W) alone, in training as in "
    "evaluation, and returns logits; losses are computed outside"
)


class Map(NamedTuple):
    """A tensor that spans the picture.

    Attributes:
        place: Where it comes from.
        tensor: (B, C, h, w).
        stride: Pixels per cell.
        is_channels_last: Whether it came as (B, h, w, C).
        order: How many modules had returned before its own.
    """

    place: Place
    tensor: Tensor
    stride: int
    is_channels_last: bool
    order: int

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return self.tensor.shape[1]


class Probe(NamedTuple):
    """What a run has shown.

    Attributes:
        size: (H, W) of the picture.
        maps: All maps, in the order in which their modules returned.
        calls: How often each module was called, by name.
        output: What the network returned.
    """

    size: tuple[int, int]
    maps: list[Map]
    calls: dict[str, int]
    output: Any


def probe(network: nn.Module, *, divisor: int | None = None) -> Probe:
    """Run a network, in evaluation mode, on a picture of a size that it takes.

    Args:
        network: Takes pictures (B, 3, H, W).
        divisor: What sides must be multiples of, if that is known.

    Raises:
        ValueError: The network needs more than a picture, or takes none of the sizes tried.
    """
    units = _UNITS if divisor is None else (_unit(divisor),)
    problems = []
    for unit in units:
        try:
            return look(network, (2 * unit, 3 * unit))
        except _ERRORS as error:
            _refuse_more_inputs(network, error)
            problems.append(f"{2 * unit}x{3 * unit}: {type(error).__name__}: {error}")
    raise ValueError(
        f"{type(network).__name__} does not run on pictures of any size. Tried "
        f"{'; '.join(problems)}. Make it take other sizes (timm's ViTs: dynamic_img_size=True), or "
        "say what sides must be multiples of (divisor=)"
    )


def takes(network: nn.Module, size: tuple[int, int]) -> Probe | None:
    """Run a network on a picture of a size; None if it raises."""
    try:
        return look(network, size)
    except _ERRORS:
        return None


def look(network: nn.Module, size: tuple[int, int]) -> Probe:
    """Run a network, in evaluation mode, on a picture of a size, and keep every map."""
    maps: list[Map] = []
    calls: dict[str, int] = {}

    def watch(name: str, output: Any) -> None:
        order = sum(calls.values())
        calls[name] = calls.get(name, 0) + 1
        for keys, tensor in tensors_in(output):
            seen = as_map(tensor, size)
            if seen is not None:
                # A copy: the next module may write into it.
                maps.append(Map(Place(name, keys), seen[0].clone(), seen[1], seen[2], order))

    handles = [
        module.register_forward_hook(lambda m, args, output, name=name: watch(name, output))
        for name, module in network.named_modules()
    ]
    try:
        with _evaluation(network), torch.no_grad():
            output = network(_noise(network, 1, size))
    finally:
        for handle in handles:
            handle.remove()
    return Probe(size, maps, calls, output)


def parameters_behind(
    network: nn.Module, run: Callable[[Tensor], Sequence[Tensor]], size: Sequence[int]
) -> frozenset[str]:
    """Names of the network's trainable parameters that some tensors depend on.

    Args:
        network: The network, which is run in evaluation mode.
        run: Makes the tensors of pictures (1, 3, *size), by that network.
        size: Height and width of noise that the network takes.
    """
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    with _evaluation(network), torch.enable_grad():
        sums = [x.sum() for x in run(_noise(network, 1, size)) if x.requires_grad]
    if not sums:  # all that they depend on is fixed
        return frozenset()
    gradients = torch.autograd.grad(sums, list(parameters.values()), allow_unused=True)
    return frozenset(name for name, x in zip(parameters, gradients, strict=True) if x is not None)


def check_training(network: nn.Module, divisor: int) -> None:
    """Try the network in training mode, without a trace in its batch norm.

    Args:
        network: Takes pictures (B, 3, H, W).
        divisor: What sides must be multiples of.

    Raises:
        ValueError: It needs labels there.
    """
    before = [buffer.clone() for buffer in network.buffers()]
    modes = [(module, module.training) for module in network.modules()]
    unit = _unit(divisor)
    pictures = _noise(network, 2, (2 * unit, 3 * unit))
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            network.train()(pictures)
    except _ERRORS as error:
        raise ValueError(
            f"{type(network).__name__} takes pictures alone in evaluation, but not in training "
            f"({type(error).__name__}: {error}): {_NEEDS_LABELS}"
        ) from error
    finally:
        _restore(modes)
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)


def as_map(tensor: Tensor, size: tuple[int, int]) -> tuple[Tensor, int, bool] | None:
    """A tensor as (B, C, h, w), its stride, and whether it was channels-last; None if no map."""
    if tensor.ndim != 4 or not tensor.is_floating_point():
        return None
    for is_channels_last in (False, True):
        x = tensor.permute(0, 3, 1, 2) if is_channels_last else tensor
        h, w = x.shape[-2:]
        if h and w and size[0] % h == 0 and size[1] % w == 0 and size[0] // h == size[1] // w:
            return x, size[0] // h, is_channels_last
    return None


def _unit(divisor: int) -> int:
    """The first multiple from 32: at a stride of 32 there still is a map."""
    return divisor * -(-32 // divisor)


def _noise(network: nn.Module, batch: int, size: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(0)  # leaves the caller's random numbers alone
    noise = torch.randn(batch, 3, *size, generator=generator)
    like = next((p for p in network.parameters() if p.is_floating_point()), noise)
    return noise.to(like)  # its device and type


def _refuse_more_inputs(network: nn.Module, error: Exception) -> None:
    text = str(error)
    is_about_labels = any(word in text.lower() for word in ("label", "target"))
    if is_about_labels or (isinstance(error, TypeError) and "required" in text):
        raise ValueError(
            f"{type(network).__name__} needs more than a picture ({type(error).__name__}: {text}): "
            f"{_NEEDS_LABELS}"
        ) from error


@contextmanager
def _evaluation(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        _restore(modes)


def _restore(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, is_training in modes:
        module.training = is_training
