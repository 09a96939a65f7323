"""Tensors of a running network, by forward hooks that live for one call.

A place is written as the module's name, and where the module returns more than one tensor, the key,
attribute or index in brackets: `backbone.layer3`, `encoder[2]`,
`segformer.encoder[hidden_states][0]`. A key that is no identifier stands in quotes, so that
`body['0']` (a key) differs from `body[0]` (an index). The empty name is the network itself.
"""

import ast
import dataclasses
import difflib
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pna.errors import PnaError

Key = int | str
# A key in brackets: in quotes, with escapes, or bare and without quotes and brackets.
_KEY = r"\[('(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|[^\[\]'\"]+)\]"
# Two threads that register hooks at once may get the same id from torch, and lose one of the two.
_REGISTERING = threading.Lock()


class Place(NamedTuple):
    """Where a tensor comes from.

    Attributes:
        module: Name of the module in the network; "" is the network itself.
        keys: The way to the tensor in the module's output; none if it is all of it.
    """

    module: str
    keys: tuple[Key, ...] = ()

    def __str__(self) -> str:
        """As `parse_place` reads it."""
        return self.module + "".join(
            f"[{key if isinstance(key, int) or key.isidentifier() else repr(key)}]"
            for key in self.keys
        )


class Tap(NamedTuple):
    """A tensor that is taken out in every call.

    Attributes:
        place: Where it comes from.
        is_channels_last: Whether it is (B, h, w, C) there; it is handed out as (B, C, h, w).
    """

    place: Place
    is_channels_last: bool = False


def parse_place(name: str) -> Place:
    """Read a place as it is written.

    Raises:
        PnaError: The brackets don't match.
    """
    match = re.fullmatch(rf"([^\[\]]*)((?:{_KEY})*)", name)
    if match is None:
        raise PnaError(f"expected a module's name such as encoder.layer1 or encoder[2]: {name!r}")
    return Place(match[1], tuple(_parse_key(key) for key in re.findall(_KEY, match[2])))


def _parse_key(key: str) -> Key:
    if key[0] in "'\"":
        return str(ast.literal_eval(key))
    return int(key) if re.fullmatch(r"-?\d+", key) else key


def find_module(network: nn.Module, place: Place) -> nn.Module:
    """Return the module of a place.

    Raises:
        PnaError: There is none of that name; the nearest names are listed.
    """
    modules: dict[str, nn.Module] = dict(network.named_modules())
    if place.module not in modules:
        near = difflib.get_close_matches(place.module, modules, n=4)
        # Nothing is similar: the outermost modules are a place to begin.
        near = near or [name for name, _ in network.named_children()]
        hint = f"did you mean {', '.join(near)}? " if near else ""
        raise PnaError(
            f"{type(network).__name__} has no module {place.module!r}; {hint}"
            "model.named_modules() lists all"
        )
    return modules[place.module]


def tensors_in(output: Any, keys: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], Tensor]]:
    """Yield all tensors in the output of a module, each with its keys."""
    if isinstance(output, Tensor):
        yield keys, output
        return
    items: Iterable[tuple[Any, Any]] = ()
    if isinstance(output, Mapping):
        items = output.items()
    elif isinstance(output, list | tuple):
        items = enumerate(output)
    elif dataclasses.is_dataclass(output):
        items = ((field.name, getattr(output, field.name)) for field in dataclasses.fields(output))
    elif hasattr(output, "__dict__"):
        # Any other object may refer to anything, itself included: only its own tensors count.
        items = ((key, x) for key, x in vars(output).items() if isinstance(x, Tensor))
    for key, value in items:
        if isinstance(key, int | str):  # no other key can be written in a name
            yield from tensors_in(value, (*keys, key))


def follow(output: Any, keys: Iterable[Key]) -> Any:
    """Go the way of `tensors_in` through the output of a module.

    Raises:
        LookupError: The output has another structure.
        AttributeError: Likewise.
    """
    for key in keys:
        is_container = isinstance(output, Mapping | list | tuple)
        output = output[key] if is_container else getattr(output, str(key))
    return output


def run_tapped(network: nn.Module, images: Tensor, taps: Sequence[Tap]) -> tuple[Any, list[Tensor]]:
    """Call a network, and take tensors out on the way. Nothing stays in the network.

    Other threads may call the same network meanwhile, by this function too: each call takes the
    tensors of its own thread.

    Args:
        network: The network.
        images: Its input.
        taps: The tensors to take.

    Returns:
        The network's output, and a tensor (B, C, h, w) for each tap.

    Raises:
        PnaError: A module was not called, or returned another structure.
    """
    kept: dict[Place, Any] = {}

    # A function per place: a closure in the loop below would see its last place only.
    def keep(place: Place) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            kept[place] = _take(output, place)

        return hook

    # The network itself needs no hook: its output is the call's.
    inner = [(tap.place, keep(tap.place)) for tap in taps if tap.place.module]
    call = _call_traced if torch.compiler.is_compiling() else _call_hooked
    output = call(network, images, inner)
    for tap in taps:
        if not tap.place.module:
            kept[tap.place] = _take(output, tap.place)
        if tap.place not in kept:
            raise PnaError(
                f"{type(network).__name__} did not call {tap.place.module!r}, as it did when it "
                "was wrapped: name other features or coarse logits, of modules that always run"
            )
    tensors = [kept[tap.place] for tap in taps]
    return output, [
        tensor.permute(0, 3, 1, 2) if tap.is_channels_last else tensor
        for tap, tensor in zip(taps, tensors, strict=True)
    ]


_Hook = Callable[[nn.Module, Any, Any], None]


def _call_hooked(network: nn.Module, images: Tensor, hooks: Iterable[tuple[Place, _Hook]]) -> Any:
    caller = threading.get_ident()

    def of_caller(hook: _Hook) -> _Hook:
        # Hooks belong to the network, so they are called in every thread that runs it.
        def guarded(module: nn.Module, args: Any, output: Any) -> None:
            if threading.get_ident() == caller:
                hook(module, args, output)

        return guarded

    handles = []
    try:
        with _REGISTERING:
            for place, hook in hooks:
                module = network.get_submodule(place.module)
                handles.append(module.register_forward_hook(of_caller(hook)))
        return network(images)
    finally:
        with _REGISTERING:
            for handle in handles:
                handle.remove()


def _call_traced(network: nn.Module, images: Tensor, hooks: Iterable[tuple[Place, _Hook]]) -> Any:
    """Do the same for `torch.compile` and `torch.export`, which trace neither locks nor handles.

    They do trace an attribute that is set and set back, so that one graph holds the whole network.
    """
    before = []
    try:
        for index, (place, hook) in enumerate(hooks):
            module = network.get_submodule(place.module)
            before.append((module, module._forward_hooks))
            # Negative keys: torch's own ids of hooks are 0 and above.
            module._forward_hooks = {**module._forward_hooks, ~index: hook}
        return network(images)
    finally:
        for module, own in reversed(before):
            module._forward_hooks = own


def _take(output: Any, place: Place) -> Tensor:
    try:
        tensor = follow(output, place.keys)
    except (LookupError, TypeError, AttributeError):
        tensor = None
    if not isinstance(tensor, Tensor):
        raise PnaError(
            f"expected a tensor at {str(place)!r}, as when the network was wrapped, got an output "
            f"of type {type(output).__name__} without it; its forward must return the same "
            "structure in training and in evaluation"
        )
    return tensor
