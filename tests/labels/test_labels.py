import json
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pna.errors import MissingFileError, PnaError
from pna.labels import (
    CAMVID,
    CITYSCAPES,
    COCO_STUFF,
    DAMAGE,
    DEEPGLOBE,
    IGNORE_COLOR,
    IGNORE_INDEX,
    LABEL_SPACES,
    TRANS10K,
    VOC,
    LabelSpace,
    generic,
    out_of_range,
    read_label_space,
    voc_color,
)
from pna.labels.coco_stuff import OWNERS_LABELS

RED_BLUE = LabelSpace("two", ("red", "blue"), ((255, 0, 0), (0, 0, 255)))


@pytest.mark.parametrize(
    ("space", "num_classes"),
    [
        (VOC, 21),
        (CAMVID, 11),
        (DAMAGE, 5),
        (CITYSCAPES, 19),
        (COCO_STUFF, 171),
        (DEEPGLOBE, 6),
        (TRANS10K, 3),
    ],
)
def test_known_label_spaces(space, num_classes):
    assert space.num_classes == num_classes
    assert LABEL_SPACES[space.name] is space
    assert space.scored == ((1, 2) if space is TRANS10K else tuple(range(num_classes)))


def test_coco_stuff_has_the_owners_labels():
    owners = dict(zip(COCO_STUFF.classes, OWNERS_LABELS, strict=True))
    known = {"person": 1, "stop sign": 13, "toilet": 70, "toothbrush": 90, "banner": 92}
    known |= {"floor-wood": 118, "playingfield": 145, "tree": 169, "wood": 182}
    assert known.items() <= owners.items()
    assert not {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91} & {*OWNERS_LABELS}


def test_a_label_space_is_found_by_name_or_file(tmp_path, monkeypatch):
    assert read_label_space("camvid") is CAMVID
    (tmp_path / "own.json").write_text(json.dumps(RED_BLUE.to_dict()))
    assert read_label_space(str(tmp_path / "own.json")) == RED_BLUE
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_label_space("~/own.json") == RED_BLUE


def test_a_label_space_that_is_not_there_or_none_is_named(tmp_path):
    with pytest.raises(
        MissingFileError, match=r"^own\.json: expected the JSON file .*voc2012, cam"
    ):
        read_label_space("own.json")
    contents = {
        "{": "Expecting property name",
        '["red", "blue"]': "a label space is a mapping with the keys .*, got a list",
        '{"name": "x"}': "a label space has the keys",
        '{"name": "x", "classes": null, "colors": []}': "label space 'x': classes are a sequence",
        '{"name": "x", "classes": [], "colors": []}': "label space 'x': expected 1 to 255",
        '{"name": "x", "classes": ["a"], "colors": [["0", "0", "0"]]}': ".*class 'a': color",
    }
    for content, message in contents.items():
        file = tmp_path / "own.json"
        file.write_text(content)
        beginning = re.escape(str(file))
        with pytest.raises(PnaError, match=f"^{beginning}: expected the JSON of .*: {message}"):
            read_label_space(file)


def test_files_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "own.json").write_text(json.dumps(RED_BLUE.to_dict()), encoding="utf-8-sig")
    (tmp_path / "labelmap.txt").write_text("red:255,0,0::\n", encoding="utf-8-sig")
    assert read_label_space(tmp_path / "own.json") == RED_BLUE
    assert read_label_space(tmp_path / "labelmap.txt").classes == ("red",)


class TestLabelmap:
    """CVAT's list of labels, as its exports of segmentation masks hold it."""

    def test_classes_and_colors_are_read_in_order(self, tmp_path):
        (tmp_path / "labelmap.txt").write_text(
            "# label:color_rgb:parts:actions\r\nbackground:0,0,0::\r\n"
            "road: wet:128,64,128:left,right:\r\n\r\nignored:224,224,192::\r\ncar:1,2,3\r\n"
        )
        space = read_label_space(tmp_path / "labelmap.txt")
        assert space.name == "labelmap"
        assert space.classes == ("background", "road: wet", "car")
        assert space.colors == ((0, 0, 0), (128, 64, 128), (1, 2, 3))

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("car", "line 2: expected name:red,green,blue:parts:actions, got 'car'"),
            ("car:::", "line 2: expected name:red,green,blue"),
            ("car:300,0,0::", "label space 'labelmap': class 'car': color"),
            ("back:1,1,1::", r"label space 'labelmap': class names repeat: \['back'\]"),
        ],
    )
    def test_a_line_that_is_none_is_named(self, tmp_path, line, message):
        file = tmp_path / "labelmap.txt"
        file.write_text(f"back:0,0,0::\n{line}\n")
        expected = f"^{re.escape(str(file))}: expected the lines of a labelmap.txt: {message}"
        with pytest.raises(PnaError, match=expected):
            read_label_space(file)


