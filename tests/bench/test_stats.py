"""Quartiles, ratios round by round, and fits of growth."""

import pytest

from pna.bench.stats import add_rounds, exponent, ratios, spread


def test_quartiles_lie_among_the_values():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (2.0, 3.0, 4.0)
    assert spread([7.0]) == (7.0, 7.0, 7.0)


def test_a_ratio_does_not_see_the_drift_of_the_machine():
    base = [10.0, 50.0, 12.0]  # the machine was busy in the second round
    twice = [20.0, 100.0, 24.0]
    assert spread(ratios(twice, base)) == (2.0, 2.0, 2.0)


def test_ratios_are_of_the_same_round():
    assert ratios([2.0, 3.0], [1.0, 2.0]) == [2.0, 1.5]
    with pytest.raises(ValueError, match="zip"):
        ratios([1.0, 2.0], [1.0])


def test_sums_are_of_the_same_round():
    assert add_rounds([[1.0, 2.0], [10.0, 20.0], [100.0, 200.0]]) == [111.0, 222.0]


@pytest.mark.parametrize("power", [0.5, 1.0, 1.05, 2.0])
def test_exponent_of_exact_growth(power):
    pixels = [256**2, 512**2, 1024**2, 4096**2]
    assert exponent(pixels, [3e-4 * x**power for x in pixels]) == pytest.approx(power)


def test_exponent_of_a_constant_part_is_smaller():
    pixels = [256**2, 512**2, 1024**2]
    assert exponent(pixels, [1e5 + x for x in pixels]) < 0.95


@pytest.mark.parametrize("amounts", [[], [4], [4, 4]])
def test_nothing_to_fit(amounts):
    with pytest.raises(ValueError, match="two different amounts or more"):
        exponent(amounts, [1.0] * len(amounts))
