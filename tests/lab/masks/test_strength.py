"""The search for a strength, and the small copy on which it is made."""

import numpy as np
import pytest

from pna.lab.masks.strength import STRONGEST, WEAKEST, find_strength, small_copy


@pytest.mark.parametrize("wanted", [0.02, 0.3, 5.0])
def test_the_strength_is_found(wanted):
    strength, error = find_strength(lambda strength: strength**2, wanted**2)
    assert strength == pytest.approx(wanted, rel=0.1)
    assert error == strength**2


def test_a_target_out_of_reach_gives_the_nearest():
    strength, error = find_strength(lambda strength: 0.01 * strength, 1.0)
    assert strength == pytest.approx(STRONGEST, rel=0.1)
    assert error == pytest.approx(0.08, rel=0.1)
    assert find_strength(lambda strength: 1 + strength, 0.1) == (WEAKEST, 1 + WEAKEST)


def test_a_jump_is_not_crossed():
    # From no error to the loss of everything: nothing is nearer to 0.4 than everything.
    assert find_strength(lambda strength: float(strength > 0.2), 0.4)[0] < 0.2


def test_a_small_mask_is_not_copied():
    mask = np.eye(160, dtype=bool)
    assert small_copy(mask) is mask


@pytest.mark.parametrize("width", [1, 2, 50])
def test_the_small_copy_keeps_the_share_of_the_foreground(width):
    mask = np.zeros((400, 640), bool)
    mask[100 : 100 + width] = True
    small = small_copy(mask)
    assert small.shape == (100, 160)
    assert small.mean() == pytest.approx(max(mask.mean(), 1 / 100), rel=0.3)
