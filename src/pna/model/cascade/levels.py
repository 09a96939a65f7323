"""The search for the encoder's levels in the record of a run.

An encoder is a chain of maps that only ever get coarser. Candidates are chains among the children
of each module, so the inside of a block does not count where the blocks themselves are levels, and
the maps that one module returns together. `_best` chooses among them.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import nn

from pna.errors import PnaError
from pna.model.cascade.probe import Call, Map, Probe
from pna.model.cascade.taps import Key

_FINEST_STRIDE = 4  # as of encoders: finer maps cost memory
_FINE_STRIDE = 8  # a chain that begins coarser than this is a part of a head
_MOST_LEVELS = 5  # of the refinement head
_COARSEST_NOMINAL = 32  # stride times dilation of a dilated backbone; beyond it is a head's (ASPP)
_LARGEST_STEP = 4  # from stride to stride; beyond it the levels between are missing
_FEWEST_CHANNELS = 4  # fewer are those of an image or of a gate
NAME_THEM = (
    'name them, fine to coarse: features=["backbone.layer1", "backbone.layer2", ...]; '
    "model.named_modules() lists the names"
)


class _Levels(NamedTuple):
    """A candidate.

    Attributes:
        maps: The levels, fine to coarse.
        weights: The parameters behind them, as bits.
        others: All maps among which they were chosen.
        is_pure: Whether none depends on a coarser map: an encoder's, not a decoder's.
        is_pyramid: Whether one module returns them together.
        depth: Depth in the network of the modules that they are chosen among.
    """

    maps: list[Map]
    weights: int
    others: list[Map]
    is_pure: bool
    is_pyramid: bool
    depth: int


def find_levels(
    network: nn.Module, seen: Probe, num_classes: int, *, logits: int | None, used: int
) -> list[Map]:
    """Find the encoder's levels, fine to coarse.

    Args:
        network: The network.
        seen: Its run.
        num_classes: Channels K of the logits.
        logits: Index of the value that is P0, if a module returned it.
        used: The values that the output was computed from, as bits.

    Raises:
        PnaError: There are none, or most of the encoder is not behind them.
    """
    finder = _Finder(network, seen, num_classes, logits, used)
    name = type(network).__name__
    candidates = [levels for levels in finder.candidates() if _is_encoder(levels)]
    # What one module returns together is what its blocks made, and where the next ones begin.
    found = [
        levels
        for levels in candidates
        if levels.is_pyramid or not finder.is_followed_by_tokens(levels)
    ]
    if candidates and not found:
        raise PnaError(
            f"found no features that come out of the encoder of {name}: its blocks work on "
            f"sequences of tokens, which are no maps (B, C, h, w); {NAME_THEM}"
        )
    # What depends on coarser maps counts only where nothing else is found: the branches of HRNet
    # and DDRNet exchange their maps.
    ranks = (
        [levels for levels in found if levels.is_pure],
        [levels for levels in found if levels.is_pyramid],
        found,
    )
    best = next((_best(seen, rank) for rank in ranks if rank), None)
    if best is None:
        repeated = finder.find_repeated()
        if repeated is not None:
            raise PnaError(
                f"found no multi-scale features in {name} outside of {repeated.module!r}, which is "
                f"called {seen.num_calls[repeated.module]} times: a tap takes the maps of the last "
                f"call; if those are right, {NAME_THEM}"
            )
        raise PnaError(
            f"found no multi-scale features in {name}: expected maps (B, C, h, w) that span the "
            f"images, one for each, at two strides or more, the finest of {_FINEST_STRIDE} or "
            f"{_FINE_STRIDE}, each computed from the one before or "
            f"all returned by one module; {NAME_THEM}"
        )
    others = [m for levels in found if levels.is_pure for m in levels.others]
    _check_share(name, seen, best, finder.encoder_weights(best, others))
    return best.maps


def _is_encoder(levels: _Levels) -> bool:
    strides = [m.stride for m in levels.maps]
    is_multi_scale = len(set(strides)) > 1 and strides[0] <= _FINE_STRIDE
    has_gap = any(b > _LARGEST_STEP * a for a, b in itertools.pairwise(strides))
    return is_multi_scale and not has_gap and len(strides) <= _MOST_LEVELS


def _best(seen: Probe, candidates: Sequence[_Levels]) -> _Levels:
    """Choose among those with half of the weights: nearest the root, coarsest, most levels."""
    # Depth decides below, so small branches near the root are left out first.
    most = max(seen.count(levels.weights) for levels in candidates)
    return min(
        (levels for levels in candidates if 2 * seen.count(levels.weights) >= most),
        key=lambda levels: (
            *(levels.depth, -levels.maps[-1].stride, -len(levels.maps)),
            *(-seen.count(levels.weights), not levels.is_pyramid),
        ),
    )


def _check_share(name: str, seen: Probe, levels: _Levels, encoder: int) -> None:
    behind = seen.count(levels.weights)
    everything = seen.count(levels.weights | encoder)
    if 2 * behind < everything:
        raise PnaError(
            f"found no features that come out of the encoder of {name}: behind the maps at strides "
            f"{[m.stride for m in levels.maps]} ({', '.join(str(m.place) for m in levels.maps)}) "
            f"lie {behind:,} of its {everything:,} weights, the others are in blocks that stay at "
            f"one stride, work on sequences of tokens, make a second encoder, or are called more "
            f"than once; {NAME_THEM}"
        )


class _Finder:
    def __init__(
        self, network: nn.Module, seen: Probe, num_classes: int, logits: int | None, used: int
    ) -> None:
        self._modules = dict(network.named_modules())
        self._seen = seen
        self._num_classes = num_classes
        self._logits = logits
        self._used = used
        # Values are numbered as modules return them, so the highest bit is the last one used.
        self._last = used.bit_length() - 1 if logits is None else logits
        self._children: dict[int, list[Call]] = {}
        self._indices = {id(call): index for index, call in enumerate(seen.calls)}
        for index in seen.returned:
            call = seen.calls[index]
            if call.parent is not None:
                self._children.setdefault(call.parent, []).append(call)

    def candidates(self) -> Iterator[_Levels]:
        for index, call in enumerate(self._seen.calls):
            chain = self._chain(index)
            if chain is not None:
                yield chain
            # The network's own list is its output. A tap on a module takes its last call alone.
            if call.parent is not None and self._seen.num_calls[call.module] == 1:
                yield from self._pyramids(call)

    def encoder_weights(self, levels: _Levels, others: Iterable[Map]) -> int:
        """Return the parameters behind maps that go on from the coarsest level, and behind tokens.

        Maps count within the modules that hold the levels, outside of the head; tokens, and maps
        of modules that are called more than once, wherever nothing was upsampled yet; of other
        levels those of a second encoder, beside this one.
        """
        coarsest = levels.maps[-1]
        # For each level the outermost module that holds it but not the logits.
        end = self._seen.maps[self._last][-1].place.module.split(".")
        holders = []
        for m in levels.maps:
            parts = self._seen.maps[m.value][-1].place.module.split(".")  # the innermost
            shared = 0
            while shared < min(len(parts), len(end)) and parts[shared] == end[shared]:
                shared += 1
            holders.append(".".join(parts[: shared + 1]))
        weights = self._weights(m for m in others if not self._depends(m, [coarsest]))
        for maps, trace in zip(self._seen.maps, self._seen.traces, strict=True):
            m = maps[-1]
            if not self._is_used(m):
                continue
            is_beside = not trace.values >> coarsest.value & 1
            follows = not is_beside and m.stride >= coarsest.stride
            is_held = any(f"{m.place.module}.".startswith(f"{name}.") for name in holders)
            is_repeated = self._seen.num_calls[m.place.module] > 1 and self._has_weights(m)
            is_hidden = m.is_tokens or (is_beside and is_repeated)
            if (follows and is_held) or (is_hidden and not trace.is_upsampled):
                weights |= trace.weights
        return weights

    def find_repeated(self) -> Call | None:
        """Return the first call of a module that is called again, and makes levels inside."""
        return next(
            (
                call
                for index, call in enumerate(self._seen.calls)
                if self._seen.num_calls[call.module] > 1
                and len({m.stride for m, _ in self._nodes(index, repeated=True)}) > 1
            ),
            None,
        )

    def is_followed_by_tokens(self, levels: _Levels) -> bool:
        """Return whether blocks on tokens stand between two levels, at the stride of the finer.

        The level then is an embedding, and the output of its blocks is no map.
        """
        return any(
            maps[-1].is_tokens
            and maps[-1].stride == fine.stride
            and maps[-1].value != fine.value
            and self._depends(maps[-1], [fine])
            and self._depends(coarse, [maps[-1]])
            for fine, coarse in itertools.pairwise(levels.maps)
            for maps in self._seen.maps
        )

    def _nodes(self, index: int, *, repeated: bool = False) -> list[tuple[Map, Call]]:
        """Return the maps that the children of a call return, one for each value."""
        nodes: dict[int, tuple[Map, Call]] = {}
        for call in self._children.get(index, ()):
            if self._seen.num_calls[call.module] > 1 and not repeated:
                continue  # a tap would take the last call's
            for m in call.maps:
                known = nodes.get(m.value)
                if known is None or known[1] is call:  # of one output the last: hidden_states[3]
                    nodes[m.value] = m, call
        return [(m, call) for m, call in nodes.values() if self._is_level(m)]

    def _has_weights(self, m: Map) -> bool:
        return next(self._modules[m.place.module].parameters(), None) is not None

    def _is_used(self, m: Map) -> bool:
        return bool(self._used >> m.value & 1)

    def _is_level(self, m: Map) -> bool:
        return self._is_used(m) and self._may_be_level(m)

    def _may_be_level(self, m: Map) -> bool:
        """Return whether a map is neither logits, nor a gate, nor an image."""
        is_gate = bool(self._seen.traces[m.value].activation)
        is_score = m.value == self._logits or self._is_score(m)
        return m.channels >= _FEWEST_CHANNELS and not is_gate and not is_score

    def _is_score(self, m: Map) -> bool:
        """Return whether a map holds logits, to be added or upsampled by layers (FCN-8s).

        They may be those of several pixels in one, with no weight between them and P0.
        """
        trace = self._seen.traces[m.value]
        if trace.is_linear and trace.weights == self._seen.traces[self._last].weights:
            return True
        if m.channels != self._num_classes or not trace.is_linear:
            return False
        # K channels alone may be chance: all that is computed from scores has K channels too.
        return all(
            maps[0].channels == self._num_classes
            for maps, trace in zip(self._seen.maps, self._seen.traces, strict=True)
            if trace.values >> m.value & 1 and self._is_used(maps[0])
        )

    def _context(self, index: int) -> list[Map]:
        """Return the maps of a call's children, of its siblings, of its parent's siblings, ..."""
        found: list[Map] = []
        at: int | None = index
        while at is not None:
            found += [m for call in self._children.get(at, ()) for m in call.maps]
            at = self._seen.calls[at].parent
        return found

    def _depends(self, m: Map, others: Iterable[Map]) -> bool:
        """Return whether a map is one of the others, or was computed from one."""
        return any(self._seen.traces[m.value].values >> o.value & 1 for o in others)

    def _is_pure(self, m: Map, context: Iterable[Map]) -> bool:
        return not self._depends(m, (o for o in context if o.stride > m.stride))

    def _weights(self, maps: Iterable[Map]) -> int:
        weights = 0
        for m in maps:
            weights |= self._seen.traces[m.value].weights
        return weights

    def _count(self, m: Map) -> int:
        return self._seen.count(self._seen.traces[m.value].weights)

    def _chain(self, index: int) -> _Levels | None:
        """Return the levels that the children of a call compute, one from the other."""
        context = self._context(index)
        nodes = [(m, call) for m, call in self._nodes(index) if self._is_pure(m, context)]
        maps = [m for m, _ in nodes if not m.is_tokens]
        calls = {m.value: call for m, call in nodes}
        risen = [m for m in maps if self._is_risen(m, maps, calls[m.value])]
        maps = [m for m in maps if not self._depends(m, risen)]
        maps = [m for m in maps if not self._is_neck(m, maps, calls)]
        # A module that goes further down inside, and up again, is no encoder's: it holds one. But
        # where the first goes down and up, too, as in U2-Net, all its blocks are built like that.
        while maps:
            coarsest = max(m.stride for m in maps)
            turned = [m for m in maps if self._turns(m, calls[m.value], coarsest)]
            if not turned or self._turns(maps[0], calls[maps[0].value], maps[0].stride):
                break
            maps = [m for m in maps if not self._depends(m, turned)]
        else:
            return None
        last = [m for m in maps if m.stride == coarsest]
        widest = max(m.channels for m in last)
        # The widest of the coarsest maps; of several the last with most weights behind it.
        sink = max((m for m in reversed(last) if m.channels == widest), key=self._count)
        chosen = [sink]
        # Coarse to fine: at each stride a wide map that the next level is computed from.
        for stride in sorted({m.stride for m in maps if m.stride < coarsest}, reverse=True):
            ancestors = self._seen.traces[chosen[0].value].values
            at = [m for m in maps if m.stride == stride and ancestors >> m.value & 1]
            if at:
                widest = max(m.channels for m in at)
                wide = [m for m in at if 2 * m.channels >= widest]
                chosen.insert(0, max(reversed(wide), key=self._count))
        levels: list[Map] = []
        before = 1
        for m in chosen:
            if levels and before >= _FINEST_STRIDE and m.channels < levels[-1].channels:
                break  # made for a head: an inner map was wider
            more = self._between(m, before, maps, calls)
            if levels and more[0].stride == levels[-1].stride:
                levels.pop()  # the module of the next level begins with blocks of this one
            levels += more
            before = m.stride
        # Only now: a stem at stride 2 is a link of the chain, though no level.
        levels = [m for m in levels if m.stride >= _FINEST_STRIDE]
        if len(levels) < 2:
            return None
        impure = [m for m in context if not self._is_pure(m, context)]
        is_pure = not self._depends(sink, impure)
        module = self._seen.calls[index].module
        depth = module.count(".") + 1 if module else 0
        return _Levels(levels, self._weights(levels), maps, is_pure, False, depth)

    def _is_risen(self, m: Map, maps: Sequence[Map], call: Call) -> bool:
        """Return whether a decoder made a map of one that was pooled, which no module returned."""
        before = [o for o in maps if o.value != m.value and self._depends(m, [o])]
        is_first = not any(self._seen.traces[o.value].is_upsampled for o in before)
        is_again = any(o.stride == m.stride for o in before)
        is_raised = call.is_upsampled or call.stride > m.stride
        return is_raised and is_first and is_again

    def _turns(self, m: Map, call: Call, coarsest: int) -> bool:
        """Return whether a map was upsampled inside its module from one coarser than a stride."""
        if not self._seen.traces[m.value].is_upsampled:
            return False
        prefix = f"{call.module}." if call.module else ""
        return any(
            maps[-1].stride > coarsest
            and not maps[-1].is_tokens
            and self._seen.traces[m.value].values >> maps[-1].value & 1
            and maps[-1].place.module.startswith(prefix)
            for maps in self._seen.maps
        )

    def _is_neck(self, m: Map, maps: Sequence[Map], calls: dict[int, Call]) -> bool:
        """Return whether a map is a neck's: an FPN, ASPP or PPM on the encoder's last map."""
        ancestors = self._seen.traces[m.value].values
        before = [o for o in maps if o.value != m.value and ancestors >> o.value & 1]
        if any(_FINEST_STRIDE <= o.stride <= m.stride and o.channels > m.channels for o in before):
            return True  # narrower than a map that it is computed from
        for o in before:
            # It follows a module that returns several levels, and adds little to them.
            levels = [n for n in before if calls[n.value] is calls[o.value]]
            is_coarsest = o.stride == max(n.stride for n in levels)
            if is_coarsest and len({n.stride for n in levels}) > 1:
                adds_little = 2 * self._count(m) <= 3 * self._count(o)
                if calls[m.value] is not calls[o.value] and (m.stride == o.stride or adds_little):
                    return True
        return False

    def _between(
        self, m: Map, before: int, maps: Iterable[Map], calls: dict[int, Call]
    ) -> list[Map]:
        """Return a level, after those that its module skipped or computed by dilation."""
        ancestors = self._seen.traces[m.value].values
        at = [n for n in maps if n.stride == m.stride and ancestors >> n.value & 1]
        first = at[0]
        inner: list[Map] = []
        call = calls[first.value]
        # A jump by more than 2, other than the stem's, means that levels lie inside the module.
        skips = first.stride > max(2 * before, _FINEST_STRIDE)
        if skips or self._dilation(call.module) > 1:
            chain = self._chain(self._indices[id(call)])
            if chain is not None:
                inner = [n for n in chain.maps if before <= n.stride <= m.stride]
        same = [n for n in inner if n.stride == m.stride]
        if not same or any(calls[n.value] is not call for n in at):
            return [*(n for n in inner if n.stride < m.stride), *self._dilated(at, calls), m]
        if len(inner) == 1:
            return [m]
        if same[-1].channels > m.channels or same[-1].value == m.value:
            return inner  # perhaps its module narrows its last map for a head
        return [*inner[:-1], m]

    def _dilated(self, at: Sequence[Map], calls: dict[int, Call]) -> list[Map]:
        """Return the levels before the last at one stride, where dilation replaces strides.

        Such a stage widens the map, as a strided one does: torchvision's FCN has levels at 4, 8, 8
        and 8. A dilated block of the same width is a part of its level.
        """
        levels: list[Map] = []
        nominal = at[0].stride
        dilation, widest = 1, at[0].channels
        for before, m in itertools.pairwise(at):
            grown = self._dilation(calls[m.value].module)
            if grown > dilation and m.channels > widest and 2 * nominal <= _COARSEST_NOMINAL:
                levels.append(before)
                nominal *= 2
                dilation = grown
            widest = max(widest, m.channels)
        return levels

    def _dilation(self, module: str) -> int:
        convs = (m for m in self._modules[module].modules() if isinstance(m, nn.Conv2d))
        return max((int(c.dilation[0]) for c in convs if max(c.kernel_size) > 1), default=1)

    def _pyramids(self, call: Call) -> Iterator[_Levels]:
        """Yield the maps that a module returns in one list; of equal shapes the last."""
        lists: dict[tuple[Key, ...], dict[tuple[int, int], Map]] = {}
        for m in call.maps:
            if m.stride >= _FINEST_STRIDE and not m.is_tokens and self._may_be_level(m):
                returned = lists.setdefault(m.place.keys[:-1], {})
                returned.pop((m.stride, m.channels), None)  # the later one stands in its own place
                returned[m.stride, m.channels] = m
        for returned in lists.values():
            maps = list(returned.values())
            finest = [m for m in maps if m.stride == maps[0].stride]
            maps = maps[len(finest) - 1 :]  # without the stem of the first level
            strides = [m.stride for m in maps]
            if len(maps) < 2 or strides != sorted(strides) or not self._is_used(maps[-1]):
                continue  # a head may need the last alone
            assert call.parent is not None
            context = self._context(call.parent)
            behind = [self._weights([m]) for m in maps]
            # Of an encoder the coarse maps have more behind them, of an FPN the fine ones.
            if any(
                self._seen.count(b & ~a) <= self._seen.count(a & ~b)
                for a, b in itertools.pairwise(behind)
            ):
                continue
            is_pure = all(self._is_pure(m, context) for m in maps)
            depth = call.module.count(".")
            yield _Levels(maps, self._weights(maps), maps, is_pure, True, depth)
