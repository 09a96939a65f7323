"""Outlines: traced, simplified, filled."""

import numpy as np
import pytest

from pna.lab.masks.outlines import blob, drop_vertices, fill, jitter, simplify, trace


def area(loop):
    y, x = loop.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2


@pytest.mark.parametrize("seed", range(40))
def test_filling_what_was_traced_gives_the_mask(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 24, 2)) < rng.random()
    loops = trace(mask)
    assert (fill(loops, mask.shape) == mask).all()
    assert (fill(simplify(loops, 1e-6), mask.shape) == mask).all()
    assert sum(area(loop) for loop in loops) == mask.sum()


def test_holes_run_the_other_way_however_they_are_nested():
    mask = np.zeros((15, 15), bool)
    for size, value in ((1, True), (3, False), (5, True), (7, False)):
        mask[size:-size, size:-size] = value
    areas = [area(loop) for loop in trace(mask)]
    assert sorted(areas) == [-81, -1, 25, 169]


def test_corners_connect():
    loops = trace(np.eye(4, dtype=bool))
    assert [len(loop) for loop in loops] == [16]
    # The triangles beside a diagonal of the background touch too, and leave two holes.
    assert sorted(area(loop) for loop in trace(~np.eye(4, dtype=bool))) == [-1, -1, 14]


def test_nothing_to_trace():
    assert trace(np.zeros((3, 4), bool)) == []
    assert not fill([], (3, 4)).any()
    assert simplify([], 1.0) == []


def test_each_dropped_vertex_was_near_the_line_that_is_left():
    y, x = np.indices((120, 160))
    mask = np.hypot(y - 60, (x - 80) / 1.5) < 40 + 6 * np.sin(x / 7)
    (loop,) = trace(mask)
    (simple,) = simplify([loop], 4.0)
    assert 4 < len(simple) < len(loop) / 5
    ends = np.roll(simple, -1, axis=0)
    along = ends - simple
    share = ((loop[:, None] - simple) * along).sum(2) / (along**2).sum(1)
    nearest = simple + share.clip(0, 1)[..., None] * along
    distance = np.linalg.norm(loop[:, None] - nearest, axis=2).min(axis=1)
    assert 2 < distance.max() <= 4 + 1e-9


def test_an_outline_within_the_tolerance_is_dropped():
    mask = np.zeros((30, 30), bool)
    mask[3] = True  # one pixel high
    mask[10:20, 10:20] = True
    (square,) = simplify(trace(mask), 1.5)
    assert area(square) == 100


def test_outlines_beyond_the_image_are_cut():
    square = np.array([(-5.0, -5.0), (-5.0, 2.0), (9.0, 2.0), (9.0, -5.0)])
    assert fill([square], (3, 4)).astype(int).tolist() == [[1, 1, 0, 0]] * 3
    assert not fill([square + 100], (3, 4)).any()


def test_vertices_are_dropped_in_order():
    (loop,) = trace(np.ones((20, 30), bool))
    (dropped,) = drop_vertices([loop], 0.3, np.random.default_rng(0))
    assert len(dropped) == 30
    places = [int((loop == vertex).all(1).argmax()) for vertex in dropped]
    assert places == sorted(set(places))
    few = trace(np.ones((1, 1), bool))
    assert len(drop_vertices(few, 0.0, np.random.default_rng(0))[0]) == 4


def test_jitter_has_its_size():
    loop = np.zeros((5000, 2))
    assert jitter([loop], 3.0, np.random.default_rng(0))[0].std() == pytest.approx(3, rel=0.05)


def test_blobs_are_about_a_disk():
    rng = np.random.default_rng(0)
    areas = [fill([20 * blob(rng) + 60], (120, 120)).sum() for _ in range(50)]
    assert np.median(areas) == pytest.approx(np.pi * 20**2, rel=0.15)
