import numpy as np
import pytest
import torch
from PIL import Image

from pna.draw import (
    Entry,
    contact_sheet,
    legend,
    overlay,
    save_labels,
    similarity_figure,
    strip,
    text,
)
from pna.draw.text import drawable, fit_text, text_width
from pna.errors import PnaError
from pna.labels import IGNORE_COLOR, VOC, LabelSpace
from pna.model.segmenter import StageSimilarity


def scene(height=60, width=80):
    image = np.full((height, width, 3), 100, dtype=np.uint8)
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[height // 3 : 2 * height // 3, width // 4 : width // 2] = 15
    return image, labels


def has_color(image, color):
    return bool((np.asarray(image) == color).all(axis=-1).any())


class TestSaveLabels:
    def test_round_trip(self, tmp_path):
        _, labels = scene()
        labels[0, 0] = 255
        save_labels(labels, VOC, tmp_path / "a.png")
        with Image.open(tmp_path / "a.png") as image:
            assert image.mode == "P"
            assert np.array_equal(np.array(image), labels)
            rgb = np.array(image.convert("RGB"))
        assert tuple(rgb[0, 0]) == IGNORE_COLOR
        assert tuple(rgb[30, 30]) == VOC.colors[15]

    def test_leaves_nothing_else_behind(self, tmp_path):
        _, labels = scene()
        save_labels(labels, VOC, tmp_path / "a.png")
        save_labels(labels, VOC, tmp_path / "a.png")
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

    def test_unknown_class(self, tmp_path):
        labels = np.full((2, 2), 21, dtype=np.uint8)
        with pytest.raises(PnaError, match=r"^labels must lie in \[0, 21\).*voc2012, got \[21\]"):
            save_labels(labels, VOC, tmp_path / "a.png")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("labels", [np.zeros((2, 2), np.int64), np.zeros((2, 2, 3), np.uint8)])
    def test_not_a_map(self, tmp_path, labels):
        with pytest.raises(PnaError, match=r"^labels must be an \(H, W\) uint8 map"):
            save_labels(labels, VOC, tmp_path / "a.png")


class TestOverlay:
    def test_blends_class_and_leaves_black_classes_alone(self):
        image, labels = scene()
        drawn = np.asarray(overlay(image, labels, VOC, alpha=0.5))
        expected = np.rint(50 + 0.5 * np.array(VOC.colors[15]))
        assert drawn.shape == image.shape
        assert np.array_equal(drawn[30, 30], expected)
        assert np.array_equal(drawn[2, 2], image[2, 2])

    def test_lines_are_one_pixel_thin(self):
        image = np.zeros((4, 6, 3), dtype=np.uint8)
        labels = np.zeros((4, 6), dtype=np.uint8)
        labels[:, 3:] = 1
        bright = np.asarray(overlay(image, labels, VOC)).min(axis=2) > 150
        assert bright.sum(axis=1).tolist() == [1, 1, 1, 1]

    def test_bands_do_not_show(self):
        """Taller than the rows that are blended at once: the same as an image upside down."""
        rng = np.random.default_rng(0)
        labels = np.repeat(rng.integers(0, 21, (1100, 1), dtype=np.uint8), 3, axis=1)
        image = np.zeros((1100, 3, 3), dtype=np.uint8)
        drawn = np.asarray(overlay(image, labels, VOC, alpha=0.0))
        changes = labels[:-1] != labels[1:]
        assert np.array_equal(drawn[:-1].any(axis=2), changes)  # a line wherever classes change
        assert not drawn[-1].any()

    def test_no_line_in_a_uniform_map(self):
        image, labels = scene()
        drawn = np.asarray(overlay(image, np.zeros_like(labels), VOC))
        assert np.array_equal(drawn, image)

    def test_opaque_shows_the_ignore_color(self):
        image, labels = scene()
        drawn = np.asarray(overlay(image, np.full_like(labels, 255), VOC, alpha=1))
        assert tuple(drawn[5, 5]) == IGNORE_COLOR

    @pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1)])
    def test_tiny(self, size):
        image = np.zeros((*size, 3), dtype=np.uint8)
        drawn = overlay(image, np.zeros(size, dtype=np.uint8), VOC)
        assert drawn.size == (size[1], size[0])

    def test_errors(self):
        image, labels = scene()
        with pytest.raises(PnaError, match="^image and labels must have the same size"):
            overlay(image[:-1], labels, VOC)
        with pytest.raises(PnaError, match="^alpha must be in"):
            overlay(image, labels, VOC, alpha=1.5)
        with pytest.raises(PnaError, match=r"^an image must be \(H, W, 3\) uint8 RGB"):
            overlay(image / 255, labels, VOC)


