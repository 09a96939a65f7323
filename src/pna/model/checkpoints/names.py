"""Names of a checkpoint: taken out of their container, without prefix, matched one to one."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pna.errors import PnaError
from pna.model.config import ModelOptions

# Where training loops put the tensors: mmsegmentation and Lightning; detectron2.
_CONTAINERS = ("state_dict", "model")
# What is no weight: tables that the network makes itself, settings, counters of old batch norms.
_PASSED_OVER = re.compile(
    r"(relative_position_index|attn_mask|num_batches_tracked)$|^(pixel|data_preprocessor\.)"
)
_PREFIX = r"^(?P<prefix>(?:[^.]+\.)*?){part}\."

Convert = Callable[[str, Tensor], Tensor]


def _as_is(key: str, tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Part:
    """A part of a network that was recognized in a checkpoint.

    Attributes:
        name: The encoder's timm name, or the preset of a coarse head.
        rename: From a key of the part's state dict here to the name in the checkpoint.
        options: What the tensors say about the options of a model.
        convert: From that key and the checkpoint's tensor to the tensor here.
    """

    name: str
    rename: Callable[[str], str]
    options: ModelOptions = field(default_factory=ModelOptions)
    convert: Convert = _as_is


@dataclass(frozen=True)
class Content:
    """The content of a checkpoint.

    Attributes:
        state: Tensors by name, as stored.
        classes: Names of the classes, where the checkpoint has them (mmsegmentation's `meta`).
        palette: Their colors, likewise.
    """

    state: dict[str, Tensor]
    classes: tuple[str, ...] = ()
    palette: tuple[Sequence[int], ...] = ()


def unpack(content: Any) -> Content:
    """Take the tensors out of what a training loop saved.

    Args:
        content: A state dict, or a container of one: under `state_dict` beside `meta`
            (mmsegmentation, Lightning), or under `model` beside the optimizer (detectron2).

    Raises:
        PnaError: There are no tensors by name.
    """
    if isinstance(content, nn.Module):
        raise PnaError(f"expected tensors by name, got a network: pass {_CONTAINERS[0]}() of it")
    if not isinstance(content, Mapping):
        raise PnaError(f"expected tensors by name, got a {type(content).__name__}")
    state: Any = content
    for name in _CONTAINERS:
        if isinstance(content.get(name), Mapping):
            state = content[name]
            break
    # detectron2 also keeps arrays of numpy.
    tensors = {
        str(name): torch.as_tensor(x) for name, x in state.items() if hasattr(x, "__array__")
    }
    if not tensors:
        names = ", ".join(list(map(str, state))[:3]) or "none at all"
        raise PnaError(f"expected tensors by name, got {len(state)} entries such as {names}")
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    # Version 1 of mmsegmentation keeps both in lower case one level below.
    inner = meta.get("dataset_meta")
    meta = inner if isinstance(inner, Mapping) else meta
    classes = meta.get("CLASSES") or meta.get("classes") or ()
    palette = meta.get("PALETTE") or meta.get("palette") or ()
    return Content(tensors, tuple(map(str, classes)), tuple(palette))


def without_prefix(state: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return the tensors of the network that has a part, without what its names begin with.

    Args:
        state: Names such as `module.backbone.conv1.weight`.
        part: A part of the network, such as `backbone`.

    Returns:
        Names that begin at the network; those outside of it, such as a metric's, are left out.

    Raises:
        PnaError: No name has the part, or there are several networks.

    Example:
        >>> import torch
        >>> list(without_prefix({"model.net.w": torch.ones(1), "metric": torch.ones(1)}, "net"))
        ['net.w']
    """
    pattern = re.compile(_PREFIX.format(part=part))
    prefixes = {match["prefix"] for name in state if (match := pattern.match(name))}
    if not prefixes:
        raise PnaError(
            f"expected parameters under {part}, got {len(state)} names like "
            f"{', '.join(telling(state)) or 'none at all'}"
        )
    if len(prefixes) > 1:
        raise PnaError(
            "the checkpoint holds several networks, whose names begin with "
            f"{', '.join(map(repr, sorted(prefixes)))}: pass the tensors of one"
        )
    prefix = prefixes.pop()
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}


