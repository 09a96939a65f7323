"""The plan of a cascade, from runs of the network on noise: tensors to tap, and padding."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pna.errors import PnaError
from pna.model.cascade.levels import NAME_THEM, find_levels
from pna.model.cascade.probe import Map, Probe, Trace, probe, run_in_training, takes
from pna.model.cascade.taps import Key, Place, find_module, follow, parse_place, tensors_in

CoarseFunction = Callable[[Any], Tensor]


class Plan(NamedTuple):
    """The tensors to tap, and the sizes that the network takes.

    Attributes:
        features: The levels, fine to coarse.
        coarse: The logits P0; None if a function makes them of the output.
        coarse_in_training: The same in training mode, where networks may return more.
        coarse_stride: Pixels per cell of P0.
        divisor: Images are padded to multiples of this.
        smallest: Least height and width that the network takes, a multiple of `divisor`.
    """

    features: tuple[Map, ...]
    coarse: Place | None
    coarse_in_training: Place | None
    coarse_stride: int
    divisor: int
    smallest: int


class _Coarse(NamedTuple):
    """P0.

    Attributes:
        place: Its place; None if a function makes it.
        function: Makes it of the output; None if it is tapped.
        stride: Pixels per cell.
        value: Index of its value, if a module returned it.
        used: The values that it was computed from, as bits.
        weights: The parameters that it was computed from, as bits.
    """

    place: Place | None
    function: CoarseFunction | None
    stride: int
    value: int | None
    used: int
    weights: int


def make_plan(
    network: nn.Module,
    num_classes: int,
    *,
    features: Sequence[str] | None = None,
    coarse: str | CoarseFunction | None = None,
    divisor: int | None = None,
    trains: bool = True,
) -> Plan:
    """Run a network on noise, and choose the tensors to tap.

    Args:
        network: Takes images (B, C, H, W).
        num_classes: Channels K of the logits.
        features: Places of the levels, fine to coarse; found if None.
        coarse: Place of the logits, or a function of the network's output; found if None.
        divisor: Number that sides of images must be multiples of; found if None.
        trains: Whether the network will be trained: it is run in training mode, too.

    Raises:
        PnaError: The network needs more than images, or returns or does something else than it
            must; no features were found that come out of its encoder.
    """
    if num_classes < 2:
        raise PnaError(
            f"expected num_classes of at least 2, got {num_classes}: a softmax over one class is "
            "always 1. For a network with one logit of the foreground pass num_classes=2 and "
            "coarse=lambda output: torch.cat([-output / 2, output / 2], 1)"
        )
    if features is not None and not features:
        raise PnaError(f"expected at least one place in features=, got none: {NAME_THEM}")
    if isinstance(features, str):
        raise PnaError(f"expected a list of places in features=, got {features!r}: {NAME_THEM}")
    if divisor is not None and divisor < 1:
        raise PnaError(f"expected a divisor of 1 or more, got {divisor}")
    seen = probe(network, divisor=divisor)
    levels = [_named(network, seen, name, "features") for name in features or ()]
    p0 = _choose_coarse(network, seen, num_classes, coarse)
    if features is None:
        levels = find_levels(network, seen, num_classes, logits=p0.value, used=p0.used)
    _check_nesting(levels)
    if divisor is None:
        divisor = _find_divisor(network, seen, levels, p0)
    smallest = _find_smallest(network, seen, divisor, levels, p0)
    in_training = p0.place
    if trains:
        run = run_in_training(network, divisor)
        in_training = _find_in_training(network, run, num_classes, levels, p0)
    return Plan(tuple(levels), p0.place, in_training, p0.stride, divisor, smallest)


def _named(network: nn.Module, seen: Probe, name: str, argument: str) -> Map:
    """Return the map of a place that was named."""
    place = parse_place(name)
    find_module(network, place)
    found = seen.map_at(place)
    if found is not None:
        return found
    maps = [m for maps in seen.maps for m in maps if m.place.module == place.module]
    usable = {m.place: m for m in maps if not m.is_tokens}
    if len(usable) == 1 and not place.keys:
        return next(iter(usable.values()))  # the only map, wherever it is in the output
    have = ", ".join(map(str, usable)) or ("sequences of tokens" if maps else "none")
    raise PnaError(
        f"{argument}: expected {name!r} to be a map (B, C, h, w) that spans the image, at a stride "
        f"that divides {seen.size[0]}x{seen.size[1]}; that module has {have}. Sequences of tokens "
        "must be made maps by the network itself"
    )


def _check_nesting(levels: Sequence[Map]) -> None:
    strides = [m.stride for m in levels]
    nests = all(b % a == 0 for a, b in itertools.pairwise(strides))
    if not nests:  # descending ones don't either
        raise PnaError(
            f"expected features fine to coarse whose sizes nest (each stride a multiple of the one "
            f"before), got strides {strides} of {', '.join(str(m.place) for m in levels)}; put "
            "them in order, or leave out the one that does not fit"
        )


def _choose_coarse(
    network: nn.Module, seen: Probe, num_classes: int, coarse: str | CoarseFunction | None
) -> _Coarse:
    if callable(coarse):
        logits = coarse(seen.output)
        stride = _check_logits(network, logits, num_classes, seen.size)
        traces = seen.output_traces.values()
        used = weights = 0
        for trace in traces:
            used, weights = used | trace.values, weights | trace.weights
        return _Coarse(None, coarse, stride, None, used, weights)
    if coarse:
        named = _named(network, seen, coarse, "coarse")
        return _tapped(network, seen, num_classes, named)
    place, logits = _logits_in(network, seen, num_classes)
    stride = _check_logits(network, logits, num_classes, seen.size)
    trace = seen.output_traces[place.keys]
    _check_activation(network, seen, trace, logits)
    if coarse is None and trace.resized is not None:
        # The logits before they were upsampled, where bilinear resizing of them is the output. A
        # head that aligns corners, or does anything else last, has none.
        for m in seen.maps[trace.resized]:
            is_fit = not m.is_channels_last and m.channels == num_classes
            if is_fit and m.place.module and seen.num_calls[m.place.module] == 1:
                return _tapped(network, seen, num_classes, m)
    return _Coarse(place, None, stride, trace.value, trace.values, trace.weights)


def _tapped(network: nn.Module, seen: Probe, num_classes: int, m: Map) -> _Coarse:
    if m.channels != num_classes:
        _refuse_number_of_classes(network, m.channels, num_classes)
    trace = seen.traces[m.value]
    _check_activation(network, seen, trace, None)
    return _Coarse(m.place, None, m.stride, m.value, trace.values, trace.weights)


def _logits_in(network: nn.Module, seen: Probe, num_classes: int) -> tuple[Place, Tensor]:
    """Return the logits in an output: the tensor, `out` or `logits`, or the first of a list."""
    output = seen.output
    keys = _first_keys(output)
    found = dict(tensors_in(output)).get(keys) if keys is not None else None
    if keys is None or found is None:
        names = ", ".join("".join(f"[{k}]" for k in keys) for keys, _ in tensors_in(output))
        raise PnaError(
            f"{type(network).__name__} returns {type(output).__name__}"
            f"{f' with {names}' if names else ''}: expected a tensor of logits, a dict with 'out', "
            "an object with 'logits', or a tuple that begins with them; pass how to get logits "
            "(B, K, h, w) from it: coarse=lambda output: ..."
        )
    if keys == (0,):
        _check_first(network, seen, num_classes)
    return Place("", keys), found


def _first_keys(output: Any) -> tuple[Key, ...] | None:
    if isinstance(output, Tensor):
        return ()
    if isinstance(output, list | tuple) and not hasattr(output, "_fields"):
        return (0,) if output and isinstance(output[0], Tensor) else None
    for key in ("out", "logits"):
        found = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(found, Tensor):
            return (key,)
    return (0,) if isinstance(output, tuple) and isinstance(output[0], Tensor) else None


def _check_first(network: nn.Module, seen: Probe, num_classes: int) -> None:
    """Refuse several outputs unless the first are logits, with most weights behind them."""
    counts = {
        keys: seen.count(seen.output_traces[keys].weights)
        for keys, x in tensors_in(seen.output)
        if len(keys) == 1 and x.ndim == 4 and x.shape[1] == num_classes
    }
    main = max(counts, key=lambda keys: (counts[keys], -int(keys[0])), default=(0,))
    if counts and (0,) not in counts:
        raise PnaError(
            f"{type(network).__name__} returns several maps, of which [0] has not "
            f"num_classes={num_classes} channels, but [{main[0]}] has: pass "
            f"coarse=lambda output: output[{main[0]}]"
        )
    if main != (0,):
        raise PnaError(
            f"{type(network).__name__} returns {len(counts)} maps of {num_classes} channels, and "
            f"[{main[0]}] has more of the network behind it than [0], which may be auxiliary: pass "
            f"which one to refine, coarse=lambda output: output[{main[0]}] or output[0]"
        )


def _check_logits(network: nn.Module, logits: Any, num_classes: int, size: tuple[int, int]) -> int:
    """Check the logits, and return their stride."""
    name = type(network).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 4:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        if isinstance(logits, Tensor) and not logits.is_floating_point():
            got = f"{got}, which are labels: build the network without its argmax"
        raise PnaError(f"{name}: expected coarse logits (B, {num_classes}, h, w), got {got}")
    shape = tuple(logits.shape)
    if shape[1] != num_classes:
        if shape[3] == num_classes and size[0] % shape[1] == 0:
            raise PnaError(
                f"{name} returns channels-last logits {shape}: expected (B, {num_classes}, h, w); "
                "pass coarse=lambda output: output.permute(0, 3, 1, 2)"
            )
        _refuse_number_of_classes(network, shape[1], num_classes)
    h, w = shape[-2:]
    if size[0] % h or size[1] % w or size[0] // h != size[1] // w:
        raise PnaError(
            f"{name}: expected coarse logits whose size divides that of the image, "
            f"{size[0]}x{size[1]}, got {h}x{w}"
        )
    return size[0] // h


def _refuse_number_of_classes(network: nn.Module, channels: int, num_classes: int) -> None:
    remedy = "build the network for that many classes, or pass num_classes as it has them"
    if channels == 1:
        remedy = (
            "for one logit of the foreground pass num_classes=2 and "
            "coarse=lambda output: torch.cat([-output / 2, output / 2], 1)"
        )
    raise PnaError(
        f"{type(network).__name__} predicts {channels} classes, expected "
        f"num_classes={num_classes}; {remedy}"
    )


def _check_activation(network: nn.Module, seen: Probe, trace: Trace, logits: Tensor | None) -> None:
    """Refuse probabilities: refinement, softmax and losses take logits."""
    activation = trace.activation
    if not activation and logits is not None:
        # By the values too: a softmax in parts (exp, sum, division) has no name.
        sums = logits.float().sum(1)
        if bool((logits >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            activation = "they add up to 1"
    if not activation:
        return
    remedy = "build it without, or pass coarse= the module whose output is before it"
    if trace.activated is not None:
        places = [str(m.place) for m in seen.maps[trace.activated] if m.place.module]
        if places:
            remedy = f'build it without, or pass coarse="{places[0]}", the map before it'
    raise PnaError(
        f"{type(network).__name__} returns probabilities ({activation}), expected logits: {remedy}"
    )


def _find_divisor(network: nn.Module, seen: Probe, levels: Sequence[Map], p0: _Coarse) -> int:
    """Return the coarsest stride, or twice it, ...: the first with images of odd multiples."""
    # Sides of 5 and 3 cells: odd, so that a level coarser than all that were found shows.
    divisor, unit = levels[-1].stride, seen.size[0] // 2
    while divisor <= unit:
        again = takes(network, (5 * divisor, 3 * divisor))
        if again is not None and _fits(again, levels, p0):
            return divisor
        divisor *= 2
    raise PnaError(
        f"{type(network).__name__}: its features have strides {[m.stride for m in levels]} and its "
        f"logits {p0.stride} at {seen.size[0]}x{seen.size[1]}, but not at other sizes, so they do "
        f"not nest; {NAME_THEM}, or pass what sides must be multiples of (divisor=)"
    )


def _find_smallest(
    network: nn.Module, seen: Probe, divisor: int, levels: Sequence[Map], p0: _Coarse
) -> int:
    """Return one cell of the coarsest level, or more (a group norm needs two values)."""
    for cells in (1, 2, 4):
        side = divisor * cells
        again = takes(network, (side, side))
        if again is not None and _fits(again, levels, p0):
            return side
    return min(seen.size)


def _fits(seen: Probe, levels: Sequence[Map], p0: _Coarse) -> bool:
    """Return whether levels and P0 have their strides in another run, too."""
    if p0.place is None:
        assert p0.function is not None
        logits: Any = p0.function(seen.output)
        if _stride(logits, seen.size) != p0.stride:
            return False
    elif not p0.place.module:
        try:
            logits = follow(seen.output, p0.place.keys)
        except (LookupError, AttributeError, TypeError):
            return False
        if _stride(logits, seen.size) != p0.stride:
            return False
    elif not _has_stride(seen, p0.place, p0.stride):
        return False
    return all(_has_stride(seen, m.place, m.stride) for m in levels)


def _stride(logits: Any, size: tuple[int, int]) -> int | None:
    if not isinstance(logits, Tensor) or logits.ndim != 4:
        return None
    h, w = logits.shape[-2:]
    strides = {size[0] / h, size[1] / w}
    return int(strides.pop()) if len(strides) == 1 else None


def _has_stride(seen: Probe, place: Place, stride: int) -> bool:
    found = [m.stride for maps in seen.maps for m in maps if m.place == place]
    return bool(found) and found[-1] == stride


def _find_in_training(
    network: nn.Module, seen: Probe, num_classes: int, levels: Sequence[Map], p0: _Coarse
) -> Place | None:
    """Return the place of P0 in training mode: the output with the same weights behind it."""
    name = type(network).__name__
    wrap = (
        "wrap it in a module that returns the same in training and in evaluation, or pass "
        "freeze=True"
    )
    for m in levels:
        if not _has_stride(seen, m.place, m.stride):
            raise PnaError(
                f"{name}: {m.place} is no map at stride {m.stride} in training, as it is in "
                f"evaluation: name other features, or {wrap}"
            )
    if p0.place is None:
        assert p0.function is not None
        try:
            logits: Any = p0.function(seen.output)
        except Exception as error:
            raise PnaError(
                f"{name} returns {type(seen.output).__name__} in training, of which coarse= makes "
                f"no logits ({type(error).__name__}: {error}): let coarse= take both, or {wrap}"
            ) from error
        _check_logits(network, logits, num_classes, seen.size)
        return None
    if p0.place.module:
        if not _has_stride(seen, p0.place, p0.stride):
            raise PnaError(
                f"{name}: {p0.place} is no map at stride {p0.stride} in training, as it is in "
                f'evaluation: pass coarse="" for the output itself, or {wrap}'
            )
        return p0.place
    outputs = {
        keys: x
        for keys, x in tensors_in(seen.output)
        if x.ndim == 4 and x.shape[1] == num_classes and _stride(x, seen.size) == p0.stride
    }
    # Auxiliary outputs have K channels too, but other weights behind them.
    same = [keys for keys in outputs if seen.output_traces[keys].weights == p0.weights]
    if p0.place.keys in outputs and (len(outputs) == 1 or p0.place.keys in same):
        return p0.place
    if len(outputs) == 1 or len(same) == 1:
        return Place("", (same or list(outputs))[0])
    raise PnaError(
        f"{name} returns {type(seen.output).__name__} in training, in which "
        f"{len(same or outputs)} of {len(list(tensors_in(seen.output)))} tensors may be the "
        f"logits of evaluation (B, {num_classes}, h, w) at stride {p0.stride}: pass a function "
        f"that takes both, coarse=lambda output: ..., or {wrap}"
    )
