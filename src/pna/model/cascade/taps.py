"""Takes maps out of a running network: forward hooks that keep one tensor each.

A place is written as the module's name, and where the module returns more than one tensor, the key
or index in brackets: `backbone.layer3`, `encoder[2]`, `segformer.encoder[hidden_states][0]`. The
empty name is the network itself.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

Key = int | str


class Place(NamedTuple):
    """Where a tensor comes from.

    Attributes:
        module: Name of the module in the network; "" is the network itself.
        keys: The way to the tensor in what the module returns; none if it is all of it.
    """

    module: str
    keys: tuple[Key, ...] = ()

    def __str__(self) -> str:
        """As `parse_place` reads it."""
        return self.module + "".join(f"[{key}]" for key in self.keys)


def parse_place(name: str) -> Place:
    """Read a place as it is written.

    Raises:
        ValueError: The brackets don't match.
    """
    match = re.fullmatch(r"([^\[\]]*)((?:\[[^\[\]]+\])*)", name)
    if match is None:
        raise ValueError(f"expected a module's name such as encoder.layer1 or encoder[2]: {name!r}")
    keys = re.findall(r"\[([^\[\]]+)\]", match[2])
    return Place(match[1], tuple(int(key) if key.isdigit() else key for key in keys))


def find_module(network: nn.Module, place: Place) -> nn.Module:
    """The module of a place.

    Raises:
        ValueError: There is none of that name; the nearest names are listed.
    """
    modules = dict(network.named_modules())
    if place.module not in modules:
        near = difflib.get_close_matches(place.module, modules, n=4)
        near = near or [name for name, _ in network.named_children()]
        raise ValueError(
            f"{type(network).__name__} has no module {place.module!r}; did you mean "
            f"{', '.join(near)}? model.named_modules() lists all"
        )
    return network.get_submodule(place.module)


def tensors_in(output: Any, keys: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], Tensor]]:
    """All tensors in what a module has returned, each with the way to it."""
    if isinstance(output, Tensor):
        yield keys, output
        return
    items: Iterable[tuple[Key, Any]] = ()
    if isinstance(output, Mapping):
        items = output.items()
    elif isinstance(output, list | tuple):
        items = enumerate(output)
    for key, value in items:
        yield from tensors_in(value, (*keys, key))


class Tap:
    """A forward hook that keeps a tensor of the module's output until it is taken.

    It belongs to one cascade: other calls of the network leave it closed and empty.

    Args:
        place: What to keep.
        is_channels_last: The tensor is (B, h, w, C), to be handed out as (B, C, h, w).
    """

    def __init__(self, place: Place, *, is_channels_last: bool = False) -> None:
        self.place = place
        self.is_channels_last = is_channels_last
        self._is_open = False
        self._kept: Tensor | None = None

    def open(self) -> None:
        """Keep what comes in the next call."""
        self._is_open = True

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        """Be a forward hook."""
        if self._is_open:
            for key in self.place.keys:
                output = output[key]
            self._kept = output

    def take(self) -> Tensor:
        """The tensor (B, C, h, w) of the last call; close and forget it."""
        kept, self._kept, self._is_open = self._kept, None, False
        if kept is None:
            raise RuntimeError(
                f"the wrapped model has not called {str(self.place)!r}, which it did when it was "
                "wrapped; name other features or coarse logits"
            )
        return kept.permute(0, 3, 1, 2) if self.is_channels_last else kept
