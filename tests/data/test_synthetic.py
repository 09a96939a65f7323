from functools import partial

import numpy as np
import pytest
from PIL import Image

from pna.data.camvid import UNLABELED
from pna.data.synthetic import (
    draw_scene,
    write_camvid,
    write_cityscapes,
    write_cocostuff10k,
    write_damage,
    write_deepglobe,
    write_folder,
    write_trans10k,
    write_voc,
)
from pna.labels import DAMAGE, IGNORE_INDEX, VOC, generic

SIZE = (24, 32)


def contents(root):
    files = sorted(file for file in root.rglob("*") if file.is_file())
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    "write",
    [
        write_voc,
        write_camvid,
        write_damage,
        write_cityscapes,
        write_cocostuff10k,
        write_trans10k,
        pytest.param(partial(write_deepglobe, splits=["test"]), id="write_deepglobe"),
        pytest.param(partial(write_voc, augmented="mat"), id="write_voc with SBD"),
        pytest.param(partial(write_folder, labels=generic(4)), id="write_folder"),
    ],
)
def test_the_seed_decides_every_byte(tmp_path, write):
    first, again, other = (
        contents(write(tmp_path / str(i), size=SIZE, seed=seed)) for i, seed in enumerate((0, 0, 1))
    )
    assert first == again
    assert first.keys() == other.keys()
    assert first != other


def test_a_scene_shows_its_classes():
    image, labels = draw_scene(VOC, (96, 128), np.random.default_rng(0))
    assert image.shape == (96, 128, 3)
    assert labels.shape == (96, 128)
    present = np.unique(labels)
    assert len(present) >= 3
    shift = image[labels == present[-1]].mean(0) - image[labels == 0].mean(0)
    assert np.corrcoef(shift, VOC.colors[present[-1]])[0, 1] > 0.9


def test_void_outlines_the_shapes():
    _, labels = draw_scene(VOC, (96, 128), np.random.default_rng(0), has_void=True)
    assert 0 < (labels == IGNORE_INDEX).mean() < 0.2


def test_one_class_is_enough():
    _, labels = draw_scene(generic(1), SIZE, np.random.default_rng(0))
    assert not labels.any()


def test_masks_are_stored_as_the_owners_store_them(tmp_path):
    voc = write_voc(tmp_path / "v", size=SIZE) / "VOCdevkit/VOC2012/SegmentationClass"
    camvid = write_camvid(tmp_path / "c", size=SIZE) / "trainannot"
    damage = write_damage(tmp_path / "d", size=SIZE) / "masks"
    with Image.open(next(voc.iterdir())) as mask:
        assert mask.mode == "P"
        assert mask.getpalette() == VOC.palette()
    with Image.open(next(camvid.iterdir())) as mask:
        assert mask.mode == "L"
        assert UNLABELED in np.array(mask)
    with Image.open(next(damage.iterdir())) as mask:
        assert mask.mode == "RGB"
        colors = np.unique(np.array(mask).reshape(-1, 3), axis=0)
        assert {tuple(color) for color in colors.tolist()} <= set(DAMAGE.colors)
