"""A run of a network on noise: the tensors that its modules return, and how they depend.

A map is known by its size: the noise is not square, so pooled grids (1 x 1, 6 x 6) have no stride.
Dependence is followed operation by operation, below autograd: it holds for frozen weights and
inside of `no_grad`, and no values are kept.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pna.errors import PnaError
from pna.model.cascade.inputs import count_channels, evaluation, noise
from pna.model.cascade.taps import Place, tensors_in

# What a network may raise on an image of a size that it does not take.
_ERRORS = (
    *(AssertionError, AttributeError, IndexError, KeyError),
    *(NotImplementedError, RuntimeError, TypeError, ValueError),
)
# Sides are two and three units: multiples of most networks' strides; then of those with one level
# more; then of patches of 14 pixels.
_UNITS = (32, 64, 28)
_NUM_PREFIX_TOKENS = (0, 1, 2, 5)  # none, class, class and distillation, class and four registers
_NEEDS_LABELS = (
    "wrap it in a module whose forward takes images (B, C, H, W) alone, in training as in "
    "evaluation, and returns logits; losses are computed outside"
)
_ACTIVATIONS = ("sigmoid", "hardsigmoid", "softmax", "safe_softmax")
_DOWNSAMPLES = ("convolution", "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d")
_UPSAMPLES = ("pixel_shuffle", "max_unpool2d", "grid_sampler_2d")
_LINEAR = ("convolution", "addmm", "mm", "bmm", "baddbmm")
_KEEPS_VALUES = ("_to_copy", "clone", "contiguous", "detach", "alias", "lift_fresh_copy")


class Map(NamedTuple):
    """A tensor that spans the image.

    Attributes:
        place: Where it comes from.
        stride: Pixels per cell.
        channels: Number of channels C.
        is_channels_last: Whether it is (B, h, w, C) there.
        is_tokens: Whether it is a sequence (B, h * w, C), perhaps after a few other tokens.
        value: Index of its value: modules that hand on a tensor return the same value.
    """

    place: Place
    stride: int
    channels: int
    is_channels_last: bool
    is_tokens: bool
    value: int


@dataclass(frozen=True)
class Trace:
    """The dependence of a tensor.

    Attributes:
        values: The values that it was computed from, as bits by index; its own included.
        weights: The parameters that it was computed from, as bits by index.
        value: Its own index, if a module returned it.
        resized: The value that became this by one bilinear resize (corners not aligned).
        activation: Name of the softmax or sigmoid that made it; "" if none did.
        activated: The value that the activation was given.
        is_upsampled: Whether it was computed from something that was upsampled.
        is_linear: Whether a convolution or matrix product made it, without activation or norm.
    """

    values: int = 0
    weights: int = 0
    value: int | None = None
    resized: int | None = None
    activation: str = ""
    activated: int | None = None
    is_upsampled: bool = False
    is_linear: bool = False


@dataclass
class Call:
    """A call of a module.

    Attributes:
        module: Its name.
        parent: Index of the call that made this one; None for the network's own.
        stride: Pixels per cell of its input, if that is a map; else 0.
        is_upsampled: Whether its input was computed from something that was upsampled.
        maps: The maps that it returned.
    """

    module: str
    parent: int | None
    stride: int
    is_upsampled: bool
    maps: list[Map] = field(default_factory=list)


@dataclass
class Probe:
    """The record of a run.

    Attributes:
        size: (H, W) of the image.
        calls: All calls of modules, in the order in which they began.
        returned: Indices of the calls, in the order in which they returned.
        num_calls: How often each module was called, by name.
        traces: The trace of each value, by index.
        maps: Each place's map, by value, outermost module first.
        sizes: Number of entries of each parameter, by index.
        names: Name of each parameter, by index.
        output: The network's output.
        output_traces: The trace of each tensor of the output, by its keys.
        is_too_small: Whether a convolution or pooling left a single row, so that the next level
            has no map at this size; or whether a module made no map of one, or the output has none.
    """

    size: tuple[int, int]
    calls: list[Call]
    returned: list[int]
    num_calls: dict[str, int]
    traces: list[Trace]
    maps: list[list[Map]]
    sizes: list[int]
    names: list[str]
    output: Any = None
    output_traces: dict[tuple[int | str, ...], Trace] = field(default_factory=dict)
    is_too_small: bool = False

    def count(self, weights: int) -> int:
        """Count the entries of the parameters whose bits are set."""
        if weights not in self._counts:
            bits = (i for i in range(weights.bit_length()) if weights >> i & 1)
            self._counts[weights] = sum(self.sizes[i] for i in bits)
        return self._counts[weights]

    def map_at(self, place: Place) -> Map | None:
        """Return the map of a place, of the last call."""
        found = (m for maps in self.maps for m in maps if m.place == place and not m.is_tokens)
        return max(found, key=lambda m: m.value, default=None)

    def __post_init__(self) -> None:
        self._counts: dict[int, int] = {}


def probe(network: nn.Module, *, divisor: int | None = None) -> Probe:
    """Run a network, in evaluation mode, on an image of a size that it takes.

    Args:
        network: Takes images (B, C, H, W).
        divisor: Number that sides must be multiples of, if it is known.

    Raises:
        PnaError: The network needs more than an image, or takes none of the sizes tried.
    """
    _refuse_opaque(network)
    name = type(network).__name__
    units = _UNITS if divisor is None else (_unit(divisor),)
    problems = []
    for unit in units:
        try:
            seen = run_on_noise(network, (2 * unit, 3 * unit))
            if not seen.is_too_small:
                return seen
            # A single row hides the levels after it: try twice the size.
            larger = takes(network, (4 * unit, 6 * unit))
            return seen if larger is None else larger
        except _ERRORS as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            _refuse_more_inputs(network, error)
            problems.append(f"{2 * unit}x{3 * unit}: {type(error).__name__}: {error}")
    tried = f"Tried {count_channels(network)} channels at {'; '.join(problems)}."
    if _takes_channels_last(network, (2 * units[0], 3 * units[0])):
        raise PnaError(
            f"{name} takes channels-last images (B, H, W, C): wrap it in a module that takes "
            "(B, C, H, W) and calls it with images.permute(0, 2, 3, 1)"
        )
    for channels in (6, 4, 2, 1):
        if _takes_channels(network, channels, (2 * units[0], 3 * units[0])):
            raise PnaError(
                f"{name} takes images of {channels} channels, which its first convolution does not "
                f"tell. {tried} Set their number: network.in_channels = {channels}"
            )
    for unit in units:
        side = 4 * unit
        if takes(network, (side, 2 * side)) is not None:
            raise PnaError(
                f"{name} takes images of {side}x{2 * side}, but not of smaller sizes. {tried} Pass "
                f"what sides must be multiples of: divisor={side}"
            )
        if takes(network, (side, side)) is not None:
            raise PnaError(
                f"{name} takes square images only ({side}x{side} runs): expected a network that "
                f"takes any height and width. {tried} Make it take other shapes"
            )
    raise PnaError(
        f"{name} does not run on images of any size. {tried} Make it take other sizes (timm: "
        "dynamic_img_size=True of ViTs, strict_img_size=False of Swin), or pass what sides must be "
        "multiples of (divisor=)"
    )


def _takes_channels(network: nn.Module, channels: int, size: tuple[int, int]) -> bool:
    images = noise(network, 1, size)[:, :1].repeat(1, channels, 1, 1)
    try:
        with evaluation(network), torch.no_grad():
            network(images)
    except _ERRORS:
        return False
    return True


def _takes_channels_last(network: nn.Module, size: tuple[int, int]) -> bool:
    try:
        with evaluation(network), torch.no_grad():
            network(noise(network, 1, size).permute(0, 2, 3, 1))
    except _ERRORS:
        return False
    return True


def takes(network: nn.Module, size: tuple[int, int]) -> Probe | None:
    """Run a network on an image of a size; None if it raises."""
    try:
        return run_on_noise(network, size)
    except _ERRORS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return None


def run_on_noise(network: nn.Module, size: tuple[int, int]) -> Probe:
    """Run a network, in evaluation mode, on an image of a size, and record it."""
    images = noise(network, 1, size)
    with evaluation(network):
        return _record(network, images)


def parameters_behind(
    network: nn.Module, run: Callable[[Tensor], Sequence[Tensor]], size: Sequence[int]
) -> frozenset[str]:
    """Return the names of the network's trainable parameters that some tensors depend on.

    Args:
        network: The network, which is run in evaluation mode.
        run: Makes the tensors of images (1, C, *size), by that network.
        size: Height and width of noise that the network takes.
    """
    parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
    with evaluation(network), torch.enable_grad():
        sums = [x.sum() for x in run(noise(network, 1, size)) if x.requires_grad]
    if not sums:  # all that they depend on is fixed
        return frozenset()
    gradients = torch.autograd.grad(sums, list(parameters.values()), allow_unused=True)
    return frozenset(name for name, x in zip(parameters, gradients, strict=True) if x is not None)


def run_in_training(network: nn.Module, divisor: int) -> Probe:
    """Run a network in training mode, without a trace in its buffers, and record it.

    Args:
        network: Takes images (B, C, H, W).
        divisor: Number that sides must be multiples of.

    Raises:
        PnaError: It needs labels there.
    """
    # Batch norm updates its statistics in this mode, frozen layers or not.
    before = [buffer.clone() for buffer in network.buffers()]
    modes = [(module, module.training) for module in network.modules()]
    unit = _unit(divisor)
    # Two images: batch norm on a pooled map needs more than one value.
    images = noise(network, 2, (2 * unit, 3 * unit))
    try:
        return _record(network.train(), images)
    except _ERRORS as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise PnaError(
            f"{type(network).__name__} takes images alone in evaluation, but not in training "
            f"({type(error).__name__}: {error}): {_NEEDS_LABELS}"
        ) from error
    finally:
        for module, is_training in modes:
            module.training = is_training
        with torch.no_grad():
            for buffer, value in zip(network.buffers(), before, strict=True):
                buffer.copy_(value)


class _Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The dependence of every storage, followed through all operations."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._traces: dict[int, Trace] = {}
        for index, parameter in enumerate(parameters):
            key = _key(parameter)
            known = self._traces.get(key, Trace())  # tied parameters share a storage
            self._traces[key] = Trace(weights=known.weights | 1 << index)
        self.has_single_row = False
        self.extents: list[tuple[int, int]] = []  # of each value, by `_extent`

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports the compiler, for seconds

    def of(self, tensor: Tensor) -> Trace:
        return self._traces.get(_key(tensor), Trace())

    def put(self, tensor: Tensor, trace: Trace) -> None:
        self._traces[_key(tensor)] = trace

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        output = func(*args, **kwargs)
        keys = {_key(x) for x in inputs}
        name = func._schema.name.partition("::")[2]
        known = [self._traces[key] for key in keys if key in self._traces]
        if name == "lift_fresh":  # a new tensor, whose memory may have been another's
            known, keys = [], set()
        trace = self._derive(name, args, known, output)
        if name in _DOWNSAMPLES:
            h, w = tree_leaves(output)[0].shape[-2:]
            # Only a grid: what a global pooling leaves has a single column, too.
            self.has_single_row |= h == 1 < args[0].shape[-2] and (w > 1 or "adaptive" not in name)
        for x in tree_leaves(output):
            if not isinstance(x, Tensor):
                continue
            is_view = _key(x) in keys and not func._schema.is_mutable
            if not is_view:  # a view keeps the trace of its storage
                self.put(x, trace)
        return output

    def _derive(self, name: str, args: Any, known: Sequence[Trace], output: Any) -> Trace:
        first = args[0] if args and isinstance(args[0], Tensor) else None
        source = Trace() if first is None else self.of(first)
        if name in _KEEPS_VALUES and len(known) == 1:
            return source
        values = weights = 0
        for trace in known:
            values |= trace.values
            weights |= trace.weights
        whole = source.value
        if whole is not None and first is not None and self.extents[whole] != _extent(first):
            whole = None  # a part of the value
        is_resize = name.startswith(("upsample_", "_upsample_"))
        is_transposed = name == "convolution" and args[6]
        is_larger = is_resize and output.shape[-1] > args[0].shape[-1]
        is_upsampling = is_larger or is_transposed or name in _UPSAMPLES
        is_gate = bool(source.activation) or name.strip("_") in _ACTIVATIONS
        derived = Trace(
            values,
            weights,
            # A gate may be computed on a coarser grid: what it is multiplied with was not.
            is_upsampled=not is_gate
            and (is_upsampling or any(trace.is_upsampled for trace in known)),
            is_linear=name in _LINEAR,
        )
        if name.strip("_") in _ACTIVATIONS:
            return replace(derived, activation=name.strip("_"), activated=whole)
        if is_resize or name in ("clamp", "clamp_min", "clamp_max"):
            derived = replace(derived, activation=source.activation, activated=source.activated)
        if name == "upsample_bilinear2d" and not args[2]:  # corners are not aligned
            derived = replace(derived, resized=whole)
        return derived


def _record(network: nn.Module, images: Tensor) -> Probe:
    named = list(network.named_parameters())
    size = (images.shape[-2], images.shape[-1])
    seen = Probe(size, [], [], {}, [], [], [p.numel() for _, p in named], [n for n, _ in named])
    tracer = _Tracer([p for _, p in named])
    stack: list[int] = []

    def enter(name: str, args: Any) -> None:
        x = next((x for x in args if isinstance(x, Tensor)), None)
        shape = None if x is None else _shape_of_map(x, images.shape)
        is_upsampled = x is not None and tracer.of(x).is_upsampled
        parent = stack[-1] if stack else None
        seen.calls.append(Call(name, parent, shape[0] if shape else 0, is_upsampled))
        stack.append(len(seen.calls) - 1)
        seen.num_calls[name] = seen.num_calls.get(name, 0) + 1

    def leave(name: str, output: Any) -> None:
        while seen.calls[stack[-1]].module != name:  # these raised, and the network went on
            stack.pop()
        index = stack.pop()
        seen.returned.append(index)
        for keys, tensor in tensors_in(output):
            shape = _shape_of_map(tensor, images.shape)
            if shape is None:
                # A module may round a small grid up, as MobileViT does for its patches.
                is_grid = tensor.ndim == 4 and min(tensor.shape[-2:]) > 1
                seen.is_too_small |= is_grid and seen.calls[index].stride > 0
                continue
            trace = tracer.of(tensor)
            value = trace.value
            if value is None or tracer.extents[value] != _extent(tensor):
                value = len(seen.traces)
                trace = replace(trace, values=trace.values | 1 << value, value=value)
                tracer.extents.append(_extent(tensor))
                tracer.put(tensor, trace)
                seen.traces.append(trace)
                seen.maps.append([])
            m = Map(Place(name, keys), *shape, value)
            seen.calls[index].maps.append(m)
            seen.maps[value].insert(0, m)  # inner modules return first

    handles = []
    for name, module in network.named_modules():
        handles += [
            module.register_forward_pre_hook(lambda m, args, name=name: enter(name, args)),
            module.register_forward_hook(lambda m, args, output, name=name: leave(name, output)),
        ]
    try:
        # A compiled network would run as one operation, and without its modules' hooks.
        gpus = [images.device] if images.is_cuda else []
        with torch.random.fork_rng(gpus), torch.no_grad(), _eager(), tracer:
            seen.output = network(images)
    finally:
        for handle in handles:
            handle.remove()
    images_out = [x for _, x in tensors_in(seen.output) if x.ndim == 4]
    has_map = not images_out or any(_shape_of_map(x, images.shape) for x in images_out)
    seen.is_too_small |= tracer.has_single_row or not has_map
    for keys, tensor in tensors_in(seen.output):
        seen.output_traces[keys] = tracer.of(tensor)
    return seen


@contextmanager
def _eager() -> Iterator[None]:
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and its import takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _key(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # some layouts have no storage
        return -id(tensor)


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Return the part of its storage that a tensor is: views of all of it have the same extent."""
    return tensor.numel(), int(tensor.storage_offset())


