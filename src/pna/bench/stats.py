"""What rounds say: medians and quartiles, ratios taken round by round, and how a cost grows."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """First quartile, median, third quartile."""

    low: float
    median: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Quartiles of one value or more, interpolated between them."""
    return Spread(*(float(x) for x in np.quantile(values, (0.25, 0.5, 0.75))))


def ratios(times: Sequence[float], base: Sequence[float]) -> list[float]:
    """Each round's time over the base's in the same round.

    The quartiles of these say how sure a ratio is: a machine that slows down for a round slows
    both, which leaves their ratio alone.
    """
    return [time / other for time, other in zip(times, base, strict=True)]


def add_rounds(parts: Sequence[Sequence[float]]) -> list[float]:
    """The times of several parts, added round by round."""
    return [sum(times) for times in zip(*parts, strict=True)]


def exponent(amounts: Sequence[float], costs: Sequence[float]) -> float:
    """The b of `cost = a * amount ** b`, least squares on logarithms; 1 is linear.

    Args:
        amounts: Two different ones or more, above 0.
        costs: One for each, above 0.

    Raises:
        ValueError: There are no two different amounts.
    """
    if len(set(amounts)) < 2:
        raise ValueError(f"expected two different amounts or more to fit a growth, got {amounts}")
    slope, _ = np.polyfit(np.log(amounts), np.log(costs), 1)
    return float(slope)
