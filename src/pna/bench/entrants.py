"""Who takes part in the operator's race: our backends, PyTorch's own attention, a yardstick."""

import importlib.util
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from pna.ops import BACKENDS, Backend, neighborhood_attention, why_not
from pna.ops.windows import window_size, window_start

Operator = Callable[[Tensor, Tensor, Tensor, Tensor, int, float], Tensor]
"""Query, key, value, bias, window, scale -> what was gathered; as in `pna.ops`."""

EAGER_SCORES = 2**24
"""Scores that uncompiled flex_attention, which stores all pairs of cells, may hold: 64 MiB."""


class Entrant(NamedTuple):
    """Somebody who computes neighborhood attention.

    Attributes:
        name: As shown.
        operator: What it runs; None if it can't take part.
        why_not: Then, why.
        is_ours: A backend of `pna.ops`: if it fails, that's a defect and not a result.
    """

    name: str
    operator: Operator | None
    why_not: str | None = None
    is_ours: bool = False


def backends(query: Tensor, window: int) -> list[Entrant]:
    """Every backend of `pna.ops`, for queries (B, heads, H, W, d)."""
    entrants = []
    for name in BACKENDS:
        reason = why_not(name, query, window=window)
        operator = None if reason else _backend(cast(Backend, name))
        entrants.append(Entrant(name, operator, reason, is_ours=True))
    return entrants


def _backend(name: Backend) -> Operator:
    def run(
        query: Tensor, key: Tensor, value: Tensor, bias: Tensor, window: int, scale: float
    ) -> Tensor:
        return neighborhood_attention(
            query, key, value, bias, window=window, scale=scale, backend=name
        )

    return run


def flex(query: Tensor, window: int, *, compiled: bool) -> list[Entrant]:
    """PyTorch's flex_attention with the neighborhood as its mask, compiled and not.

    The cells are in row-major order, as they come.

    Args:
        query: (B, heads, H, W, d) as it will be passed.
        window: Cells per side.
        compiled: Whether to compile at all.
    """
    entrants = [
        Entrant("flex compiled", _flex(query, window, is_compiled=True))
        if compiled
        else Entrant("flex compiled", None, "compiling was turned off")
    ]
    B, heads, H, W, _ = query.shape
    scores = B * heads * (H * W) ** 2
    if scores <= EAGER_SCORES:
        entrants.append(Entrant("flex eager", _flex(query, window, is_compiled=False)))
    else:
        reason = f"uncompiled it stores all {scores:.1e} scores; allowed are {EAGER_SCORES:.1e}"
        entrants.append(Entrant("flex eager", None, reason))
    return entrants


def _flex(query: Tensor, window: int, *, is_compiled: bool) -> Operator:
    H, W = query.shape[2:4]
    mask = create_block_mask(
        _inside(H, W, window, query.device), None, None, H * W, H * W, device=query.device
    )
    attend = _compiled_flex() if is_compiled else _eager_flex

    def run(
        query: Tensor, key: Tensor, value: Tensor, bias: Tensor, window: int, scale: float
    ) -> Tensor:
        def add_bias(score: Tensor, b: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
            # Scores outside of the window are computed too, then masked: clamp to the table.
            row = (k // W - q // W + window - 1).clamp(0, 2 * window - 2)
            col = (k % W - q % W + window - 1).clamp(0, 2 * window - 2)
            return score + bias[head, row, col]

        flat = (x.flatten(2, 3) for x in (query, key, value))
        out = attend(*flat, score_mod=add_bias, block_mask=mask, scale=scale)
        return cast(Tensor, out).view(value.shape)

    return run


def _compiled_flex() -> Callable[..., Any]:
    torch.compiler.reset()  # or the shapes before this one count against the recompile limit
    return torch.compile(flex_attention, dynamic=False)


def _eager_flex(*args: Any, **kwargs: Any) -> Any:
    with warnings.catch_warnings():  # it says that it isn't compiled, which we know
        warnings.filterwarnings("ignore", "flex_attention called without torch.compile")
        return flex_attention(*args, **kwargs)


def _inside(
    H: int, W: int, window: int, device: torch.device
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    rows = window_start(torch.arange(H, device=device), H, window)
    cols = window_start(torch.arange(W, device=device), W, window)
    height, width = window_size(H, window), window_size(W, window)

    def inside(b: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        row, col = k // W - rows[q // W], k % W - cols[q % W]
        return (row >= 0) & (row < height) & (col >= 0) & (col < width)

    return inside


def load_yardstick(path: Path) -> Entrant:
    """Read somebody else's operator from a Python file.

    Args:
        path: A file with `neighborhood_attention(query, key, value, bias, window, scale)`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It isn't Python, fails when it's loaded, or has no such function.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected the Python file of a yardstick, found no file")
    spec = importlib.util.spec_from_file_location("pna_bench_yardstick", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: expected a Python file, that is one ending in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # it may fail in any way: the file isn't ours
        raise ValueError(f"{path}: fails when it's loaded ({error!r}); run it by itself") from error
    operator = getattr(module, "neighborhood_attention", None)
    if not callable(operator):
        raise ValueError(
            f"{path}: expected a function neighborhood_attention(query, key, value, bias, window, "
            "scale), found none"
        )
    return Entrant("yardstick", cast(Operator, operator))
