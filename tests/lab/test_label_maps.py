"""Label maps refined and scored (`benchmarks/label_maps.py`)."""

import label_maps
import pytest
from PIL import Image

from pna.cli.demo import IMAGES
from pna.data import DataError
from pna.data.synthetic import write_voc


def test_all_ways_are_scored_on_the_same_images(tmp_path):
    root = write_voc(tmp_path, size=(192, 288))
    with Image.open(IMAGES / "photos" / "cat.jpg") as photo:
        for path in root.rglob("*.jpg"):
            photo.resize((288, 192)).save(path)
    result = label_maps.score("voc2012", "voc-lite", root, 2)
    assert (result["model"], result["images"]) == ("voc-lite", 2)
    rows = result["scores"]
    assert list(rows) == list(label_maps.WAYS)
    assert rows["P0"]["changed"] == rows["result"]["changed"] == 0
    changed = [rows[f"P0, strength {s:g}"]["changed"] for s in label_maps.STRENGTHS]
    assert changed == sorted(changed)
    assert changed[-1] > 0
    for row in rows.values():
        assert 0 <= row["miou"] <= 1

    page = label_maps.table({"voc2012": result})
    assert page.count("\n| ") == 1 + 1 + len(label_maps.WAYS)
    miou = 100 * rows["probabilities, dense CRF"]["miou"]
    assert f"| probabilities, dense CRF | {miou:.1f} |" in page


def test_an_unknown_set(tmp_path):
    with pytest.raises(DataError, match="cats"):
        label_maps.score("cats", "voc-lite", tmp_path, 2)