def test_voc_has_the_colors_of_the_devkit():
    colors = dict(zip(VOC.classes, VOC.colors, strict=True))
    assert colors["aeroplane"] == (128, 0, 0)
    assert colors["cat"] == (64, 0, 0)
    assert colors["person"] == (192, 128, 128)
    assert colors["tvmonitor"] == (0, 64, 128)
    assert voc_color(255) == IGNORE_COLOR


def test_palette_holds_every_color_and_the_ignore_color():
    entries = np.array(VOC.palette()).reshape(256, 3)
    assert [tuple(color) for color in entries[:21]] == list(VOC.colors)
    assert tuple(entries[IGNORE_INDEX]) == IGNORE_COLOR
    assert not entries[21:255].any()


@given(num_classes=st.integers(1, 255), data=st.data())
def test_colors_survive_a_round_trip(num_classes, data):
    space = generic(num_classes)
    values = [*range(num_classes), IGNORE_INDEX]
    flat = data.draw(st.lists(st.sampled_from(values), min_size=6, max_size=6))
    labels = np.array(flat, dtype=np.uint8).reshape(2, 3)
    encoded = space.encode_colors(space.decode(labels))
    assert encoded.dtype == np.uint8
    np.testing.assert_array_equal(encoded, labels)


def test_dict_round_trip_through_json():
    space = LabelSpace("three", ("a", "b", "c"), ((0, 0, 0), (1, 1, 1), (2, 2, 2)), scored=(1, 2))
    assert LabelSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_scored_may_be_left_out_of_a_dict():
    entries = RED_BLUE.to_dict()
    del entries["scored"]
    assert LabelSpace.from_dict(entries).scored == (0, 1)


def test_a_dict_with_an_unknown_key_is_an_error():
    with pytest.raises(PnaError, match=r"^a label space has the keys .*got .*'hues'"):
        LabelSpace.from_dict({"name": "x", "classes": ["a"], "hues": [[0, 0, 0]]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 7}, "a label space's name is a string, got 7"),
        ({"classes": ()}, "label space 'two': expected 1 to 255 classes"),
        ({"classes": "red"}, "label space 'two': classes are a sequence of names, got 'red'"),
        ({"classes": None}, "label space 'two': classes are a sequence of names, got None"),
        ({"classes": (0, 1)}, "label space 'two': class names are strings, got 0 of type int"),
        ({"classes": ("red", "wet\nroad")}, r"label space 'two': class name 'wet\\nroad' is empty"),
        ({"classes": ("red", " ")}, "label space 'two': class name ' ' is empty"),
        ({"classes": ("red", "red")}, "label space 'two': class names repeat: \\['red'\\]"),
        ({"colors": 3}, "label space 'two': colors are a sequence of colors, got 3"),
        ({"colors": ((255, 0, 0),)}, "label space 'two': expected one color .* got 1 colors for 2"),
        ({"colors": ((255, 0, 0), (255, 0, 0))}, "label space 'two': color .* 'blue' is taken"),
        ({"colors": ((255, 0, 0), IGNORE_COLOR)}, "label space 'two': color .* 'blue' is taken"),
        ({"colors": ((255, 0, 0), (0, 0, 256))}, "label space 'two': class 'blue': color .* not"),
        ({"colors": ((255, 0, 0), (0, 0))}, "label space 'two': class 'blue': color .* not three"),
        ({"colors": ((255, 0, 0), (0, 0, 1.0))}, ".* class 'blue': .*; scale fractions to whole"),
        ({"colors": ((255, 0, 0), ("0", "0", "9"))}, ".* class 'blue': color .* not three numbers"),
        ({"colors": ((255, 0, 0), "#00f")}, ".* class 'blue': color '#00f' is not three numbers"),
        ({"colors": ((255, 0, 0), 7)}, "label space 'two': class 'blue': color 7 is not three"),
        ({"scored": (0, 2)}, "label space 'two': scored must be ascending"),
        ({"scored": (1, 0)}, "label space 'two': scored must be ascending"),
        ({"scored": (1, 1)}, "label space 'two': scored must be ascending"),
        ({"scored": 1}, "label space 'two': scored must be ascending, .* got 1"),
        ({"scored": (0.5,)}, "label space 'two': scored must be ascending"),
    ],
)
def test_parts_that_do_not_fit_are_an_error(changes, message):
    parts = {"name": "two", "classes": RED_BLUE.classes, "colors": RED_BLUE.colors, **changes}
    with pytest.raises(PnaError, match=f"^{message}"):
        LabelSpace(**parts)