class TestLegend:
    def test_shows_each_color(self):
        image = legend(VOC, [1, 15, 255], width=400)
        assert image.width == 400
        assert has_color(image, VOC.colors[1])
        assert has_color(image, VOC.colors[15])
        assert has_color(image, IGNORE_COLOR)
        assert not has_color(image, VOC.colors[2])

    def test_wraps(self):
        wide = legend(VOC, range(21), width=3000)
        narrow = legend(VOC, range(21), width=200)
        assert narrow.height > 5 * wide.height
        assert all(has_color(narrow, color) for color in VOC.colors)

    def test_nothing_present(self):
        assert legend(VOC, [], width=100).width == 100

    def test_long_names_are_cut(self):
        assert fit_text("short", 200, 14) == "short"
        cut = fit_text("a name that is far too long for this", 80, 14)
        assert cut.endswith("...")
        assert text_width(cut, 14) <= 80


def drawn(letter):
    """The pixels of a letter."""
    image = Image.new("RGB", (60, 60))
    text.write(image, letter, (30, 30), 20)
    return image.tobytes()


class TestLetters:
    def test_different_letters_are_drawn_differently(self):
        """With a font of the system or of matplotlib; each would be the same box without one."""
        letters = "éüßñøłçжλ"
        assert drawable(letters) == letters
        assert len({drawn(letter) for letter in letters}) == len(letters)

    def test_letters_of_no_font_are_written_out(self, monkeypatch):
        monkeypatch.setattr(text, "_other_fonts", lambda: ())
        with pytest.warns(
            UserWarning, match="^no font on this machine has all letters of 'Türe 中'"
        ):
            assert drawable("Türe 中") == "Ture \\u4e2d"
        with pytest.warns(UserWarning, match="install the DejaVu or Noto fonts"):
            assert fit_text("é", 100, 14) == "e"

    def test_composed_and_decomposed_letters_are_one(self):
        assert drawable("e\u0301") == "é"

    @pytest.mark.parametrize("name", ["two\nlines", "tab\t", "\x00", "\udcff.png", "\u2028"])
    def test_what_is_no_letter_is_written_out(self, name):
        line = fit_text(name, 500, 14)
        assert line.isascii()
        assert "\\" in line

    def test_a_legend_of_any_names(self):
        names = ("Straße", "железо", "γη", "[bold]")
        space = LabelSpace("own", names, ((1, 0, 0), (2, 0, 0), (3, 0, 0), (4, 0, 0)))
        image = legend(space, range(4), width=600)
        assert image.height == 24
        assert all(has_color(image, color) for color in space.colors)


class TestStrip:
    def test_one_column_a_map(self):
        image, labels = scene()
        two = strip(image, [("P0", labels), ("P1", labels)], VOC)
        three = strip(image, [("P0", labels), ("P1", labels)], VOC, truth=labels)
        assert three.width - two.width == 200 + 10  # one panel and its gap

    def test_legend_names_classes_of_any_panel(self):
        image, labels = scene()
        other = np.full_like(labels, 3)
        image = strip(image, [("P0", labels), ("P1", other)], VOC)
        below = np.asarray(image)[-34:]
        assert has_color(below, VOC.colors[3])
        assert has_color(below, VOC.colors[15])

    def test_large_images_are_scaled_down(self):
        image, labels = scene(900, 1200)
        image = strip(image, [("P0", labels)], VOC, panel_size=300)
        assert image.width == 2 * 300 + 3 * 10
        assert image.height < 330

    @pytest.mark.parametrize("size", [(1, 1), (7, 5), (3, 2000), (2000, 3)])
    def test_odd_sizes(self, size):
        image = strip(*_pair(size), VOC)
        assert image.width <= 2 * 400 + 30
        assert image.height <= 400 + 100

    def test_errors(self):
        image, labels = scene()
        with pytest.raises(PnaError, match="^the label map 'P0' must have the image's size"):
            strip(image, [("P0", labels[:-1])], VOC)
        with pytest.raises(PnaError, match="^panel_size must be at least 200"):
            strip(image, [("P0", labels)], VOC, panel_size=10)


def _pair(size):
    labels = np.zeros(size, dtype=np.uint8)
    return np.zeros((*size, 3), dtype=np.uint8), [("P0", labels)]


def similar(stage=1, stride=8, rows=(0, 5), cols=(2, 7), row=2, col=4, hot=(0, 0)):
    weights = torch.zeros(2, rows[1] - rows[0], cols[1] - cols[0])
    weights[:, hot[0], hot[1]] = 1
    return StageSimilarity(stage, stride, row, col, rows, cols, weights)