def substitute(table: Mapping[str, str], path: str) -> str:
    """Replace the beginning of a path by the first pattern of a table that matches."""
    for pattern, replacement in table.items():
        renamed, count = re.subn(f"^{pattern}", replacement, path)
        if count:
            return renamed
    return path


def transfer(
    model: nn.Module,
    state: Mapping[str, Tensor],
    rename: Callable[[str], str],
    convert: Convert = _as_is,
) -> None:
    """Fill a model from a checkpoint; every tensor of both has to find its partner.

    Args:
        model: Its parameters and buffers are replaced.
        state: Tensors under the checkpoint's names.
        rename: From a key of the model to the checkpoint's name.
        convert: From that key and the checkpoint's tensor to the model's.

    Raises:
        PnaError: Names are missing or unknown, or shapes differ.
    """
    own = model.state_dict()
    theirs = {key: rename(key) for key in own}
    missing = [x for x in theirs.values() if x not in state and not _PASSED_OVER.search(x)]
    known = set(theirs.values())
    unknown = [name for name in state if name not in known and not _PASSED_OVER.search(name)]
    differing, loaded = [], {}
    for key, name in theirs.items():
        if name not in state:
            continue
        # A 1x1 convolution (D, C, 1, 1) may be a linear layer (D, C) here.
        if _without_ones(state[name]) == _without_ones(own[key]):
            loaded[key] = convert(key, state[name].reshape(own[key].shape))
        else:
            expected, got = tuple(own[key].shape), tuple(state[name].shape)
            differing.append(f"{name}: expected {expected}, got {got}")
    problems = {"are missing": missing, "are unknown": unknown, "differ in shape": differing}
    if any(problems.values()):
        told = [
            f"{len(names)} {problem} ({'; '.join(telling(names))}{', ...' * (len(names) > 3)})"
            for problem, names in problems.items()
            if names
        ]
        raise PnaError(
            f"the checkpoint is not the whole network that it looks like: of {len(own)} weights "
            f"and buffers {', '.join(told)}"
        )
    model.load_state_dict(loaded, strict=False)  # what is left out are counters of batch norms


def transfer_parts(
    model: nn.Module, state: Mapping[str, Tensor], parts: Mapping[str, Part]
) -> None:
    """Fill a model whose parts were recognized; see `transfer`.

    Args:
        model: Its first modules have the names of the parts.
        state: Tensors under the checkpoint's names.
        parts: By the name that they have in the model, such as `encoder`.
    """

    def rename(key: str) -> str:
        part, _, rest = key.partition(".")
        return parts[part].rename(rest)

    def convert(key: str, tensor: Tensor) -> Tensor:
        part, _, rest = key.partition(".")
        return parts[part].convert(rest, tensor)

    transfer(model, state, rename, convert)


def telling(names: Iterable[str]) -> list[str]:
    """Return three names, of different parts where there are several.

    Example:
        >>> telling(["a.b.1", "a.b.2", "a.b.3", "a.c.1", "d.e.1"])
        ['a.b.1', 'a.c.1', 'd.e.1']
    """
    seen: Counter[str] = Counter()
    ranked = []
    for name in names:
        part = ".".join(name.split(".")[:2])
        ranked.append((seen[part], name))
        seen[part] += 1
    return [name for _, name in sorted(ranked, key=lambda pair: pair[0])[:3]]


def count_of(state: Mapping[str, Tensor], pattern: str) -> int:
    """Count the numbers that a pattern's one group takes in the names of a state dict."""
    found = re.compile(f"^{pattern}")
    return len({match[1] for name in state if (match := found.match(name))})


def shape_of(state: Mapping[str, Tensor], name: str) -> torch.Size:
    """Return the shape of a tensor.

    Raises:
        PnaError: There is none of that name.
    """
    if name not in state:
        raise PnaError(f"the checkpoint is not a whole network: it lacks {name}")
    return state[name].shape


def _without_ones(x: Tensor) -> list[int]:
    shape = list(x.shape)
    while shape and shape[-1] == 1:
        shape.pop()
    return shape
