"""Connected pieces, their neighbors, and the filling of unknown pixels."""

import numpy as np
import pytest

from pna.lab.masks.segments import connected, cut_into_segments, fill_unknown, resize_nearest


def flood(keys):
    """Number the pieces one by one, from their first pixels."""
    numbers = np.full(keys.shape, -1)
    count = 0
    for first in np.ndindex(*keys.shape):
        if numbers[first] >= 0:
            continue
        stack = [first]
        while stack:
            y, x = stack.pop()
            inside = 0 <= y < keys.shape[0] and 0 <= x < keys.shape[1]
            if inside and numbers[y, x] < 0 and keys[y, x] == keys[first]:
                numbers[y, x] = count
                stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        count += 1
    return numbers


@pytest.mark.parametrize("seed", range(30))
def test_pieces_are_those_of_a_flood_fill(seed):
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, rng.integers(1, 5), rng.integers(1, 30, 2))
    assert (connected(keys) == flood(keys)).all()


def test_a_spiral_is_one_piece():
    spiral = np.zeros((41, 41), int)
    y, x, turn, length = 20, 20, 0, 0
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    while length < 40:
        length += 2 if turn % 2 == 0 else 0
        for _ in range(length):
            spiral[y, x] = 1
            y, x = np.clip((y + steps[turn % 4][0], x + steps[turn % 4][1]), 0, 40)
        turn += 1
    assert len(np.unique(connected(spiral)[spiral == 1])) == 1


def test_segments_know_class_area_and_neighbors():
    labels = np.array([[1, 1, 2, 2], [1, 1, 2, 3]], np.uint8)
    segments = cut_into_segments(labels, 1, np.random.default_rng(0))
    assert segments.labels.tolist() == [1, 2, 3]
    assert segments.areas.tolist() == [4, 3, 1]
    drawn = {tuple(segments.neighbors(np.random.default_rng(seed)).tolist()) for seed in range(20)}
    assert drawn == {(2, 1, 2), (2, 3, 2)}


def test_one_class_has_no_neighbors():
    labels = np.ones((20, 30), np.uint8)
    segments = cut_into_segments(labels, 6, np.random.default_rng(0))
    assert 3 <= len(segments.labels) <= 20
    assert segments.areas.sum() == labels.size
    assert (segments.neighbors(np.random.default_rng(0)) == -1).all()


@pytest.mark.parametrize("share", [0.2, 0.9, 0.995])
def test_unknown_pixels_take_a_class_nearby(share):
    rng = np.random.default_rng(0)
    x = np.indices((61, 83))[1]
    labels = np.where(x < 40, 4, 9).astype(np.uint8)
    is_unknown = rng.random(labels.shape) < share
    filled = fill_unknown(np.where(is_unknown, 0, labels), is_unknown)
    assert (filled[~is_unknown] == labels[~is_unknown]).all()
    assert set(np.unique(filled)) == {4, 9}
    spacing = 1 / np.sqrt(1 - share)
    far = np.abs(x - 39.5) > 2 * spacing + 2
    assert (filled == labels)[far].all()


def test_without_a_known_pixel_nothing_changes():
    labels = np.full((5, 6), 255, np.uint8)
    filled = fill_unknown(labels, labels == 255)
    assert (filled == 255).all()
    assert filled is not labels


def test_nearest_pixels():
    values = np.arange(6).reshape(2, 3)
    assert resize_nearest(values, (4, 6)).tolist()[1] == [0, 0, 1, 1, 2, 2]
    assert resize_nearest(values, (1, 1)).tolist() == [[4]]