class TestSimilarity:
    def test_heat_is_where_the_weight_is(self):
        image = np.full((64, 96, 3), 128, dtype=np.uint8)
        image = np.asarray(similarity_figure(image, (35, 20), [similar(hot=(4, 4))]))
        panel = image[30 + 4 : 30 + 324, -12 - 324 : -12 - 4]  # without title, border and margin
        cells = panel.reshape(5, 64, 5, 64, 3).mean(axis=(1, 3, 4))
        assert np.unravel_index(cells.argmax(), cells.shape) == (4, 4)

    def test_a_cell_that_keeps_nearly_all_does_not_hide_its_neighbors(self):
        image = np.full((64, 96, 3), 128, dtype=np.uint8)
        plain, greedy = similar(hot=(4, 4)), similar(hot=(4, 4))
        for found, own in ((plain, 0.5), (greedy, 0.99)):
            found.weights[:, 4, 4] = 1 - own
            found.weights[:, 2, 2] = own
        panels = [np.asarray(similarity_figure(image, (35, 20), [s])) for s in (plain, greedy)]
        below_titles = [panel[30:] for panel in panels]
        assert np.array_equal(*below_titles)

    def test_heads_are_averaged(self):
        image = np.full((64, 96, 3), 128, dtype=np.uint8)
        both = similar(hot=(1, 1))
        both.weights[1] = both.weights[1].flip(0, 1)
        mean = both._replace(weights=both.weights.mean(0, keepdim=True))
        drawn = [np.asarray(similarity_figure(image, (35, 20), [one])) for one in (both, mean)]
        assert np.array_equal(drawn[0], drawn[1])

    def test_one_panel_a_stage(self):
        image = np.zeros((64, 96, 3), dtype=np.uint8)
        one = similarity_figure(image, (35, 20), [similar()])
        two = similarity_figure(image, (35, 20), [similar(), similar(stage=2, stride=4)])
        assert two.width > one.width + 300
        assert two.height == one.height

    def test_window_may_hang_over_a_padded_image(self):
        image = np.zeros((20, 30, 3), dtype=np.uint8)  # a model with stride 32 pads it to 32x32
        found = similar(stride=32, rows=(0, 1), cols=(0, 1), row=0, col=0)
        assert similarity_figure(image, (29, 19), [found]).height > 300

    def test_single_pixel(self):
        image = np.zeros((1, 1, 3), dtype=np.uint8)
        found = similar(stride=4, rows=(0, 8), cols=(0, 8), row=0, col=0)
        assert similarity_figure(image, (0, 0), [found]).width > 600

    def test_errors(self):
        image = np.zeros((20, 30, 3), dtype=np.uint8)
        with pytest.raises(
            PnaError, match=r"^the pixel \(30, 0\) lies outside the image of 30 x 20"
        ):
            similarity_figure(image, (30, 0), [similar()])
        with pytest.raises(PnaError, match="^there are no stages to draw"):
            similarity_figure(image, (0, 0), [])


class TestContactSheet:
    def test_each_image_stands_above_its_overlay(self):
        sheet = contact_sheet([Entry("one", *scene(60, 80))], VOC, tile=160)
        drawn = np.asarray(sheet)
        assert sheet.width == 160 + 2 * 10
        gray = (drawn == 100).all(axis=-1).sum(axis=1)  # the image is gray, so is background
        assert gray.max() == 160
        assert len(np.flatnonzero(gray > 100)) > 200  # rows of image and of overlay
        blended = np.rint(50 + 0.5 * np.array(VOC.colors[15]))
        assert has_color(sheet, blended)
        assert has_color(sheet, VOC.colors[15])  # in the legend

    def test_rows_are_filled_and_keep_the_aspect(self):
        entries = [Entry(str(number), *scene(40, 20 + 20 * number)) for number in range(5)]
        sheet = contact_sheet(entries, VOC, columns=2, tile=100)
        assert sheet.width == 2 * 100 + 3 * 10
        assert sheet.height > 3 * 2 * 40
        wide = contact_sheet(entries, VOC, columns=8, tile=100)
        assert wide.width == 5 * 100 + 6 * 10

    @pytest.mark.parametrize("size", [(1, 1), (1, 900), (2448, 3)])
    def test_any_size(self, size):
        assert contact_sheet([Entry("odd", *scene(*size))], VOC, tile=50).width == 70

    def test_long_titles_are_cut(self):
        assert contact_sheet([Entry("x" * 500, *scene())], VOC, tile=80).width == 100

    @pytest.mark.parametrize(
        ("entries", "message"),
        [
            ([], "a contact sheet needs images, got none"),
            (
                [Entry("a", scene()[0], scene(9, 9)[1])],
                "the label map 'a' must have the image's size",
            ),
            ([Entry("a", scene()[1], scene()[1])], "an image must be"),
        ],
    )
    def test_what_does_not_fit(self, entries, message):
        with pytest.raises(PnaError, match=rf"^{message}"):
            contact_sheet(entries, VOC)