def _shape_of_map(tensor: Tensor, images: Sequence[int]) -> tuple[int, int, bool, bool] | None:
    """Return stride, channels, channels-last, tokens; None if it does not span the image."""
    size = images[-2:]
    # A batch of another size holds several views of an image: flipped ones, or crops.
    if not tensor.is_floating_point() or not tensor.ndim or tensor.shape[0] != images[0]:
        return None
    if tensor.ndim == 4:
        for is_channels_last in (False, True):
            x = tensor.permute(0, 3, 1, 2) if is_channels_last else tensor
            h, w = x.shape[-2:]
            if h and w and size[0] % h == 0 and size[1] % w == 0 and size[0] // h == size[1] // w:
                return size[0] // h, x.shape[1], is_channels_last, False
    if tensor.ndim == 3:
        for stride in (stride for stride in range(4, 65) if not any(x % stride for x in size)):
            cells = (size[0] // stride) * (size[1] // stride)
            if tensor.shape[1] - cells in _NUM_PREFIX_TOKENS:
                return stride, tensor.shape[2], False, True
    return None


def _unit(divisor: int) -> int:
    """Return the first multiple from 32: at a stride of 32 there still is a map."""
    return divisor * -(-32 // divisor)


def _refuse_opaque(network: nn.Module) -> None:
    name = type(network).__name__
    if any(isinstance(module, torch.jit.ScriptModule) for module in network.modules()):
        raise PnaError(
            f"{name} is TorchScript, whose modules cannot be tapped: pass the network as it was "
            "before it was scripted or traced"
        )


def _refuse_more_inputs(network: nn.Module, error: Exception) -> None:
    text = str(error)
    is_about_labels = any(word in text.lower() for word in ("label", "target"))
    is_about_keys = isinstance(error, IndexError | TypeError) and any(
        words in text for words in ("only integers, slices", "indices must be", "too many indices")
    )
    is_missing = isinstance(error, TypeError) and any(
        words in text for words in ("required", "forward() takes 1 positional argument")
    )
    if is_about_labels or is_missing or is_about_keys:
        needs = "takes no plain tensor but a dict" if is_about_keys else "needs more than an image"
        raise PnaError(
            f"{type(network).__name__} {needs} ({type(error).__name__}: {text}): {_NEEDS_LABELS}"
        ) from error