@pytest.mark.parametrize(
    "colors",
    [
        np.array([[255, 0, 0], [0, 0, 255]]),
        tuple(map(tuple, np.array([[255, 0, 0], [0, 0, 255]], dtype=np.uint8))),
        [[255, 0, 0], [0, 0, 255]],
        ["#ff0000", "#0000FF"],
        ((255, 0, 0), "#0000ff"),
    ],
)
def test_colors_are_taken_as_people_have_them(colors):
    """Kept as plain integers, so that the space is equal, hashable and goes into JSON."""
    space = LabelSpace("two", ["red", "blue"], colors, np.array([1]))
    assert space == LabelSpace("two", RED_BLUE.classes, RED_BLUE.colors, (1,))
    assert hash(space) == hash(LabelSpace("two", RED_BLUE.classes, RED_BLUE.colors, (1,)))
    assert LabelSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_names_may_hold_any_printable_sign():
    names = ("road [wet]", "a|b", "[/]", "straße", "道路", "$x$")
    space = LabelSpace("odd", names, [voc_color(index) for index in range(len(names))])
    assert space.classes == names


def test_generic_names_say_nothing():
    assert generic(3).is_generic
    assert not RED_BLUE.is_generic


def test_more_classes_than_a_label_can_hold_is_an_error():
    with pytest.raises(PnaError, match="^label space 'generic-256': expected 1 to 255 classes"):
        generic(256)


def test_an_unknown_color_is_named_with_its_count_and_source():
    rgb = np.zeros((4, 5, 3), dtype=np.uint8)
    rgb[:] = (255, 0, 0)
    rgb[0, :3] = (254, 0, 0)
    with pytest.raises(PnaError, match=r"^a\.png: unknown colors: \(254, 0, 0\) at 3 pixels"):
        RED_BLUE.encode_colors(rgb, source="a.png")


def test_another_color_may_be_ignored_too():
    rgb = np.array([[(255, 0, 0), (9, 9, 9), IGNORE_COLOR]], dtype=np.uint8)
    assert RED_BLUE.encode_colors(rgb, ignore=(9, 9, 9)).tolist() == [[0, 255, 255]]


def test_many_unknown_colors_are_summed_up():
    rgb = np.arange(5 * 3, dtype=np.uint8).reshape(1, 5, 3)
    with pytest.raises(PnaError, match="^color mask: unknown colors: .* and 2 more; label space"):
        RED_BLUE.encode_colors(rgb)


@pytest.mark.parametrize("value", [2, 254, -1])
def test_decoding_a_label_that_is_no_class_is_an_error(value):
    with pytest.raises(PnaError, match=rf"^labels \[{value}\] are no classes"):
        RED_BLUE.decode(np.array([[0, value]]))


def test_out_of_range_lists_values_once_and_spares_the_ignored():
    assert out_of_range(np.array([0, 4, 7, 4, IGNORE_INDEX]), 4) == [4, 7]


def test_import_needs_the_standard_library_only():
    code = "import sys; sys.modules['numpy'] = None; import pna.labels; print(pna.labels.VOC.name)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "voc2012"
