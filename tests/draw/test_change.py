"""The figure of a mask before and after refinement."""

import itertools

import numpy as np
import pytest
from PIL import Image

from pna.draw import change, change_figure, mask_figure
from pna.errors import PnaError

SIDE = 240
TOP = 18 + 14  # the row of the titles
GAP = 12


def scene(height=24, width=32, moved=4):
    """A gray image, and a square that moves to the right."""
    image = np.full((height, width, 3), 100, np.uint8)
    before = np.zeros((height, width), bool)
    before[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = True
    return image, before, np.roll(before, moved, axis=1)


def panels(figure, height, width):
    """The panels of the first row, each (height, width, 3)."""
    drawn = np.asarray(figure)
    lefts = [GAP + number * (SIDE + GAP) + (SIDE - width) // 2 for number in range(3)]
    return [drawn[TOP : TOP + height, left : left + width] for left in lefts]


def pixels(figure):
    """The middle of each pixel of the small scene, which is drawn 7 times enlarged."""
    return [panel[3::7, 3::7] for panel in panels(figure, 7 * 24, 7 * 32)]


def has_color(image, color):
    return bool((np.asarray(image) == color).all(axis=-1).any())


class TestPanels:
    def test_outlines_stand_where_the_mask_ends(self):
        image, before, after = scene()
        first, second, _ = panels(change_figure(image, before, after, side=SIDE), 7 * 24, 7 * 32)
        for panel, mask in ((first, before), (second, after)):
            row = mask[12].repeat(7)
            expected = np.where(row, np.rint(100 + 0.4 * (86 - 100)), 100)
            # White on both sides of the edge, black beside it.
            for edge in np.flatnonzero(row[1:] != row[:-1]) + 1:
                expected[edge - 2 : edge + 2] *= 0.3
                expected[edge - 1 : edge + 1] = 255
            assert abs(panel[12 * 7, :, 0] - expected).max() <= 1

    def test_added_and_removed_pixels_have_their_colors(self):
        image, before, after = scene()
        *_, changed = pixels(change_figure(image, before, after, side=SIDE))
        assert ((changed == (86, 180, 233)).all(axis=2) == (after & ~before)).all()
        assert ((changed == (230, 159, 0)).all(axis=2) == (before & ~after)).all()
        assert (changed[before == after] == 65).all()  # 20 + 0.45 * 100

    @pytest.mark.parametrize("dtype", [np.uint8, np.int64])
    def test_0_and_255_are_a_binary_mask(self, dtype):
        image, before, after = scene()
        expected = change_figure(image, before, after, side=SIDE)
        drawn = change_figure(
            image, before.astype(dtype) * 255, after.astype(dtype) * 255, side=SIDE
        )
        assert drawn.tobytes() == expected.tobytes()

    def test_a_soft_change_is_drawn_by_its_size(self):
        image, before, _ = scene()
        shares = before.astype(np.float32)
        *_, changed = pixels(change_figure(image, shares, 0.8 * shares, side=SIDE))
        assert np.unique(changed[before], axis=0).tolist() == [[139, 107, 36]]  # 45 %
        assert (changed[~before] == 65).all()

    def test_a_soft_change_that_is_too_small_to_matter(self):
        image, before, _ = scene()
        figure = change_figure(image, before * 0.5, before * 0.53, side=SIDE)
        assert (pixels(figure)[2] == 65).all()

    def test_classes(self):
        image, before, after = scene()
        labels, moved = np.where(before, 3, 7), np.where(after, 3, 7)
        labels[:2] = moved[:2] = 255
        figure = change_figure(image, labels, moved, names={3: "roof"}, side=SIDE)
        first, _, changed = pixels(figure)
        assert (first[12, 5] == 100).all()  # the largest class is not filled
        assert first[12, 15].tolist() == [94, 132, 153]
        assert ((changed == (230, 159, 0)).all(axis=2) == (before ^ after)).all()
        legend = np.asarray(figure)[-36:]
        for color in ((255, 255, 255), (86, 180, 233), (224, 224, 192), (230, 159, 0)):
            assert has_color(legend, color)

    def test_probabilities_are_drawn_as_their_classes(self):
        image, before, after = scene()
        stacks = [np.stack([~mask, mask]) * 0.6 + 0.2 for mask in (before, after)]
        drawn = change_figure(image, *stacks, side=SIDE)
        expected = change_figure(image, before.astype(int), after.astype(int), side=SIDE)
        assert drawn.tobytes() == expected.tobytes()

    def test_many_classes_share_the_last_color(self):
        image = np.zeros((16, 240, 3), np.uint8)
        labels = np.arange(240)[None].repeat(16, axis=0) // 8  # 30 classes
        figure = change_figure(image, labels, np.roll(labels, 1, axis=1), side=SIDE)
        assert has_color(np.asarray(figure)[-72:], (128, 128, 128))


class TestDetail:
    def test_shows_the_largest_change_pixel_by_pixel(self):
        image = np.random.default_rng(0).integers(0, 256, (2000, 2400, 3), dtype=np.uint8)
        before = np.zeros((2000, 2400), bool)
        after = before.copy()
        after[400:410, 300:310] = True  # small
        after[1500:1530, 2000:2031] = True  # large
        drawn = np.asarray(change_figure(image, before, after, side=SIDE))
        top = TOP + 200 + GAP + TOP  # the whole image is 240 x 200
        detail = drawn[top : top + SIDE, GAP : GAP + SIDE]
        ys, xs = np.nonzero((drawn[top:] == (86, 180, 233)).all(axis=2)[:SIDE])
        assert (len(ys), np.ptp(ys) + 1, np.ptp(xs) + 1) == (30 * 31, 30, 31)
        left = 2000 - (int(xs.min()) - 2 * (SIDE + GAP) - GAP)
        corner = 1500 - int(ys.min())
        np.testing.assert_array_equal(detail, image[corner : corner + SIDE, left : left + SIDE])
        assert abs(corner + SIDE // 2 - 1515) <= 1
        assert abs(left + SIDE // 2 - 2015) <= 1

    def test_a_thin_change_shows_in_a_large_image(self):
        """One pixel of 400 in a panel's pixel."""
        image = np.zeros((4800, 4800, 3), np.uint8)
        before = np.zeros((4800, 4800), bool)
        after = before.copy()
        after[2410, 2410] = True
        *_, changed = panels(change_figure(image, before, after, side=SIDE), 240, 240)
        assert changed[120, 120, 2] > 80
        assert (changed[100, 100] == 20).all()

    def test_frames_lie_over_the_change(self):
        image, before, after = scene(1200, 1600)
        *_, changed = panels(change_figure(image, before, after, side=SIDE), 180, 240)
        assert has_color(changed, (255, 255, 255))

    def test_no_detail_of_no_change(self):
        image, before, _ = scene(1200, 1600)
        figure = change_figure(image, before, before, side=SIDE)
        assert figure.height == TOP + 180 + GAP + 24 + GAP

    @pytest.mark.parametrize("size", [(1, 1), (7, 5), (3, 2000), (2000, 3), (301, 299), (481, 480)])
    def test_odd_sizes(self, size):
        image = np.zeros((*size, 3), np.uint8)
        after = np.zeros(size, bool)
        after[-1, -1] = True
        figure = change_figure(image, np.zeros(size, bool), after, side=SIDE)
        assert figure.width == 3 * SIDE + 4 * GAP
        assert figure.height <= 2 * (TOP + SIDE + GAP) + 24 + GAP
        assert has_color(figure, (86, 180, 233))


def seen(colors, kind):
    """Colors as people see them who lack one kind of cones (Viénot, Brettel, Mollon 1999)."""
    linear = (np.array(colors) / 255.0) ** 2.2
    to_cones = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    )
    lack = {
        "protan": [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]],
        "deutan": [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]],
    }[kind]
    cones = linear @ to_cones.T @ np.array(lack).T
    return 255 * (cones @ np.linalg.inv(to_cones).T).clip(0, 1) ** (1 / 2.2)


@pytest.mark.parametrize("kind", ["protan", "deutan"])
def test_colors_are_told_apart_by_color_blind_people(kind):
    colors = [*change._BASE, change._REMOVED, (65, 65, 65)]
    for first, second in itertools.combinations(seen(colors, kind), 2):
        assert np.linalg.norm(first - second) > 35
    # Red and green of the same look, which the test is for.
    confused = {"protan": [(200, 0, 0), (70, 70, 0)], "deutan": [(160, 60, 0), (70, 110, 0)]}
    red, green = seen(confused[kind], kind)
    assert np.linalg.norm(red - green) < 35


class TestErrors:
    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (np.zeros((9, 9), bool), np.zeros((9, 9), bool)),
            (np.zeros((24, 32), bool), np.zeros((24, 31), bool)),
            (np.zeros((2, 24, 32)), np.zeros((24, 32))),
        ],
    )
    def test_masks_that_do_not_fit(self, before, after):
        with pytest.raises(PnaError, match=r"must have the image's size \(24, 32\) \(H, W\) and"):
            change_figure(scene()[0], before, after)

    def test_image_and_side(self):
        image, before, after = scene()
        with pytest.raises(PnaError, match=r"^an image must be \(H, W, 3\)"):
            change_figure(image[..., 0], before, after)
        with pytest.raises(PnaError, match="^side must be at least 240 pixels, got 100"):
            change_figure(image, before, after, side=100)


def test_the_figure_is_rgb():
    assert isinstance(change_figure(*scene(), side=SIDE), Image.Image)
    assert change_figure(*scene(), side=SIDE).mode == "RGB"


def test_a_mask_over_its_image():
    image, mask, _ = scene()
    drawn = np.asarray(mask_figure(image, mask))
    assert drawn.shape == image.shape
    assert (drawn[0, 0] == 100).all()
    assert (drawn == 255).all(axis=2).any()
    figure = change_figure(image, mask, mask, side=SIDE)
    assert figure.size[0] > drawn.shape[1]
    with pytest.raises(PnaError, match="expected a mask of"):
        mask_figure(image, mask[:5])
