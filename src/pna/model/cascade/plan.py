"""Decides, from a run of a network, what to tap: features, coarse logits; and what to pad to."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pna.model.cascade.probe import Map, Probe, probe, takes
from pna.model.cascade.taps import Place, find_module, parse_place
from pna.model.resize import resize

CoarseFunction = Callable[[Any], Tensor]
_FINEST_STRIDE = 4  # as of encoders: finer maps cost memory
_FINE_STRIDE = 8  # what begins coarser than this is a part of a head
_MOST_LEVELS = 5  # of the refinement head
_COARSEST_NOMINAL = 32  # stride times dilation of a dilated backbone; beyond it is a head's (ASPP)
_NAME_THEM = (
    'name them, fine to coarse: features=["backbone.layer1", "backbone.layer2", ...]; '
    "model.named_modules() lists the names"
)


class Plan(NamedTuple):
    """What to tap.

    Attributes:
        features: The levels, fine to coarse.
        coarse: The logits P0; None if a function makes them of the output.
        coarse_stride: Pixels per cell of P0.
        divisor: What pictures are padded to multiples of.
        smallest: Least height and width that the network takes, a multiple of `divisor`.
    """

    features: tuple[Map, ...]
    coarse: Place | None
    coarse_stride: int
    divisor: int
    smallest: int


def make_plan(
    network: nn.Module,
    num_classes: int,
    *,
    features: Sequence[str] | None = None,
    coarse: str | CoarseFunction | None = None,
    divisor: int | None = None,
) -> Plan:
    """Run a network on noise and decide.

    Args:
        network: Takes pictures (B, 3, H, W).
        num_classes: Channels K of the logits.
        features: Places of the levels, fine to coarse; found if None.
        coarse: Place of the logits, or a function of the network's output; found if None.
        divisor: What sides of pictures must be multiples of; found if None.

    Raises:
        ValueError: What the network is asked for, or does, is not as it must be.
    """
    seen = probe(network, divisor=divisor)
    levels = _find_levels(network, seen, num_classes) if features is None else None
    if features is not None:
        levels = [_named(network, seen, name, "features") for name in features]
    if not levels:
        raise ValueError(
            f"found no multi-scale features in {type(network).__name__}: expected maps at two "
            f"strides or more, the finest of {_FINEST_STRIDE} or {_FINE_STRIDE}, which one module "
            f"returns or its children make in turn; {_NAME_THEM}"
        )
    _check_levels(levels)
    place, logits = _choose_coarse(network, seen, num_classes, coarse)
    stride = _check_logits(network, logits, num_classes, seen.size)
    if divisor is None:
        divisor = _find_divisor(network, seen, levels)
    return Plan(tuple(levels), place, stride, divisor, _find_smallest(network, seen, divisor))


def _find_levels(network: nn.Module, seen: Probe, num_classes: int) -> list[Map]:
    """The encoder's levels: what one module hands out, or what its children do in turn.

    Most levels win, then who was first: an encoder comes before its decoder.
    """
    pyramids = {maps[0].place.module: maps for maps in _pyramids(seen)}
    found = list(pyramids.values())
    for parent, maps in _sequences(network, seen, num_classes):
        if len(pyramids.get(parent, ())) < len(maps):  # its own choice counts for more
            found.append(maps)
    found = [maps for maps in found if _is_encoder([m.stride for m in maps])]
    return min(found, key=lambda maps: (-len(maps), max(m.order for m in maps)), default=[])


def _is_encoder(strides: Sequence[int]) -> bool:
    is_multi_scale = len(set(strides)) > 1 and strides[0] <= _FINE_STRIDE
    return is_multi_scale and len(strides) <= _MOST_LEVELS


def _pyramids(seen: Probe) -> Iterator[list[Map]]:
    """Maps that a module returns together, fine to coarse; of equal shapes the last."""
    by_call: dict[int, dict[tuple[int, int], Map]] = {}
    for m in seen.maps:
        if m.stride >= _FINEST_STRIDE:
            returned = by_call.setdefault(m.order, {})
            returned.pop((m.stride, m.channels), None)  # the later one stands in its own place
            returned[m.stride, m.channels] = m
    for returned in by_call.values():
        strides = [stride for stride, _ in returned]
        if len(strides) > 1 and strides == sorted(strides):
            yield list(returned.values())


def _sequences(
    network: nn.Module, seen: Probe, num_classes: int
) -> Iterator[tuple[str, list[Map]]]:
    """Of each module, the levels that its children make, called one after the other."""
    modules = dict(network.named_modules())
    children: dict[str, list[Map]] = {}
    for m in seen.maps:
        is_single = not m.place.keys and seen.calls[m.place.module] == 1
        if m.place.module and is_single and m.channels != num_classes:  # those are logits
            children.setdefault(_parent(modules, m.place.module), []).append(m)
    for parent, maps in children.items():
        levels = _levels(maps, [_dilation(modules[m.place.module]) for m in maps])
        if len(levels) > 1:
            yield parent, levels


def _levels(maps: list[Map], dilations: list[int]) -> list[Map]:
    """The last map at each resolution, before it first grows again.

    Where a backbone is dilated instead of strided, its dilation counts as the stride it replaces:
    torchvision's FCN has levels at 4, 8, 8 and 8.
    """
    last: dict[int, Map] = {}
    nominal = 0
    coarsest = 0
    for m, dilation in zip(maps, dilations, strict=True):
        if m.stride < coarsest:
            break
        coarsest = m.stride
        replaced = m.stride * dilation
        nominal = max(nominal, replaced if replaced <= _COARSEST_NOMINAL else m.stride)
        last[nominal] = m
    return [m for m in last.values() if m.stride >= _FINEST_STRIDE]


def _parent(modules: dict[str, nn.Module], name: str) -> str:
    """The module that calls this one: lists of modules call nothing."""
    parent = name.rpartition(".")[0]
    while isinstance(modules[parent], nn.ModuleList | nn.ModuleDict):
        parent = parent.rpartition(".")[0]
    return parent


def _dilation(module: nn.Module) -> int:
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d) and max(m.kernel_size) > 1]
    return max((int(conv.dilation[0]) for conv in convs), default=1)


def _named(network: nn.Module, seen: Probe, name: str, argument: str) -> Map:
    """The map of a place that was named."""
    place = parse_place(name)
    find_module(network, place)
    maps = {m.place.keys: m for m in seen.maps if m.place.module == place.module}
    if place.keys not in maps and len(maps) == 1 and not place.keys:
        return next(iter(maps.values()))  # the only map, wherever it is in the output
    if place.keys not in maps:
        have = ", ".join(str(m.place) for m in maps.values()) or "none"
        raise ValueError(
            f"{argument}: expected {name!r} to be a map (B, C, h, w) that spans the picture, at a "
            f"stride that divides {seen.size[0]}x{seen.size[1]}; that module has {have}. Sequences "
            "of tokens must be made maps by the model itself"
        )
    return maps[place.keys]


def _check_levels(levels: Sequence[Map]) -> None:
    strides = [m.stride for m in levels]
    nests = all(b % a == 0 for a, b in itertools.pairwise(strides))
    if not nests:  # descending ones don't either
        raise ValueError(
            f"expected features fine to coarse whose sizes nest (each stride a multiple of the one "
            f"before), got strides {strides} of {', '.join(str(m.place) for m in levels)}; put "
            "them in order, or leave out the one that does not fit"
        )


def _choose_coarse(
    network: nn.Module, seen: Probe, num_classes: int, coarse: str | CoarseFunction | None
) -> tuple[Place | None, Tensor]:
    """Place and values of P0."""
    if callable(coarse):
        return None, coarse(seen.output)
    if coarse:
        named = _named(network, seen, coarse, "coarse")
        return named.place, named.tensor
    place, logits = logits_in(network, seen.output)
    if coarse == "":
        return place, logits
    _check_logits(network, logits, num_classes, seen.size)
    before = _before_upsampling(seen, logits)
    return (place, logits) if before is None else (before.place, before.tensor)


def _before_upsampling(seen: Probe, logits: Tensor) -> Map | None:
    """The last smaller map that, resized, is the output: the logits before they were upsampled.

    A head that aligns corners, or does anything else after its last convolution, has none: what
    comes of resizing its map is not what the network says.
    """
    tolerance = 1e-4 * float(logits.abs().max())
    for m in reversed(seen.maps):
        is_smaller = m.tensor.shape[-2] < logits.shape[-2]
        if is_smaller and m.channels == logits.shape[1] and not m.is_channels_last:
            resized = resize(m.tensor, logits.shape[-2:])
            if torch.allclose(resized, logits, rtol=0, atol=tolerance):
                return m
    return None


def logits_in(network: nn.Module, output: Any) -> tuple[Place, Tensor]:
    """The logits in what a network returns: the tensor, `out` or `logits` of a dict, or the first.

    Raises:
        ValueError: There are none.
    """
    key: Any = None
    if isinstance(output, Tensor):
        return Place(""), output
    if isinstance(output, Mapping):
        key = next((name for name in ("out", "logits") if name in output), None)
    elif isinstance(output, list | tuple) and output:
        key = 0
    if key is None or not isinstance(output[key], Tensor):
        keys = f" with {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
        raise ValueError(
            f"{type(network).__name__} returns {type(output).__name__}{keys}: expected a tensor of "
            "logits, a dict with 'out', an object with 'logits', or a tuple that begins with "
            "them; say how to get logits (B, K, h, w) from it: coarse=lambda output: ..."
        )
    return Place("", (key,)), output[key]


def _check_logits(
    network: nn.Module, logits: Tensor, num_classes: int, size: tuple[int, int]
) -> int:
    """The stride of the logits."""
    name = type(network).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 4:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"{name}: expected coarse logits (B, {num_classes}, h, w), got {got}")
    if logits.shape[1] != num_classes:
        raise ValueError(
            f"{name} predicts {logits.shape[1]} classes, expected num_classes={num_classes}; build "
            "the model for that many classes, or say num_classes as it has them"
        )
    h, w = logits.shape[-2:]
    if size[0] % h or size[1] % w or size[0] // h != size[1] // w:
        raise ValueError(
            f"{name}: expected coarse logits whose size divides that of the picture, "
            f"{size[0]}x{size[1]}, got {h}x{w}"
        )
    return size[0] // h


def _find_divisor(network: nn.Module, seen: Probe, levels: Sequence[Map]) -> int:
    """The coarsest stride, or twice it, ...: the first whose odd multiples the network takes."""
    divisor, unit = levels[-1].stride, seen.size[0] // 2
    while divisor <= unit:
        again = takes(network, (5 * divisor, 3 * divisor))
        if again is not None and _same_strides(levels, again):
            return divisor
        divisor *= 2
    raise ValueError(
        f"{type(network).__name__}: its features have strides {[m.stride for m in levels]} at "
        f"{seen.size[0]}x{seen.size[1]}, but not at other sizes, so they do not nest; "
        f"{_NAME_THEM}, or say what sides must be multiples of (divisor=)"
    )


def _find_smallest(network: nn.Module, seen: Probe, divisor: int) -> int:
    """One cell of the coarsest level, or as many as it takes (a group norm needs two values)."""
    sides = (divisor * cells for cells in (1, 2, 4))
    return next((side for side in sides if takes(network, (side, side))), min(seen.size))


def _same_strides(levels: Sequence[Map], seen: Probe) -> bool:
    strides = {m.place: m.stride for m in seen.maps}
    return all(strides.get(m.place) == m.stride for m in levels)
